"""Manifest of a function: its settings, their bounds, and combinations without effect.

`[tool.sandlot.retry]`, which says when a job runs again, is the table `Retry`. How a manifest is
written in a file is in `manifest_text.py`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

import msgspec
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    field_validator,
    model_validator,
)

from sandlot.functions.dependencies import BadRequirement, check_requirements
from sandlot.functions.schedule import Schedule
from sandlot.models import DEFAULT_RETRY, Isolation, OutcomeKind, RetryPolicy, Runtime
from sandlot.network_policy import check_hosts
from sandlot.placement import check_tags
from sandlot.receipt import check_features
from sandlot.units import KIB, MIB, format_duration, format_size, parse_duration, parse_size

ENVIRONMENT_LIMIT_BYTES: Final = 32 * KIB
"""Names and values together: they travel in the init frame, and every warm process holds them."""

SECRETS_LIMIT: Final = 32
_VARIABLE: Final = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")
_HANDLER: Final = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_\-/.]*\.[A-Za-z_$][A-Za-z0-9_$]*$")
ATTEMPTS_LIMIT: Final = 10
_WITH_UNIT: Final = {"timeout": '"5s"', "memory": '"256MiB"', "result_ttl": '"1h"', "log_limit": '"256KiB"'}
_EXAMPLE: Final = {"runtime": 'runtime = "python" or "node"', "handler": 'handler = "file.function"'}


class BadSetting(ValueError):
    """Invalid setting of a manifest.

    `key` is the key at fault, as written, or "" for the whole manifest.
    """

    def __init__(self, key: str, message: str, near: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.near = near
        """The entry at fault, as written, where the key has a list of them."""


class MissingSetting(BadSetting):
    """Required setting that is neither written nor implied by the function's files."""


