"""No script is forgotten when replies are lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.plans import PLANS
from tests.chaos.reply_faults import ELSEWHERE, FRAGMENTS, SENDERS

ROOT = Path(__file__).parents[3]
SCRIPTS = {path.stem for path in (ROOT / "sandlot" / "redis" / "scripts").rglob("*.lua")}


def test_every_script_has_a_sender_whose_reply_gets_lost() -> None:
    """A new script: say in `tests/chaos/reply_faults.py` who sends it and when, or in ELSEWHERE which test loses its reply."""
    assert SENDERS.keys() | FRAGMENTS | ELSEWHERE.keys() == SCRIPTS


@pytest.mark.parametrize("name", sorted(SENDERS))
def test_each_of_them_has_a_plan(name: str) -> None:
    assert any(plan.name == f"reply lost: {name}" for plan in PLANS)


def test_tests_that_are_named_are_there() -> None:
    for name, where in ELSEWHERE.items():
        path, _, test = where.partition("::")
        assert test, f"{name}: {where}"
        assert f"def {test}(" in (ROOT / path).read_text(), f"{name}: {where}"
