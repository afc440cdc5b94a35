"""Dependency builds.

Dependencies are resolved once, in a sandbox, into a lock with hashes. Each machine builds the lock
once, also in a sandbox.
"""
