"""API keys: what is stored of them, and when one stops working."""

from collections.abc import AsyncIterator

import fakeredis
import pytest

from sandlot.errors import CallerError, Forbidden, Unauthenticated
from sandlot.jobs.keys import API_KEYS
from sandlot.keys import DEFAULT_OWNER, Key, KeyStore, Scope, new_token


@pytest.fixture
async def redis() -> AsyncIterator[fakeredis.FakeAsyncRedis]:
    async with fakeredis.FakeAsyncRedis() as client:
        yield client


@pytest.fixture
def keys(redis: fakeredis.FakeAsyncRedis) -> KeyStore:
    return KeyStore(redis)


async def test_a_token_proves_its_key(keys: KeyStore) -> None:
    token, key = await keys.create({Scope.INVOKE}, prefix="app", note="ci")
    assert await keys.authenticate(token) == key


async def test_the_secret_is_not_stored(keys: KeyStore, redis: fakeredis.FakeAsyncRedis) -> None:
    token, _ = await keys.create({Scope.ADMIN})
    assert token.split(".")[1].encode() not in b"".join((await redis.hgetall(API_KEYS)).values())


async def test_the_right_id_with_another_secret_is_refused(keys: KeyStore) -> None:
    token, _ = await keys.create({Scope.ADMIN})
    with pytest.raises(Unauthenticated):
        await keys.authenticate(token.split(".")[0] + "." + new_token().split(".")[1])


async def test_a_revoked_key_stops_here_at_once_and_stays_in_the_list(keys: KeyStore) -> None:
    token, key = await keys.create({Scope.ADMIN})
    await keys.authenticate(token)
    await keys.revoke(key.id)
    with pytest.raises(Unauthenticated):
        await keys.authenticate(token)
    assert [known.revoked_ms > 0 for known in await keys.list()] == [True]


async def test_what_is_believed_is_believed_for_a_second_only(
    keys: KeyStore, redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, key = await keys.create({Scope.ADMIN})
    await keys.authenticate(token)
    await KeyStore(redis).revoke(key.id)  # on another machine
    assert (await keys.authenticate(token)).id == key.id
    for name, (known, until) in list(keys._known.items()):
        keys._known[name] = (known, until - 1.0)
    with pytest.raises(Unauthenticated):
        await keys.authenticate(token)


async def test_enrolling_makes_an_admin_once_and_never_undoes_a_revocation(keys: KeyStore) -> None:
    token = new_token()
    await keys.enrol(token)
    key = await keys.authenticate(token)
    assert (key.scopes, key.owner) == ({Scope.ADMIN}, DEFAULT_OWNER)
    await keys.revoke(key.id)
    await keys.enrol(token)
    with pytest.raises(Unauthenticated):
        await keys.authenticate(token)


async def test_what_is_no_key_cannot_be_enrolled_created_or_revoked(keys: KeyStore) -> None:
    with pytest.raises(CallerError, match="sk_"):
        await keys.enrol("hunter2")
    with pytest.raises(CallerError, match="scope"):
        await keys.create(set())
    with pytest.raises(CallerError, match="beginning"):
        await keys.create({Scope.READ}, prefix="../")
    with pytest.raises(CallerError, match="no key"):
        await keys.revoke("0123456789abcdef")


def test_a_refusal_names_what_is_needed_and_what_there_is() -> None:
    key = Key(id="1", digest="", owner="us", scopes=frozenset({Scope.READ}), prefix="app")
    with pytest.raises(Forbidden, match="needs the scope deploy; key 1 has: read, on functions named app"):
        key.require(Scope.DEPLOY, "app-one")
    key.require(Scope.READ, "app-one")
    with pytest.raises(Forbidden):
        key.require(Scope.READ, "other")
