"""One invocation as submit.lua takes it.

Knows: the order of its arguments, how long what it makes is kept, what an idempotency key stands for. Does not know: how they are sent, what is answered.
"""

from __future__ import annotations

import hashlib

from sandlot.jobs import keys
from sandlot.jobs.callbacks import seal_order
from sandlot.jobs.envelope import DATA_PREFIX, DATA_SUFFIX, seal
from sandlot.jobs.wire import Argument
from sandlot.models import Invocation


def arguments_of(signing_key: bytes, invocation: Invocation, channel: str) -> tuple[Argument, ...]:
    """`channel`: where the end is to be told; empty if nobody waits."""
    return (
        invocation.job_id,
        keys.queue_name(invocation.function, invocation.placement),
        invocation.placement,
        seal(signing_key, invocation),
        b"".join((DATA_PREFIX, invocation.event, DATA_SUFFIX)),
        -(-invocation.wall_limit_ms // 1000),
        _success_ttl_s(invocation, waited_for=bool(channel)),
        invocation.result_ttl_s,
        f"{invocation.function} v{invocation.version}",
        invocation.concurrency,
        invocation.delay_ms,
        *_idempotency(invocation),
        channel,
        seal_order(signing_key, invocation),
    )


def scoped_key(owner: str, idempotency_key: str) -> str:
    """The same key of two owners is two keys."""
    return hashlib.sha256(f"{owner}\0{idempotency_key}".encode()).hexdigest()


def _success_ttl_s(invocation: Invocation, *, waited_for: bool) -> int:
    """RQ's `result_ttl`, beside which `failure_ttl` is for every other end: shorter only if who waits is the one who will ever ask.

    An idempotency key announces that the same question may come again, just because the answer did not arrive.
    """
    if not waited_for or not invocation.delivered_ttl_s or invocation.idempotency_key:
        return invocation.result_ttl_s
    return min(invocation.delivered_ttl_s, invocation.result_ttl_s)


def _idempotency(invocation: Invocation) -> tuple[str, str]:
    """The key, scoped to its owner, and what must be the same for it to mean the same job: the function and the event, not the
    version, since a deployment between two tries must not turn a retry into a conflict."""
    if not invocation.idempotency_key:
        return "", ""
    scoped = scoped_key(invocation.owner, invocation.idempotency_key)
    state = hashlib.sha256(f"{invocation.function}\0".encode())
    state.update(invocation.event)
    return scoped, state.hexdigest()
