"""What the doctor says of a Redis or Valkey, for servers that nobody should have to install."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from sandlot.cli.doctor import Check, check_access, check_server

GOOD = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "stream-node-max-bytes": "256"}
OPEN = {"bind": "* -::*", "protected-mode": "no"}
HOME = {"bind": "127.0.0.1 -::1", "protected-mode": "no"}


def by_name(checks: Iterable[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def look(configuration: dict[str, str], **info: Any) -> dict[str, Check]:
    return by_name(check_server("redis://h", {"redis_version": "8.2.2"} | info, configuration))


def test_a_good_server_has_nothing_to_remedy() -> None:
    checks = look(GOOD)
    assert {check.grade for check in checks.values()} == {"ok"}
    assert checks["Durability"].found == "append-only file, fsync always"


@pytest.mark.parametrize(
    ("setting", "value", "name", "grade", "remedy"),
    [
        ("maxmemory-policy", "allkeys-lru", "Eviction", "failed", "maxmemory-policy noeviction"),
        ("appendonly", "no", "Durability", "warning", "appendonly yes"),
        ("stream-node-max-bytes", "4096", "Memory per result", "warning", "stream-node-max-bytes 256"),
        ("stream-node-max-bytes", "0", "Memory per result", "warning", "stream-node-max-bytes 256"),
    ],
)
def test_each_unsafe_setting_has_its_remedy(setting: str, value: str, name: str, grade: str, remedy: str) -> None:
    check = look(GOOD | {setting: value})[name]
    assert check.grade == grade
    assert f"CONFIG SET {remedy}" in check.remedy


@pytest.mark.parametrize(
    ("info", "grade", "remedy"),
    [
        ({"redis_version": "6.2.20"}, "failed", "7.0 or newer"),
        ({"redis_version": "7.0.15"}, "warning", "fixed in 7.2.11"),
        ({"redis_version": "7.2.10"}, "warning", "fixed in 7.2.11"),
        ({"redis_version": "7.2.11"}, "ok", ""),
        ({"redis_version": "8.2.1"}, "warning", "fixed in 8.2.2"),
        ({"redis_version": "8.4.0"}, "ok", ""),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.0.2"}, "warning", "fixed in 9.0.3"),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "8.1.6"}, "ok", ""),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, "ok", ""),
    ],
)
def test_versions_with_known_flaws_are_named_with_the_one_to_go_to(
    info: dict[str, str], grade: str, remedy: str
) -> None:
    check = look(GOOD, **info)["Queue"]
    assert (check.grade, remedy in check.remedy) == (grade, True)


def test_forbidden_questions_are_answered_from_info_or_as_unknown() -> None:
    told = look({}, aof_enabled=1, maxmemory_policy="noeviction")
    assert (told["Durability"].grade, told["Eviction"].grade) == ("ok", "ok")
    assert look({})["Queue settings"].grade == "warning"


@pytest.mark.parametrize(
    ("url", "configuration", "stranger", "grade"),
    [
        ("redis://10.0.0.5/0", {}, True, "failed"),
        ("redis://127.0.0.1/0", OPEN, True, "failed"),
        ("unix:///run/s", OPEN, True, "failed"),
        ("redis://127.0.0.1/0", HOME, True, "warning"),
        ("redis://localhost/0", {}, True, "warning"),
        ("unix:///run/s", {}, True, "ok"),
        ("redis://10.0.0.5/0", OPEN, False, "ok"),
    ],
)
def test_no_password_is_worst_where_the_network_reaches_it(
    url: str, configuration: dict[str, str], stranger: bool, grade: str
) -> None:
    check = by_name(check_access(url, configuration, anonymous=stranger))["Password"]
    assert check.grade == grade
    assert (grade == "ok") == (check.remedy == "")


def test_unencrypted_traffic_across_a_network_is_reported() -> None:
    assert "Encryption" in by_name(check_access("redis://10.0.0.5/0", {}, anonymous=False))
    for url in ("rediss://10.0.0.5/0", "redis://[::1]/0", "unix:///s"):
        assert "Encryption" not in by_name(check_access(url, {}, anonymous=False))
