"""Package that the API, worker, CLI and client share.

It holds invocations, outcomes, functions, jobs and their records in Redis, and imports neither
`api` nor `worker`.
"""
