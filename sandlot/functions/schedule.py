"""Schedules: cron expressions in a time zone, and the moments at which they are due."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

CRON_LIMIT: Final = 200


@dataclass(frozen=True, slots=True)
class Schedule:
    """Cron expression in a time zone.

    Five fields name minutes; six name seconds, in the first field. Ticks are milliseconds since the
    epoch. When clocks go forward, a fixed time that does not exist is due at the moment of the
    change. When they go back, a fixed time is due once. An expression that repeats within the hour
    is not affected.
    """

    cron: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        """Check the expression and the zone.

        Raises:
            ValueError: one of them is not valid, or the expression is never due; the message says
                which and why.
        """
        if len(self.cron) > CRON_LIMIT:
            raise ValueError(f"the schedule has {len(self.cron)} characters; at most {CRON_LIMIT} are allowed")
        zone = _zone(self.timezone)
        try:
            next(CronSim(self.cron, datetime(2026, 1, 1, tzinfo=zone)))
        except (CronSimError, StopIteration) as error:
            reason = str(error) or "it is never due"
            raise ValueError(
                f'{self.cron!r} is not a cron expression ({reason}): write one such as "*/5 * * * *"'
            ) from error

    def next_tick_ms(self, after_ms: int) -> int:
        """Return the first tick after `after_ms`."""
        return self._tick_ms(after_ms, reverse=False)

    def last_tick_ms(self, by_ms: int) -> int:
        """Return the latest tick not after `by_ms`: of all missed ones, the one to catch up on."""
        tick_ms = self._tick_ms(by_ms + 1000, reverse=True)
        return tick_ms if tick_ms <= by_ms else self._tick_ms(tick_ms, reverse=True)

    def _tick_ms(self, from_ms: int, *, reverse: bool) -> int:
        start = datetime.fromtimestamp(from_ms // 1000, UTC).astimezone(_zone(self.timezone))
        return int(next(CronSim(self.cron, start, reverse=reverse)).timestamp()) * 1000


def moment(tick_ms: int) -> str:
    """Return a tick as people and functions read it (RFC 3339)."""
    return datetime.fromtimestamp(tick_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f'{name[:80]!r} is not a time zone: write one such as "Europe/Berlin"') from error
