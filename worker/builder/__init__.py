"""Dependencies: resolved once, in a sandbox, into a lock with hashes; built from the lock, in a sandbox, once per machine."""
