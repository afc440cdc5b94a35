"""Random bytes drawn many at a time are none of them given out twice."""

from __future__ import annotations

import os

from sandlot.random_pool import RandomPool


def test_no_two_values_are_equal() -> None:
    draws = RandomPool(6)
    drawn = [draws.next() for _ in range(2000)]
    assert len(set(drawn)) == 2000
    assert {len(one) for one in drawn} == {6}


def test_a_forked_process_draws_its_own() -> None:
    draws = RandomPool(8)
    draws.next()
    read_outcome_record, write_end = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(write_end, b"".join(draws.next() for _ in range(100)))
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_outcome_record, "rb") as pipe:
        theirs = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert len(theirs) == 800
    ours = {draws.next() for _ in range(100)}
    assert ours.isdisjoint(theirs[start : start + 8] for start in range(0, 800, 8))
