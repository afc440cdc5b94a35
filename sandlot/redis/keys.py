"""Every name that Sandlot uses in Redis: RQ's own (rq 3.0) and Sandlot's beside them.

The scripts get the same names as Lua locals, so that each is written down once. Scripts build keys
from these prefixes, which Redis Cluster does not allow (EVAL, redis.io): Sandlot runs on one
primary, with replicas if needed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

# RQ 3.0 (rq/job.py, queue.py, registry.py, results.py, worker_registration.py).
JOB: Final = "rq:job:"
QUEUE: Final = "rq:queue:"
QUEUES: Final = "rq:queues"
"""set: the keys of the queues, with their prefix."""
STARTED: Final = "rq:wip:"
FINISHED: Final = "rq:finished:"
FAILED: Final = "rq:failed:"
CANCELED: Final = "rq:canceled:"
SCHEDULED: Final = "rq:scheduled:"
RESULTS: Final = "rq:results:"
RQ_WORKER: Final = "rq:worker:"
RQ_WORKERS: Final = "rq:workers"

# Sandlot's: the engine.
SCHEMA: Final = "sandlot:schema"
"""string: the number of this layout (`sandlot.redis.schema`)."""
LIVE: Final = "sandlot:live:"
"""`+ id:attempt`, string: the output of a running attempt so far; exists only while it has a
follower."""
INDEX: Final = "sandlot:jobs-of:"
"""`+ queue`, zset: the ids of its kept jobs, all with score 0; ids sort by creation."""
RING: Final = "sandlot:ring:"
"""`+ placement`, zset: queues with work, by turn; the lowest is served next."""
TURN: Final = "sandlot:turn"
"""counter: the last turn that was given out."""
CAPS: Final = "sandlot:caps"
"""hash queue -> how many of its jobs may run at once."""
CAPPED: Final = "sandlot:capped"
"""set: queues with work that have reached their cap; outside the ring until one of their jobs
ends."""
DEPTH: Final = "sandlot:depth"
"""counter: the jobs in all queues together."""
ENDED: Final = "sandlot:ended"
"""counter: the jobs that have ended since the beginning; two samples give the rate."""
END_HISTORY: Final = "sandlot:drained"
"""list of `<ms> <ENDED>`, one a second, newest first: the recent rate at which jobs end."""
CLAIM_HISTORY: Final = "sandlot:taken:"
"""`+ queue`, list of `<ms> <claims>`: the claims since the queue was last empty, newest first: the
recent rate at which its places come free."""
RESERVATIONS: Final = "sandlot:promised"
"""hash queue (or `*` for all together) -> the ms until which free places are reserved for callers
that were refused and got a Retry-After."""
LEASES: Final = "sandlot:leases"
"""zset `<job>:<attempt>` -> the ms at which the lease expires."""
DUE: Final = "sandlot:due"
"""zset job -> the ms at which it is to be queued; an index over RQ's scheduled registries."""
REQUEUES: Final = "sandlot:requeues"
"""hash outcome kind -> how many attempts with that outcome were followed by another."""
DURABILITY: Final = "sandlot:durability"
"""string: written only to see whether Redis syncs it (`sandlot.redis.durability`)."""
DEAD_LETTERS: Final = "sandlot:dead-letters"
"""zset job -> the ms at which it ended, although its retry policy covers the outcome: its attempts
were used up, or it was too old."""
CALLBACKS: Final = "sandlot:callbacks"
"""zset job -> the ms at which its callback is due, or at which the lease of the worker that
delivers it expires."""
CALLBACK: Final = "sandlot:callback:"
"""`+ job`, hash: `order` (the callback request) and `end` (the outcome), both signed; `ended_ms`;
`take`, the fencing token; `tries`, and `status` and `reason` of the last; `body`, once it was sent;
`state`, once it is over: delivered or failed. Kept longer than its job."""
BREAKERS: Final = "sandlot:breakers"
"""hash queue -> `<until ms> <times>`: the breakers that are not closed. Until then none of the
queue's jobs is started; after that one at a time, until one has not crashed. Meanwhile CAPS has a
field `!queue` beside the queue's own: 0, then 1."""
CRASHES: Final = "sandlot:crashes:"
"""`+ queue`, list: the ms of its function's last crashes, newest first."""
IDEMPOTENCY: Final = "sandlot:idempotency:"
LOGS: Final = "sandlot:logs:"
RESULT: Final = "sandlot:result:"
"""`+ id:attempt`, hash 0, 1, … -> a chunk of a large result as the function returned it
(`sandlot.jobs.large_results`)."""
PARKED: Final = "sandlot:parked:"
"""`+ placement`, zset worker -> idle slots that a submit may fill by a hand-off."""
BEATS: Final = "sandlot:beats:"
"""`+ placement`, zset worker -> the ms of its last heartbeat."""
PLACEMENTS: Final = "sandlot:placements"
STATS: Final = "stats"
"""The field of a worker's hash that holds its counters (`sandlot.jobs.stats`)."""
WORKER: Final = "sandlot:worker:"
"""`+ worker`, hash: placements; `slots`, `busy` and `stats` as of its last heartbeat; `alive`,
until its jobs were taken back; `given`, the number of hand-offs; `step` and `claims`, the last step
and its claims."""
CANCELS: Final = "sandlot:cancels:"
"""`+ worker`, set: those of its jobs that were cancelled."""

