"""Which workers can run which functions: a runtime, and tags beside it.

Knows: tags, the text of a placement. Does not know: manifests, workers, queues.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import combinations
from typing import Final

TAGS_LIMIT: Final = 4
"""A worker offers every combination of its tags, 16 for each runtime, and every step it makes names them all."""
_TAG: Final = re.compile(r"^[a-z0-9][a-z0-9-]{0,31}$")


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags in order, each once.

    Raises:
        ValueError: one is no tag, or there are too many.
    """
    checked = tuple(sorted(set(tags)))
    for tag in checked:
        if not _TAG.match(tag):
            raise ValueError(f"{tag[:80]!r} is no tag: write up to 32 lower-case letters, digits and hyphens")
    if len(checked) > TAGS_LIMIT:
        raise ValueError(f"{len(checked)} tags; at most {TAGS_LIMIT} are allowed")
    return checked


def placement(runtime: str, tags: Iterable[str]) -> str:
    """`python`, or `python,gpu` for what needs a tag."""
    return ",".join((runtime, *sorted(tags)))


def start_command(placement: str) -> str:
    """The command that starts a worker for it."""
    return "sandlot worker" + "".join(f" --tag {tag}" for tag in placement.split(",")[1:])


def runtime_of(placement: str) -> str:
    """The runtime that a placement begins with."""
    return placement.partition(",")[0]


def placements(runtimes: Iterable[str], tags: Iterable[str]) -> list[str]:
    """All that a worker with these runtimes and tags can run; what needs no tag is among it."""
    ordered = check_tags(tags)
    chosen = [some for count in range(len(ordered) + 1) for some in combinations(ordered, count)]
    return [placement(runtime, some) for runtime in sorted(runtimes) for some in chosen]
