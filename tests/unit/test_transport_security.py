"""What must be true before anything is reached over a network."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from api.server.protocol import ConnectionLimits
from api.server.server import Tls
from sandlot.errors import InvalidSettings
from sandlot.settings import Settings
from sandlot.transport_security import is_in, read_proxies, require_safe_listener, require_safe_redis
from tests.certificates import Authority


def settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)


@pytest.mark.parametrize("url", ["", "redis://", "redis://localhost/0", "redis://[::1]:7/0", "redis://127.1.2.3", "unix:///s", "rediss://10.0.0.5"])  # fmt: skip
def test_redis_on_this_machine_or_over_tls_needs_no_word(url: str) -> None:
    assert require_safe_redis(settings(redis_url=url)) == url


@pytest.mark.parametrize("host", ["10.0.0.5", "valkey", "[fd00::1]", "localhost.example"])
def test_redis_over_a_network_in_the_clear_needs_a_word(host: str) -> None:
    url = f"redis://user:hunter2@{host}:6379/0"
    with pytest.raises(InvalidSettings, match="--insecure-redis") as caught:
        require_safe_redis(settings(redis_url=url))
    assert "hunter2" not in caught.value.message
    assert require_safe_redis(settings(redis_url=url, insecure_redis=True)) == url


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "api.example"])
def test_listening_to_a_network_needs_tls_a_proxy_or_a_word(host: str) -> None:
    with pytest.raises(InvalidSettings, match="without TLS"):
        require_safe_listener(settings(host=host))
    for given in ({"insecure": True}, {"proxies": "10.0.0.7"}, {"tls_cert": Path("c"), "tls_key": Path("k")}):
        require_safe_listener(settings(host=host, **given))


def test_listening_here_needs_nothing_but_whole_settings() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        require_safe_listener(settings(host=host))
    with pytest.raises(InvalidSettings, match="both"):
        require_safe_listener(settings(tls_cert=Path("c")))
    with pytest.raises(InvalidSettings, match=r"SANDLOT_PROXIES=.10\.0\.0\.300"):
        require_safe_listener(settings(proxies="10.0.0.300"))


def test_a_proxy_is_an_address_or_a_network_however_it_is_written() -> None:
    proxies = read_proxies(settings(proxies="10.0.0.7, 192.168.0.0/16,fd00::/8"))
    assert all(is_in(address, proxies) for address in ("10.0.0.7", "::ffff:10.0.0.7", "192.168.3.4", "fd00::1"))
    assert not any(is_in(address, proxies) for address in ("10.0.0.8", "::ffff:10.0.0.8", "fe80::1", "", "nonsense"))


def test_one_address_has_its_share_of_connections_and_all_have_theirs() -> None:
    connections = ConnectionLimits(settings(connections_limit=5, connections_limit_per_address=2, proxies="10.0.0.7"))
    assert [bool(connections.enter("10.0.0.1")) for _ in range(3)] == [False, False, True]
    connections.leave("10.0.0.1")  # the refused one
    connections.leave("10.0.0.1")
    assert not connections.enter("10.0.0.1")
    assert [bool(connections.enter("10.0.0.7")) for _ in range(4)] == [False, False, False, True]


def test_this_machine_may_have_all_there_are() -> None:
    connections = ConnectionLimits(settings(connections_limit_per_address=1))
    assert not any(connections.enter("127.0.0.1") for _ in range(10))


def test_a_certificate_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("nonsense")
    given = settings(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")
    with pytest.raises(
        InvalidSettings, match=r"cannot use the certificate .*cert\.pem with the key .*SANDLOT_TLS_CERT"
    ):
        Tls.of(given)
    with pytest.raises(InvalidSettings, match="No such file"):
        Tls.of(settings(tls_cert=tmp_path / "none", tls_key=tmp_path / "key.pem"))
    assert Tls.of(settings()) is None


def test_nothing_older_than_tls_1_2_is_spoken_whatever_the_machine_s_default(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue("api")
    tls = Tls.of(settings(tls_cert=certificate, tls_key=key))
    assert tls is not None
    assert tls.context.minimum_version == ssl.TLSVersion.TLSv1_2