# Sandlot's: the registry of functions (sandlot.functions) and of API keys (sandlot.api_keys).
FUNCTIONS: Final = "sandlot:functions"
"""zset, all scores 0: the names of all functions."""
FUNCTION: Final = "sandlot:function:"
"""`+ name`, hash: `last` and `latest` number; `revision`; `wanted`, the number that was requested
last; `a<alias>` JSON. Per version `g<number>` digest, `d<digest>` number and `v<number>` signed
record; instead of the record, `p<number>` while its dependencies are pending (and `f<number>`, the
reason, once they failed), or `r<number>` and `t<number>`, the ms, once it is retired."""
BUNDLE: Final = "sandlot:bundle-chunks:"
"""`+ digest`, hash 0, 1, … -> a compressed chunk of the packed manifest and files whose SHA-256 is
the digest."""
BUNDLE_USERS: Final = "sandlot:bundle-users:"
"""`+ digest`, set: the functions that have a version with this digest; without any, the bundle
expires."""
LOCK: Final = "sandlot:lock:"
"""`+ digest`, string: the signed, resolved dependencies of the version with this digest; kept as
long as its bundle."""
BUILDS: Final = "sandlot:builds:"
"""`+ placement`, zset digest of a version with unresolved dependencies -> the ms from which a
worker may claim it: the end of a lease, if it has one."""
BUILD: Final = "sandlot:build:"
"""`+ digest`, hash: `attempt`, the fencing token; `progress`, for display; `w<function>`, the
number of the version that waits for it."""
SCHEDULES: Final = "sandlot:schedules"
"""zset `<function> <time zone> <cron expression>` -> the ms of the last tick that fired, or at
which the schedule was first seen."""
API_KEYS: Final = "sandlot:api-keys"
"""hash key id -> record; secrets only as SHA-256."""
SECRETS: Final = "sandlot:secrets"
"""hash name -> sealed record (`sandlot.secret_store`)."""

# Channels.
FUNCTIONS_CHANGED: Final = "sandlot:functions:changed"
"""The name of each function that was deployed or deleted."""
BUILDS_CHANGED: Final = "sandlot:builds:changed"
"""The placement of each requested build."""
SECRETS_CHANGED: Final = "sandlot:secrets:changed"
"""The name of each secret that was set or removed."""
BREAKERS_CHANGED: Final = "sandlot:breakers:changed"
"""`+ queue` or `- queue`: its breaker opened or closed. `! percent`: this much of Redis's memory is
used, which is too much."""
CALLBACKS_DUE: Final = "sandlot:callbacks:due"
"""The id of each job whose callback is due."""
TO_WORKER: Final = "sandlot:to-worker:"
TO_WAITER: Final = "sandlot:to-waiter:"

# Sandlot's fields in RQ's job hash.
ENVELOPE: Final = "sl_envelope"
ATTEMPT: Final = "sl_attempt"
RELEASED: Final = "sl_released"
QUEUED_MS: Final = "sl_queued_ms"
STARTED_MS: Final = "sl_started_ms"
ENDED_MS: Final = "sl_ended_ms"
REPLY: Final = "sl_reply"
"""The channels to which the outcome is published, separated by spaces."""
CANCEL: Final = "sl_cancel"
CALLBACK_REQUEST: Final = "sl_callback"
"""The signed callback request (`sandlot.jobs.callbacks`)."""
FAILURE: Final = "sl_failure"
"""The signed outcome of the last attempt that was followed by another."""
KIND: Final = "sl_kind"
END: Final = "sl_end"
"""The signed outcome record."""


@lru_cache(maxsize=1024)
def queue_name(function: str, placement: str) -> str:
    """Return the RQ queue of a function's jobs, such as `hello@python`."""
    return f"{function}@{placement}"


def lua_locals() -> str:
    """Return every name above as a Lua local, on one line, so that line numbers in script errors
    stay true."""
    names = {name: value for name, value in globals().items() if name.isupper() and isinstance(value, str)}
    return f"local {','.join(names)}={','.join(repr(value) for value in names.values())} "
