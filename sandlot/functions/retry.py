"""What a manifest says about running a job again: `[tool.sandlot.retry]`.

Knows: its settings, their bounds, and which of them mean nothing together. Does not know: how a job is run again.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, field_validator, model_validator

from sandlot.models import BY_DEFAULT, OutcomeKind, RetryPolicy
from sandlot.units import format_duration, parse_duration

ATTEMPTS_LIMIT: Final = 10


def _seconds(value: object) -> object:
    if isinstance(value, str):
        return parse_duration(value)
    raise ValueError(f'{value!r} needs a unit: write a duration such as "5s"')


Seconds = Annotated[float, BeforeValidator(_seconds)]
Cause = Literal["worker_lost", "error", "timeout", "memory"]


class Retry(BaseModel):
    """People write the aliases (`backoff = "2s"`), code reads `policy`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: StrictInt = Field(BY_DEFAULT.attempts, ge=1, le=ATTEMPTS_LIMIT)
    on: tuple[Cause, ...] = ("worker_lost",)
    """All of the ends after which a job is run again: what is not listed is not."""
    backoff_s: Seconds = Field(BY_DEFAULT.backoff_ms / 1000, alias="backoff", ge=0.01, le=3600)
    max_age_s: Seconds | None = Field(None, alias="max_age", ge=1, le=31 * 86_400)

    @model_validator(mode="before")
    @classmethod
    def _knows_its_settings(cls, table: object) -> object:
        for key in table if isinstance(table, Mapping) else ():
            if key not in SETTINGS:
                close = difflib.get_close_matches(str(key), SETTINGS, n=1)
                hint = f'did you mean "{close[0]}"?' if close else f"known are: {', '.join(SETTINGS)}"
                raise ValueError(f'"{key}" is not a setting of retry; {hint}')
        return table

    @field_validator("on")
    @classmethod
    def _has_one_order(cls, on: tuple[Cause, ...]) -> tuple[Cause, ...]:
        if not on:
            raise ValueError("on = [] has no cause: write attempts = 1 for a function that must not run twice")
        return tuple(sorted(set(on)))

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        given = self.model_fields_set - {"attempts"}
        if self.attempts == 1 and given:
            key = type(self).model_fields[min(given)].alias or min(given)
            raise ValueError(f"{key} has no effect with attempts = 1, which means that nothing is run again")
        if "backoff_s" in given and self.on == ("worker_lost",):
            raise ValueError(
                'backoff has no effect with on = ["worker_lost"]: what a lost worker ran is run again at once.'
                " It is for error, timeout and memory"
            )
        return self

    def written(self) -> dict[str, Any]:
        """What differs from the default, as a person would write it; `Retry.model_validate` reads it back as the same value."""
        return {
            **({"attempts": self.attempts} if self.attempts != BY_DEFAULT.attempts else {}),
            **({"on": list(self.on)} if self.on != ("worker_lost",) else {}),
            **({"backoff": format_duration(self.backoff_s)} if self.policy.backoff_ms != BY_DEFAULT.backoff_ms else {}),
            **({"max_age": format_duration(self.max_age_s)} if self.max_age_s is not None else {}),
        }

    @property
    def policy(self) -> RetryPolicy:
        return RetryPolicy(
            attempts=self.attempts,
            on=tuple(OutcomeKind(cause) for cause in self.on),
            backoff_ms=round(self.backoff_s * 1000),
            max_age_ms=round((self.max_age_s or 0) * 1000),
        )


SETTINGS: Final = tuple((field.alias or name) for name, field in Retry.model_fields.items())