def _parse_seconds(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _parse_bytes(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _parse_mebibytes(value: object) -> object:
    if not isinstance(value, str):
        return value
    size = parse_size(value)
    if size % MIB:
        raise ValueError(f"{value!r} is not a whole number of MiB")
    return size // MIB


def _parse_duration_text(value: object) -> object:
    if isinstance(value, str):
        return parse_duration(value)
    raise ValueError(f'{value!r} needs a unit: write a duration such as "5s"')


Seconds = Annotated[float, BeforeValidator(_parse_seconds)]
Bytes = Annotated[int, BeforeValidator(_parse_bytes)]
Mebibytes = Annotated[int, BeforeValidator(_parse_mebibytes)]
DurationText = Annotated[float, BeforeValidator(_parse_duration_text)]
Cause = Literal["worker_lost", "error", "timeout", "memory"]


class Retry(BaseModel):
    """Table `retry`: people write the aliases (`backoff = "2s"`), code reads `policy`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: StrictInt = Field(DEFAULT_RETRY.attempts, ge=1, le=ATTEMPTS_LIMIT)
    on: tuple[Cause, ...] = ("worker_lost",)
    """Every outcome after which a job runs again, and no other."""
    backoff_s: DurationText = Field(DEFAULT_RETRY.backoff_ms / 1000, alias="backoff", ge=0.01, le=3600)
    max_age_s: DurationText | None = Field(None, alias="max_age", ge=1, le=31 * 86_400)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, table: object) -> object:
        for key in table if isinstance(table, Mapping) else ():
            if key not in RETRY_KEYS:
                close = difflib.get_close_matches(str(key), RETRY_KEYS, n=1)
                hint = f'did you mean "{close[0]}"?' if close else f"the settings are: {', '.join(RETRY_KEYS)}"
                raise ValueError(f'"{key}" is not a setting of retry; {hint}')
        return table

    @field_validator("on")
    @classmethod
    def _sort_causes(cls, on: tuple[Cause, ...]) -> tuple[Cause, ...]:
        if not on:
            raise ValueError("on = [] lists no cause: write attempts = 1 for a function that must not run twice")
        return tuple(sorted(set(on)))

    @model_validator(mode="after")
    def _refuse_useless_settings(self) -> Self:
        given = self.model_fields_set - {"attempts"}
        if self.attempts == 1 and given:
            key = type(self).model_fields[min(given)].alias or min(given)
            raise ValueError(f"{key} has no effect with attempts = 1, with which no job runs again")
        if "backoff_s" in given and self.on == ("worker_lost",):
            raise ValueError(
                'backoff has no effect with on = ["worker_lost"]: a job whose worker was lost runs again at once.'
                " backoff is for the causes error, timeout and memory"
            )
        return self

    def to_table(self) -> dict[str, Any]:
        """Return the settings that differ from the default, as a person would write them.

        `Retry.model_validate` reads the table back as the same value.
        """
        return {
            **({"attempts": self.attempts} if self.attempts != DEFAULT_RETRY.attempts else {}),
            **({"on": list(self.on)} if self.on != ("worker_lost",) else {}),
            **(
                {"backoff": format_duration(self.backoff_s)}
                if self.policy.backoff_ms != DEFAULT_RETRY.backoff_ms
                else {}
            ),
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


RETRY_KEYS: Final = tuple((field.alias or name) for name, field in Retry.model_fields.items())


class Manifest(BaseModel):
    """Complete manifest with every default filled in.

    People write the aliases (`timeout = "5s"`), code reads the fields (`timeout_s`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    runtime: Runtime
    handler: str
    timeout_s: Seconds = Field(5.0, alias="timeout", ge=0.01, le=86_400)
    memory_mib: Mebibytes = Field(256, alias="memory", ge=32, le=65_536)
    isolation: Isolation = Isolation.REUSE
    visibility: Literal["private", "public"] = "private"
    environment: dict[str, str] = Field(default_factory=dict)
    concurrency: StrictInt = Field(0, ge=0, le=10_000)
    """Maximum number of concurrent runs over all workers; 0 for no limit."""
    result_ttl_s: Seconds | None = Field(None, alias="result_ttl", ge=1, le=31 * 86_400)
    """How long a result is kept; `None` for the platform's default."""
    log_limit_bytes: Bytes = Field(256 * KIB, alias="log_limit", ge=KIB, le=4 * MIB)
    network: Literal["none"] | tuple[str, ...] = "none"
    """`none`, or the hosts that the function may reach."""
    require: tuple[str, ...] = ()
    """Isolation features that the function requires; a manifest may write a single one as text."""
    dependencies: tuple[str, ...] = ()
    """Requirements (PEP 508) or, for Node, `name@range`; unchanged, whichever file they were
    written in."""
    source_builds: StrictBool = False
    """Allow packages to be built from source, which runs their code during installation."""
    tags: tuple[str, ...] = ()
    """Tags that a worker must have been started with (`--tag gpu`) to run the function."""

    retry: Retry | None = None
    """When a job runs again; `None` for the platform's default."""

    on_disconnect: Literal["detach", "cancel"] = "detach"
    """Effect on the job when a waiting caller disconnects, unless the call itself says."""

    schedule: str | None = None
    """Cron expression that calls the latest version."""
    timezone: str | None = None
    """Time zone of the schedule; `None` for UTC."""
    secrets: tuple[str, ...] = ()
    """Names of the secrets that the function receives as environment variables."""

    @field_validator("retry")
    @classmethod
    def _drop_default_retry(cls, retry: Retry | None) -> Retry | None:
        return retry if retry is not None and retry.to_table() else None

    @field_validator("handler")
    @classmethod
    def _check_handler(cls, handler: str) -> str:
        if not _HANDLER.match(handler) or ".." in handler:
            raise ValueError(f'{handler!r} is not a valid handler: write "file.function", as in "main.handler"')
        return handler

    @field_validator("secrets")
    @classmethod
    def _check_secret_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not _VARIABLE.match(name):
                raise ValueError(f"{name[:80]!r} is not a valid secret name (letters, digits and underscores)")
        if len(names) > SECRETS_LIMIT:
            raise ValueError(f"{len(names)} secrets; at most {SECRETS_LIMIT} are allowed")
        return tuple(sorted(set(names)))

    @field_validator("tags")
    @classmethod
    def _check_tags(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        return check_tags(tags)

    @field_validator("environment")
    @classmethod
    def _check_environment(cls, environment: dict[str, str]) -> dict[str, str]:
        for name, value in environment.items():
            if not _VARIABLE.match(name):
                raise ValueError(f"{name!r} is not a valid variable name (letters, digits and underscores)")
            if "\0" in value:
                raise ValueError(f"the value of {name} contains a null byte")
        if sum(len(name) + len(value.encode()) for name, value in environment.items()) > ENVIRONMENT_LIMIT_BYTES:
            raise ValueError(f"names and values together exceed {format_size(ENVIRONMENT_LIMIT_BYTES)}")
        return environment

    @field_validator("dependencies")
    @classmethod
    def _strip_dependencies(cls, dependencies: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dependency.strip() for dependency in dependencies)

    @field_validator("network", mode="before")
    @classmethod
    def _check_network(cls, network: object) -> object:
        if isinstance(network, str) and network != "none":
            raise ValueError(f'{network[:80]!r} is neither "none" nor a list of hosts, as in ["api.example.com"]')
        if isinstance(network, list | tuple) and all(isinstance(host, str) for host in network):
            return check_hosts(network) or "none"
        return network

    @field_validator("require", mode="before")
    @classmethod
    def _make_list(cls, features: object) -> object:
        return (features,) if isinstance(features, str) else features

    @field_validator("require")
    @classmethod
    def _check_require(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        return check_features(features)

    @model_validator(mode="after")
    def _refuse_useless_settings(self) -> Self:
        if self.runtime is Runtime.NODE and self.isolation is Isolation.FORK:
            raise BadSetting(
                "isolation", 'isolation = "fork" has no effect on Node, which cannot fork: write "reuse" or "sandbox"'
            )
        try:
            check_requirements(self.dependencies, self.runtime)
        except BadRequirement as error:
            raise BadSetting("dependencies", f"dependencies: {error}", error.text) from error
        if self.source_builds and not self.dependencies:
            raise BadSetting("source_builds", "source_builds has no effect without dependencies")
        if self.timezone is not None and self.schedule is None:
            raise BadSetting("timezone", "timezone has no effect without schedule")
        _check_schedule(self.schedule, self.timezone)
        twice = sorted(set(self.secrets) & self.environment.keys())
        if twice:
            raise BadSetting(
                "secrets", f"secrets: {twice[0]} is also in environment; a variable can have only one value"
            )
        return self

    def cron_schedule(self) -> Schedule | None:
        """Return the parsed schedule, or `None` if the manifest has none."""
        return None if self.schedule is None else Schedule(self.schedule, self.timezone or "UTC")

    def to_table(self) -> dict[str, Any]:
        """Return all settings as a person would write them.

        `Manifest.model_validate` reads the table back as the same value.
        """
        return {
            "runtime": self.runtime.value,
            "handler": self.handler,
            "timeout": format_duration(self.timeout_s),
            "memory": format_size(self.memory_mib * MIB),
            "isolation": self.isolation.value,
            "visibility": self.visibility,
            "environment": dict(sorted(self.environment.items())),
            "concurrency": self.concurrency,
            "result_ttl": None if self.result_ttl_s is None else format_duration(self.result_ttl_s),
            "log_limit": format_size(self.log_limit_bytes),
            "network": "none" if self.network == "none" else list(self.network),
            "dependencies": list(self.dependencies),
        } | self._later_settings()

    def _later_settings(self) -> dict[str, Any]:
        """Return settings that were added later, if they differ from the default.

        Versions that do not use them keep the digest that they always had.
        """
        return {
            **({"tags": list(self.tags)} if self.tags else {}),
            **({"require": list(self.require)} if self.require else {}),
            **({"secrets": list(self.secrets)} if self.secrets else {}),
            **({"source_builds": True} if self.source_builds else {}),
            **({"retry": self.retry.to_table()} if self.retry is not None else {}),
            **({"on_disconnect": self.on_disconnect} if self.on_disconnect != "detach" else {}),
            **({"schedule": self.schedule} if self.schedule is not None else {}),
            **({"timezone": self.timezone} if self.timezone is not None else {}),
        }

    def canonical(self) -> bytes:
        """Return the JSON text that is digested and stored.

        Equal manifests give equal bytes, wherever they were written.
        """
        return msgspec.json.encode(self.to_table(), order="deterministic")


KEYS: Final = tuple((field.alias or name) for name, field in Manifest.model_fields.items())


def parse_manifest(table: Mapping[str, Any], defaults: Mapping[str, Any]) -> Manifest:
    """Return the manifest of a table that a person wrote.

    Args:
        defaults: settings that the kind of file implies (runtime, handler).

    Raises:
        BadSetting: an unknown key, a value out of bounds, or a setting that would have no effect;
            it names the key.
    """
    for key, value in table.items():
        if key not in KEYS:
            raise BadSetting(key, _unknown_key_message(key))
        if key in _WITH_UNIT and not isinstance(value, str):
            raise BadSetting(key, f"{key} needs a unit: write {_WITH_UNIT[key]} instead of {value!r}")
    try:
        return Manifest.model_validate({**defaults, **table})
    except ValidationError as error:
        raise _first_problem(error) from error


def _unknown_key_message(key: str) -> str:
    close = difflib.get_close_matches(key, KEYS, n=1)
    hint = f'did you mean "{close[0]}"?' if close else f"the settings are: {', '.join(KEYS)}"
    return f'"{key}" is not a setting; {hint}'


def _first_problem(error: ValidationError) -> BadSetting:
    details = error.errors()[0]
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, BadSetting):
        return cause
    if details["type"] == "missing":
        key = str(details["loc"][0])
        return MissingSetting(key, f"{key} is missing: write {_EXAMPLE[key]}")
    path = [str(part) for part in details["loc"] if not str(part).startswith(("function-", "tuple[", "literal["))]
    key = path[1 if path[0] == "retry" and len(path) > 1 else 0] if path else ""
    if details["type"] == "tuple_type":
        return BadSetting(key, f"{'.'.join(path)} must be a list: write {key} = [{json.dumps(str(details['input']))}]")
    reason = str(cause) if cause is not None else f"{details['msg']} (got {details['input']!r})"
    return BadSetting(key, f"{'.'.join(path)}: {reason}" if path else reason)


def _check_schedule(cron: str | None, timezone: str | None) -> None:
    """Check the expression before the time zone.

    Each mistake is then reported for the key that has it.
    """
    for key, given, zone in (("schedule", cron, "UTC"), ("timezone", timezone, timezone or "UTC")):
        try:
            if given is not None:
                Schedule(cron or "", zone)
        except ValueError as error:
            raise BadSetting(key, f"{key}: {error}") from error
