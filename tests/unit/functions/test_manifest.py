"""Manifests: defaults, bounds, and that nothing without effect is taken."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandlot.errors import InvalidManifest
from sandlot.functions.manifest import BadSetting, Manifest, parse_manifest
from sandlot.functions.manifest_text import toml_manifest
from sandlot.models import Isolation, OutcomeKind, Runtime

PYTHON = {"runtime": "python", "handler": "main.handler"}
NODE = {"runtime": "node", "handler": "index.handler"}


def test_absent_settings_have_their_defaults() -> None:
    manifest = parse_manifest({}, PYTHON)
    assert (manifest.timeout_s, manifest.memory_mib, manifest.isolation) == (5.0, 256, Isolation.REUSE)
    assert (manifest.visibility, manifest.network, manifest.concurrency, manifest.result_ttl_s) == (
        "private",
        "none",
        0,
        None,
    )


def test_sizes_and_durations_are_read_in_their_units() -> None:
    manifest = parse_manifest(
        {
            "timeout": "250ms",
            "memory": "1GiB",
            "result_ttl": "1h",
            "log_limit": "1MiB",
            "isolation": "fork",
            "environment": {"A": "1"},
        },
        PYTHON,
    )
    assert (manifest.timeout_s, manifest.memory_mib, manifest.result_ttl_s, manifest.log_limit_bytes) == (
        0.25,
        1024,
        3600,
        1 << 20,
    )
    assert (manifest.isolation, dict(manifest.environment)) == (Isolation.FORK, {"A": "1"})


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"timeot": "5s"}, "timeot", 'did you mean "timeout"'),
    ({"frobnicate": 1}, "frobnicate", "the settings are: runtime, handler, timeout"),
    ({"timeout_s": 5}, "timeout_s", "not a setting"),
    ({"timeout": 5}, "timeout", "needs a unit"),
    ({"timeout": "0s"}, "timeout", "greater than or equal to 0.01"),
    ({"timeout": "2d"}, "timeout", "less than or equal to 86400"),
    ({"memory": "256MB"}, "memory", "write MiB"),
    ({"memory": "1MiB"}, "memory", "greater than or equal to 32"),
    ({"memory": "1048577KiB"}, "memory", "whole number of MiB"),
    ({"isolation": "vm"}, "isolation", "'reuse', 'fork' or 'sandbox'"),
    ({"visibility": "everybody"}, "visibility", "'private' or 'public'"),
    ({"on_disconnect": "kill"}, "on_disconnect", "'detach' or 'cancel'"),
    ({"environment": {"A": 1}}, "environment", "environment.A"),
    ({"environment": {"A-B": "1"}}, "environment", "not a valid variable name"),
    ({"environment": {"A": "\0"}}, "environment", "null byte"),
    ({"environment": {"A": "x" * 40_000}}, "environment", "exceed 32KiB"),
    ({"concurrency": True}, "concurrency", "valid integer"),
    ({"concurrency": -1}, "concurrency", "greater than or equal to 0"),
    ({"handler": "main"}, "handler", '"file.function"'),
    ({"handler": "../../etc/passwd.x"}, "handler", '"file.function"'),
    ({"dependencies": "numpy"}, "dependencies", 'dependencies must be a list: write dependencies = ["numpy"]'),
    ({"dependencies": ["numpy", "numpy=2"]}, "dependencies", "'numpy=2' is not a requirement"),
    ({"dependencies": ["Num_Py", "num-py>2"]}, "dependencies", "the same package"),
    ({"dependencies": ["a @ https://example.org/a.whl"]}, "dependencies", "names an address"),
    ({"dependencies": ["-e ."]}, "dependencies", "an option of pip"),
    ({"dependencies": [f"p{n}" for n in range(101)]}, "dependencies", "101 are listed; at most 100"),
    ({"dependencies": ["x" * 501]}, "dependencies", "501 characters"),
    ({"source_builds": True}, "source_builds", "no effect without dependencies"),
    ({"dependencies": ["a"], "source_builds": 1}, "source_builds", "valid boolean"),
    ({"network": "example.org"}, "network", 'as in ["api.example.com"]'),
    ({"network": "all"}, "network", 'neither "none" nor a list'),
    ({"network": [1]}, "network", "network"),
    ({"network": ["https://example.org"]}, "network", "no scheme or path"),
    ({"network": ["example.org/a"]}, "network", "is not a valid host"),
    ({"network": ["example.org:0"]}, "network", "between 1 and 65535"),
    ({"network": ["example.org:x"]}, "network", "is not a valid host"),
    ({"network": ["*"]}, "network", "is not a valid host"),
    ({"network": ["*.org"]}, "network", "too broad"),
    ({"network": ["a.*.org"]}, "network", "is not a valid host"),
    ({"network": ["localhost"]}, "network", "internal"),
    ({"network": ["redis:6379"]}, "network", "internal"),
    ({"network": ["127.0.0.1"]}, "network", "not on the public internet"),
    ({"network": ["10.1.2.3:80"]}, "network", "not on the public internet"),
    ({"network": ["169.254.169.254"]}, "network", "not on the public internet"),
    ({"network": ["[::1]:80"]}, "network", "not on the public internet"),
    ({"network": ["2130706433"]}, "network", "too broad or internal"),
    ({"network": ["127.1"]}, "network", "too broad or internal"),
    ({"network": ["b\u00fccher.de"]}, "network", "xn--"),
    ({"network": [f"h{number}.example.org" for number in range(65)]}, "network", "at most 64"),
    ({"require": "strong"}, "require", "is not an isolation feature; the features are: strict, user"),
    ({"require": ["strict", 1]}, "require", "require"),
    ({"schedule": "every day"}, "schedule", "'every day' is not a cron expression"),
    ({"schedule": "61 * * * *"}, "schedule", "is not a cron expression"),
    ({"schedule": ""}, "schedule", "is not a cron expression"),
    ({"schedule": 5}, "schedule", "valid string"),
    ({"schedule": "* " * 150}, "schedule", "at most 200"),
    ({"timezone": "Europe/Berlin"}, "timezone", "no effect without schedule"),
    ({"schedule": "* * * * *", "timezone": "Europe/Atlantis"}, "timezone", "is not a time zone"),
    ({"schedule": "61 * * * *", "timezone": "Europe/Berlin"}, "schedule", "is not a cron expression"),
    ({"runtime": "ruby"}, "runtime", "'python' or 'node'"),
]


@pytest.mark.parametrize(("table", "key", "reason"), WRONG)
def test_an_invalid_manifest_is_refused_by_key(table: dict[str, Any], key: str, reason: str) -> None:
    with pytest.raises(BadSetting) as refused:
        parse_manifest(table, PYTHON)
    assert refused.value.key == key
    assert reason in str(refused.value)


def toml(value: object) -> str:
    """As TOML writes it, on one line; but for tables that is as JSON does."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


