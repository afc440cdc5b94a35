"""The contract that API, worker, CLI and client share.

Knows: invocations, outcomes, functions, jobs and their records in Redis. Does not know: HTTP routes, processes, sandboxes.
"""
