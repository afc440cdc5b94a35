"""When a schedule is due: a cron expression in a time zone.

Knows: which expressions and zones there are, and which moments they name, over changes of the clock. Does not know: what time it is,
or what is done when one is due.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

LIMIT_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class Schedule:
    """Five fields name minutes, six name seconds (the first). Ticks are milliseconds since the epoch.

    Where clocks go forward, a fixed time that does not exist is due at the moment they change; where they go back, it is due once.
    An expression that repeats within the hour goes on as if nothing had happened.
    """

    cron: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        """Refuse what names no moment.

        Raises:
            ValueError: the expression or the zone is not one; it says which and why.
        """
        if len(self.cron) > LIMIT_CHARACTERS:
            raise ValueError(f"a schedule of {len(self.cron)} characters; at most {LIMIT_CHARACTERS} are allowed")
        zone = _zone(self.timezone)
        try:
            next(CronSim(self.cron, datetime(2026, 1, 1, tzinfo=zone)))
        except (CronSimError, StopIteration) as error:
            reason = str(error) or "it is never due"
            raise ValueError(
                f'{self.cron!r} is not a cron expression ({reason}): write one as "*/5 * * * *"'
            ) from error

    def next_tick_ms(self, after_ms: int) -> int:
        """The first moment after `after_ms`."""
        return self._tick_ms(after_ms, reverse=False)

    def last_tick_ms(self, by_ms: int) -> int:
        """The latest moment not after `by_ms`: of all that passed unseen, the one to catch up on."""
        tick_ms = self._tick_ms(by_ms + 1000, reverse=True)
        return tick_ms if tick_ms <= by_ms else self._tick_ms(tick_ms, reverse=True)

    def _tick_ms(self, from_ms: int, *, reverse: bool) -> int:
        start = datetime.fromtimestamp(from_ms // 1000, UTC).astimezone(_zone(self.timezone))
        return int(next(CronSim(self.cron, start, reverse=reverse)).timestamp()) * 1000


def moment(tick_ms: int) -> str:
    """As people and functions read it (RFC 3339)."""
    return datetime.fromtimestamp(tick_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f'{name[:80]!r} is not a time zone: write one as "Europe/Berlin"') from error