@pytest.mark.parametrize(("table", "key", "reason"), WRONG)
def test_an_invalid_manifest_is_refused_with_its_line(table: dict[str, Any], key: str, reason: str) -> None:
    lines = ["# settings", 'log_limit = "1MiB"', *(f"{name} = {toml(value)}" for name, value in table.items())]
    with pytest.raises(InvalidManifest) as refused:
        toml_manifest("function.toml", "\n".join(lines), PYTHON)
    assert refused.value.message.startswith(f"function.toml:{3 + [*table].index(key)}: ")
    assert reason in refused.value.message


def test_hosts_are_read_in_one_spelling_and_order() -> None:
    manifest = parse_manifest(
        {"network": ["b.example.org:8443", "A.example.org", "*.Example.org", "a.example.org"]}, PYTHON
    )
    assert manifest.network == ("*.example.org", "a.example.org", "b.example.org:8443")
    assert Manifest.model_validate_json(manifest.canonical()) == manifest
    assert (
        parse_manifest({"network": []}, PYTHON)
        == parse_manifest({"network": "none"}, PYTHON)
        == parse_manifest({}, PYTHON)
    )


def test_one_feature_is_a_list_of_one_and_none_leaves_the_digest_unchanged() -> None:
    assert parse_manifest({"require": "strict"}, PYTHON).require == ("strict",)
    manifest = parse_manifest({"require": ["memory", "strict", "memory"]}, PYTHON)
    assert manifest.require == ("memory", "strict")
    assert Manifest.model_validate_json(manifest.canonical()) == manifest
    assert b"require" not in parse_manifest({}, PYTHON).canonical()


