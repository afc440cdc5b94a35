"""A worker grows at once when work waits, and shrinks slowly when it does not."""

from __future__ import annotations

import pytest

from sandlot.errors import InvalidSettings
from sandlot.settings import load_settings, parse_slots
from worker.engine.capacity import SHRINK_AFTER_BEATS, Scaling


def run(scaling: Scaling, slots: int, *beats: tuple[int, bool]) -> list[int]:
    seen = []
    for busy, waits in beats:
        slots = scaling.slots_after(slots, busy, waits)
        seen.append(slots)
    return seen


def test_it_grows_by_half_up_to_its_bound_while_every_slot_is_taken_and_work_waits() -> None:
    scaling = Scaling(4, 16, lambda: True)
    assert run(scaling, 4, (4, True), (6, True), (9, True), (13, True), (16, True)) == [6, 9, 13, 16, 16]


def test_a_single_slot_grows_too() -> None:
    assert run(Scaling(1, 3, lambda: True), 1, (1, True), (2, True)) == [2, 3]


def test_it_does_not_grow_for_idle_slots_nor_without_work_nor_without_memory() -> None:
    assert run(Scaling(4, 16, lambda: True), 4, (3, True), (4, False)) == [4, 4]
    assert run(Scaling(4, 16, lambda: False), 4, (4, True)) == [4]


def test_it_shrinks_halfway_to_what_was_needed_after_the_patience_and_never_below_its_bound() -> None:
    scaling = Scaling(4, 16, lambda: True)
    seen = run(scaling, 16, *[(2, False)] * (4 * SHRINK_AFTER_BEATS))
    assert seen[: SHRINK_AFTER_BEATS - 1] == [16] * (SHRINK_AFTER_BEATS - 1)
    assert list(dict.fromkeys(seen)) == [16, 9, 5, 4]


def test_one_busy_beat_within_the_patience_keeps_the_slots() -> None:
    scaling = Scaling(4, 16, lambda: True)
    assert set(run(scaling, 16, *[(1, False)] * 10, (16, False), *[(1, False)] * (SHRINK_AFTER_BEATS - 1))) == {16}


@pytest.mark.parametrize(("text", "bounds"), [("0", (0, 0)), ("8", (8, 8)), ("4..16", (4, 16)), ("1..1", (1, 1))])
def test_slots_are_a_number_or_a_range(text: str, bounds: tuple[int, int]) -> None:
    assert parse_slots(text) == bounds


@pytest.mark.parametrize("text", ["", "-1", "4..", "..4", "16..4", "0..4", "4...8", "1025", "4..2000", "four", "٤"])
def test_other_slots_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(InvalidSettings, match=r"SANDLOT_SLOTS=.*a range \(4\.\.16\)"):
        load_settings(slots=text)
