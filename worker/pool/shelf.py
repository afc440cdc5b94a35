"""Idle residents: found by version, evicted by age.

Knows: keys and the order of use. Does not know: how a resident is ended.
"""

from __future__ import annotations

from collections.abc import Iterator

from worker.pool.resident import Resident

Key = tuple[str, str]
"""Function and digest."""


class Shelf:
    """The most recently used resident of a version is taken first, so that the others can grow old and go."""

    def __init__(self) -> None:
        self._by_key: dict[Key, list[Resident]] = {}
        self._by_age: dict[int, Resident] = {}  # A dict keeps the order of insertion: the first is the oldest.

    def __len__(self) -> int:
        return len(self._by_age)

    def __iter__(self) -> Iterator[Resident]:
        """Oldest first; a copy, so that whoever iterates may remove."""
        return iter(list(self._by_age.values()))

    def put(self, resident: Resident) -> None:
        self._by_key.setdefault(key_of(resident), []).append(resident)
        self._by_age[id(resident)] = resident

    def take(self, key: Key) -> Resident | None:
        found = self._by_key.get(key)
        if not found:
            return None
        resident = found.pop()
        if not found:
            del self._by_key[key]
        del self._by_age[id(resident)]
        return resident

    def remove(self, resident: Resident) -> bool:
        """False if it was not here."""
        if self._by_age.pop(id(resident), None) is None:
            return False
        found = self._by_key[key_of(resident)]
        found.remove(resident)
        if not found:
            del self._by_key[key_of(resident)]
        return True

    def oldest(self) -> Resident | None:
        return next(iter(self._by_age.values()), None)


def key_of(resident: Resident) -> Key:
    return resident.spec.function, resident.spec.digest
