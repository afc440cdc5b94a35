"""Job ids: sorted by creation, unguessable, and recognisable after their job is gone.

An id is a UUID of version 7 (RFC 9562, section 5.7): milliseconds since the epoch, 42 random bits,
then 32 bits that only a holder of the signing key can compute for this owner. So a job that is no
longer kept can be distinguished from one that never existed, without storing anything, and only by
its owner.
"""

from __future__ import annotations

import hashlib
import time
from functools import lru_cache
from typing import Final

from sandlot.random_pool import RandomPool

_random: Final = RandomPool(6)
_TAG_BYTES: Final = 4
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def new_job_id(key: bytes = b"", owner: str = "") -> str:
    """Make an id for a job of this owner; without a key, one that `was_issued` does not accept."""
    drawn = _random.next().hex()
    head = f"{time.time_ns() // 1_000_000:012x}7{drawn[:3]}{_VARIANT[drawn[3]]}{drawn[4:11]}"
    text = head + _tag(key, owner, head)
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def was_issued(key: bytes, owner: str, job_id: str) -> bool:
    """Return whether a holder of the key made this id for this owner. One made-up id in four
    billion passes too."""
    text = job_id.replace("-", "")
    return len(job_id) == 36 and len(text) == 32 and text[24:] == _tag(key, owner, text[:24])


def _tag(key: bytes, owner: str, head: str) -> str:
    tag = _keyed(key).copy()
    tag.update(f"{head}{owner}".encode())
    return tag.hexdigest()


@lru_cache(maxsize=8)
def _keyed(key: bytes) -> hashlib.blake2s:
    # blake2s takes a key by itself and needs no HMAC around it (RFC 7693, section 2.9).
    return hashlib.blake2s(digest_size=_TAG_BYTES, key=hashlib.sha256(key).digest(), person=b"job id")
