"""Every name Sandlot uses in Redis: RQ's own (rq 3.0) and ours beside them.

Knows: key names, channel names, names of hash fields. Does not know: what is done with them.
The scripts get the same names as Lua locals, so a name is written down once. Keys are built inside the scripts from
these prefixes, which Redis Cluster does not allow: Sandlot runs on one primary (with replicas if you like).
"""

from __future__ import annotations

from typing import Final

# RQ 3.0 (rq/job.py, queue.py, registry.py, results.py, worker_registration.py).
JOB: Final = "rq:job:"
QUEUE: Final = "rq:queue:"
QUEUES: Final = "rq:queues"
"""set of the queues' keys, prefix included."""
STARTED: Final = "rq:wip:"
FINISHED: Final = "rq:finished:"
FAILED: Final = "rq:failed:"
CANCELED: Final = "rq:canceled:"
SCHEDULED: Final = "rq:scheduled:"
RESULTS: Final = "rq:results:"
RQ_WORKER: Final = "rq:worker:"
RQ_WORKERS: Final = "rq:workers"

# Ours: the engine.
SCHEMA: Final = "sandlot:schema"
"""The number of this layout (sandlot.redis.schema)."""
LIVE: Final = "sandlot:live:"
"""`+ id:attempt`: what a running attempt has printed so far; only while somebody watches."""
INDEX: Final = "sandlot:jobs-of:"
"""`+ queue`: zset of the ids of its jobs that are kept, all with score 0: ids sort by when they were made."""
RING: Final = "sandlot:ring:"
"""`+ placement`: zset of queues that have work, by the turn they are due; the lowest is served next."""
TURN: Final = "sandlot:turn"
CAPS: Final = "sandlot:caps"
"""hash queue -> how many of its jobs may run at once."""
CAPPED: Final = "sandlot:capped"
"""set of queues that have work but no room under their cap; not in the ring until one of their jobs ends."""
DEPTH: Final = "sandlot:depth"
"""How many jobs all queues hold together."""
ENDED: Final = "sandlot:ended"
"""How many jobs have ended since the beginning; two samples give the rate."""
DRAINED: Final = "sandlot:drained"
"""list of `<ms> <ENDED>`, one a second, newest first: how fast jobs have ended of late."""
TAKEN: Final = "sandlot:taken:"
"""`+ queue`: list of `<ms> <how many>`, the claims from a queue since it was last empty, newest first: how fast its places come free."""
PROMISED: Final = "sandlot:promised"
"""hash queue (or `*`, all together) -> until when, in ms, the places that come free are meant for those who were refused and told to come back."""
LEASES: Final = "sandlot:leases"
"""zset `<job>:<attempt>` -> when the right to that attempt runs out, in ms."""
DUE: Final = "sandlot:due"
"""zset job -> when it is to be queued, in ms; the index over RQ's scheduled registries."""
REQUEUES: Final = "sandlot:requeues"
"""hash outcome kind -> how many attempts that ended so were followed by another."""
DURABILITY: Final = "sandlot:durability"
"""What is written only to see whether Redis syncs it (sandlot.redis.durability)."""
DEAD_LETTERS: Final = "sandlot:dead-letters"
"""zset job -> when it ended although it was to be run again, in ms: its attempts were used up, or it was too old."""
CALLBACKS: Final = "sandlot:callbacks"
"""zset job -> when its caller's URL is to be told of its end (again), in ms: the end of a lease, if a worker is about to."""
CALLBACK: Final = "sandlot:callback:"
"""`+ job`: hash `order` and `end`, both signed; `ended_ms`; `take`, its fencing token; `tries`, `status` and `reason` of the last of them;
`body`, once it was sent; `state`, once it is over: delivered or failed. Kept for longer than its job."""
BREAKERS: Final = "sandlot:breakers"
"""hash queue -> `<until ms> <times>`: whose function crashes too often. Until then none of its jobs is started; after it, one at a time,
until one has not crashed. While it is there, CAPS has a field `!queue` beside the queue's own: 0, then 1."""
CRASHES: Final = "sandlot:crashes:"
"""`+ queue`: list of when its function last crashed, in ms, newest first."""
IDEMPOTENCY: Final = "sandlot:idempotency:"
LOGS: Final = "sandlot:logs:"
RESULT: Final = "sandlot:result:"
"""`+ id:attempt`: hash 0, 1, … -> a piece of a large result, as the function wrote it (sandlot.jobs.large_results)."""
PARKED: Final = "sandlot:parked:"
"""`+ placement`: zset worker -> idle slots that a submit may fill directly."""
BEATS: Final = "sandlot:beats:"
"""`+ placement`: zset worker -> its last beat, in ms."""
PLACEMENTS: Final = "sandlot:placements"
STATS: Final = "stats"
"""The field of a worker's hash that holds what it has counted (sandlot.jobs.stats)."""
WORKER: Final = "sandlot:worker:"
"""hash: placements; `slots`, `busy` and `stats` as of its last beat; `alive`, until it is buried; `given`, how many jobs were handed to it; `step` and `claims`, the last step and what it claimed."""
CANCELS: Final = "sandlot:cancels:"
"""`+ worker`: set of its jobs that a caller wants ended."""

