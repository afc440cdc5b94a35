"""Placements: which workers can run a function, given as a runtime and tags."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import combinations
from typing import Final

TAGS_LIMIT: Final = 4
"""A worker serves every combination of its tags, 16 for each runtime, and each of its claims names
them all."""
_TAG: Final = re.compile(r"^[a-z0-9][a-z0-9-]{0,31}$")


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return the tags, sorted and without duplicates.

    Raises:
        ValueError: a tag is malformed, or there are too many.
    """
    checked = tuple(sorted(set(tags)))
    for tag in checked:
        if not _TAG.match(tag):
            raise ValueError(f"{tag[:80]!r} is not a valid tag: use up to 32 lowercase letters, digits and hyphens")
    if len(checked) > TAGS_LIMIT:
        raise ValueError(f"{len(checked)} tags; at most {TAGS_LIMIT} are allowed")
    return checked


def placement(runtime: str, tags: Iterable[str]) -> str:
    """Return the text of a placement: `python`, or `python,gpu` with a tag."""
    return ",".join((runtime, *sorted(tags)))


def start_command(placement: str) -> str:
    """Return the command that starts a worker for this placement."""
    return "sandlot worker" + "".join(f" --tag {tag}" for tag in placement.split(",")[1:])


def runtime_of(placement: str) -> str:
    """Return the runtime of a placement."""
    return placement.partition(",")[0]


def placements(runtimes: Iterable[str], tags: Iterable[str]) -> list[str]:
    """Return every placement that a worker with these runtimes and tags serves.

    Placements without tags are among them.
    """
    ordered = check_tags(tags)
    chosen = [some for count in range(len(ordered) + 1) for some in combinations(ordered, count)]
    return [placement(runtime, some) for runtime in sorted(runtimes) for some in chosen]