def test_a_schedule_is_kept_as_written_and_none_leaves_the_digest_as_it_was() -> None:
    manifest = parse_manifest({"schedule": "*/5 * * * *", "timezone": "Europe/Berlin"}, PYTHON)
    assert Manifest.model_validate_json(manifest.canonical()) == manifest
    assert (manifest.to_table()["schedule"], manifest.to_table()["timezone"]) == ("*/5 * * * *", "Europe/Berlin")
    assert b"timezone" not in parse_manifest({"schedule": "*/5 * * * *"}, PYTHON).canonical()
    assert b"schedule" not in parse_manifest({}, PYTHON).canonical()


def test_isolation_by_fork_is_refused_for_node_which_cannot_fork() -> None:
    with pytest.raises(BadSetting, match="no effect on Node") as refused:
        parse_manifest({"isolation": "fork"}, NODE)
    assert refused.value.key == "isolation"


def test_a_manifest_written_out_is_read_back_as_itself() -> None:
    manifest = parse_manifest(
        {"timeout": "1500ms", "environment": {"B": "2", "A": "1"}, "result_ttl": "90s", "concurrency": 3}, NODE
    )
    assert Manifest.model_validate(manifest.to_table()) == manifest
    assert Manifest.model_validate_json(manifest.canonical()) == manifest


def test_equal_manifests_have_equal_bytes_however_they_were_written() -> None:
    one = parse_manifest({"environment": {"B": "2", "A": "1"}, "timeout": "2s"}, PYTHON)
    other = Manifest(runtime=Runtime.PYTHON, handler="main.handler", timeout_s=2.0, environment={"A": "1", "B": "2"})
    assert one.canonical() == other.canonical()


@pytest.mark.parametrize(
    ("table", "key", "reason"),
    [
        ({"attempts": 0}, "attempts", "greater than or equal to 1"),
        ({"attempts": 11}, "attempts", "less than or equal to 10"),
        ({"attemps": 2}, "retry", 'did you mean "attempts"'),
        ({"on": []}, "on", "write attempts = 1"),
        ({"on": ["exit"]}, "on", "'worker_lost', 'error', 'timeout' or 'memory'"),
        ({"on": ["error"], "backoff": 5}, "backoff", "needs a unit"),
        ({"on": ["error"], "backoff": "2h"}, "backoff", "less than or equal to 3600"),
        ({"backoff": "5s"}, "retry", "backoff has no effect with on"),
        ({"attempts": 1, "on": ["error"]}, "retry", "on has no effect with attempts = 1"),
        ({"attempts": 1, "max_age": "1h"}, "retry", "max_age has no effect with attempts = 1"),
    ],
)
def test_an_invalid_retry_setting_is_refused_by_key(table: dict[str, Any], key: str, reason: str) -> None:
    with pytest.raises(BadSetting) as refused:
        parse_manifest({"retry": table}, PYTHON)
    assert refused.value.key == key
    assert reason in str(refused.value)


def test_retries_are_written_as_far_as_they_differ_from_the_default() -> None:
    assert parse_manifest({"retry": {"attempts": 3}}, PYTHON) == parse_manifest({}, PYTHON)
    manifest = parse_manifest({"retry": {"on": ["worker_lost", "error"], "backoff": "250ms"}}, PYTHON)
    assert manifest.retry is not None
    assert manifest.retry.policy.on == (OutcomeKind.ERROR, OutcomeKind.WORKER_LOST)
    assert manifest.to_table()["retry"] == {"on": ["error", "worker_lost"], "backoff": "250ms"}
    assert Manifest.model_validate_json(manifest.canonical()) == manifest
    assert parse_manifest({"retry": {"on": ["error"]}}, PYTHON).retry.policy.on == (OutcomeKind.ERROR,)  # type: ignore[union-attr]