# Ours: the registry of functions (sandlot.functions) and of API keys (sandlot.api_keys).
FUNCTIONS: Final = "sandlot:functions"
"""zset, all scores 0: the names of all functions."""
FUNCTION: Final = "sandlot:function:"
"""`+ name`: hash `last` number given, `latest` number, `revision`; `a<alias>` JSON; per version `v<number>` signed record, `g<number>`
digest, `d<digest>` number; `wanted`, the number that was asked for last; of a version whose dependencies are not there yet `p<number>` signed
record instead of `v<number>`, and `f<number>` why, once they cannot be had; of a retired version `r<number>` signed record and `t<number>` when, in ms, instead of `v<number>`."""
BUNDLE: Final = "sandlot:bundle-chunks:"
"""`+ digest`: hash 0, 1, … -> a compressed chunk of the packed manifest and files whose SHA-256 is the digest."""
BUNDLE_USERS: Final = "sandlot:bundle-users:"
"""`+ digest`: set of the functions that have a version with this digest; without any, the bundle expires."""
LOCK: Final = "sandlot:lock:"
"""`+ digest`: signed text, what the dependencies of the version with this digest were resolved to; kept as long as its bundle."""
BUILDS: Final = "sandlot:builds:"
"""`+ placement`: zset digest of a version whose dependencies are to be resolved -> when a worker may take it, in ms: the end of a lease, if one has."""
BUILD: Final = "sandlot:build:"
"""`+ digest`: hash `attempt`, its fencing token; `progress`, for people; `w<function>` number of the version that waits for it."""
SCHEDULES: Final = "sandlot:schedules"
"""zset `<function> <time zone> <cron expression>` -> the last tick that was fired, or when the schedule was first seen, in ms."""
API_KEYS: Final = "sandlot:api-keys"
"""hash key id -> record; secrets only as SHA-256."""
SECRETS: Final = "sandlot:secrets"
"""hash name -> sealed record (sandlot.secret_store)."""

# Channels.
FUNCTIONS_CHANGED: Final = "sandlot:functions:changed"
"""The name of each function that was deployed or deleted."""
BUILDS_CHANGED: Final = "sandlot:builds:changed"
"""The placement of each build that was asked for."""
SECRETS_CHANGED: Final = "sandlot:secrets:changed"
"""The name of each secret that was set or removed."""
BREAKERS_CHANGED: Final = "sandlot:breakers:changed"
"""`+ queue` or `- queue`: its breaker opened, or closed. `! percent`: so much of Redis's memory is used, which is too much."""
CALLBACKS_DUE: Final = "sandlot:callbacks:due"
"""The id of each job whose caller's URL is to be told of its end."""
TO_WORKER: Final = "sandlot:to-worker:"
TO_WAITER: Final = "sandlot:to-waiter:"

# Our fields in RQ's job hash.
ENVELOPE: Final = "sl_envelope"
ATTEMPT: Final = "sl_attempt"
RELEASED: Final = "sl_released"
QUEUED_MS: Final = "sl_queued_ms"
STARTED_MS: Final = "sl_started_ms"
ENDED_MS: Final = "sl_ended_ms"
REPLY: Final = "sl_reply"
CANCEL: Final = "sl_cancel"
ORDER: Final = "sl_callback"
"""Signed: which URL is to be told of the end (sandlot.jobs.callbacks)."""
FAILURE: Final = "sl_failure"
"""The signed end of the last attempt that was followed by another."""
KIND: Final = "sl_kind"
END: Final = "sl_end"


def queue_name(function: str, placement: str) -> str:
    """The RQ queue of a function's jobs, `hello@python`."""
    return f"{function}@{placement}"


def lua_locals() -> str:
    """Every name above as a Lua local, on one line, so that line numbers in script errors stay true."""
    names = {name: value for name, value in globals().items() if name.isupper() and isinstance(value, str)}
    return f"local {','.join(names)}={','.join(repr(value) for value in names.values())} "
