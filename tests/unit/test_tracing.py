"""Traces cost nothing until a collector is set, and what is missing is said."""

from __future__ import annotations

import sys

import pytest

from sandlot.errors import InvalidSettings
from sandlot.settings import Settings
from sandlot.tracing import open_tracing


def settings(**given: object) -> Settings:
    return Settings(_env_file=None, **given)  # type: ignore[call-arg]


def test_without_a_collector_there_is_nothing() -> None:
    assert open_tracing(settings(), "api") is None


def test_a_collector_is_a_url() -> None:
    with pytest.raises(InvalidSettings, match=r"SANDLOT_OTLP_URL='collector:4318' is not a URL"):
        open_tracing(settings(otlp_url="collector:4318"), "api")


def test_without_the_extra_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(InvalidSettings, match=r"pip install 'sandlot\[otel\]'"):
        open_tracing(settings(otlp_url="http://127.0.0.1:4318"), "api")
