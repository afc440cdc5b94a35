"""API keys: what is stored of them, and when one stops working."""

from collections.abc import AsyncIterator

import fakeredis
import pytest

from sandlot.api_keys import DEFAULT_OWNER, ApiKey, KeyStore, Scope, new_token
from sandlot.errors import CallerError, Forbidden, Unauthenticated
from sandlot.redis.keys import API_KEYS

SIGNING_KEY = b"k" * 32


@pytest.fixture
async def redis() -> AsyncIterator[fakeredis.FakeAsyncRedis]:
    async with fakeredis.FakeAsyncRedis() as client:
        yield client


@pytest.fixture
def keys(redis: fakeredis.FakeAsyncRedis) -> KeyStore:
    return KeyStore(redis, SIGNING_KEY)


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


async def test_a_cached_key_is_trusted_for_one_second_only(
    keys: KeyStore, redis: fakeredis.FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, key = await keys.create({Scope.ADMIN})
    await keys.authenticate(token)
    await KeyStore(redis, SIGNING_KEY).revoke(key.id)  # on another machine
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


async def test_an_invalid_key_cannot_be_enrolled_created_or_revoked(keys: KeyStore) -> None:
    with pytest.raises(CallerError, match="sk_"):
        await keys.enrol("hunter2")
    with pytest.raises(CallerError, match="scope"):
        await keys.create(set())
    with pytest.raises(CallerError, match="is not a valid prefix"):
        await keys.create({Scope.READ}, prefix="../")
    with pytest.raises(CallerError, match=r"no key .* exists"):
        await keys.revoke("0123456789abcdef")


def test_a_refusal_names_what_is_needed_and_what_there_is() -> None:
    key = ApiKey(id="1", digest="", owner="us", scopes=frozenset({Scope.READ}), prefix="app")
    with pytest.raises(Forbidden, match="needs the scope deploy; key 1 has: read, on functions named app"):
        key.require(Scope.DEPLOY, "app-one")
    key.require(Scope.READ, "app-one")
    with pytest.raises(Forbidden):
        key.require(Scope.READ, "other")


async def test_a_rotated_key_is_replaced_by_its_like_and_works_as_long_as_it_was_given(keys: KeyStore) -> None:
    token, old = await keys.create({Scope.INVOKE}, owner="shop", prefix="shop-", lifetime_s=3600, note="web")
    new_one, new = await keys.rotate(old.id, 60)
    assert (new.owner, new.scopes, new.prefix, new.note) == ("shop", old.scopes, "shop-", "web")
    assert new.expires_ms - new.created_ms == 3_600_000
    assert (await keys.authenticate(token)).expires_ms < old.expires_ms
    assert (await keys.authenticate(new_one)).id == new.id
    await keys.rotate(new.id, 0)
    with pytest.raises(Unauthenticated):
        await keys.authenticate(new_one)
    with pytest.raises(CallerError, match="expired"):
        await keys.rotate(new.id, 0)
    with pytest.raises(CallerError, match=r"no key .* exists"):
        await keys.rotate("0" * 16, 0)


async def test_a_rotation_never_gives_a_key_more_time(keys: KeyStore) -> None:
    _, old = await keys.create({Scope.INVOKE}, lifetime_s=60)
    await keys.rotate(old.id, 86_400)
    assert min(key.expires_ms for key in await keys.list() if key.id == old.id) == old.expires_ms


async def test_an_owner_is_a_name(keys: KeyStore) -> None:
    for owner in ("", "a b", "x" * 65, "a/b"):
        with pytest.raises(CallerError, match="is not a valid owner"):
            await keys.create({Scope.READ}, owner=owner)


async def test_a_redis_writer_cannot_create_a_key(keys: KeyStore, redis: fakeredis.FakeAsyncRedis) -> None:
    token, mine = await keys.create({Scope.INVOKE})
    forged, key = await KeyStore(redis, b"a guess" * 8).create({Scope.ADMIN})
    with pytest.raises(Unauthenticated):
        await keys.authenticate(forged)
    record = await redis.hget(API_KEYS, mine.id)
    await redis.hset(API_KEYS, mine.id, record.replace(b'"invoke"', b'"admin"'))
    with pytest.raises(Unauthenticated):
        await KeyStore(redis, SIGNING_KEY).authenticate(token)
    await redis.hset(API_KEYS, key.id, record)  # another key's record, under this id
    with pytest.raises(Unauthenticated):
        await KeyStore(redis, SIGNING_KEY).authenticate(forged)
    assert await keys.list() == []
