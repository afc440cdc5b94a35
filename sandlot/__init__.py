"""Package that the API, worker, CLI and client share: invocations, outcomes, functions, jobs and
their records in Redis.

It imports neither `api` nor `worker`.
"""
