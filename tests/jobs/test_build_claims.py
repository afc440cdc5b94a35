"""Who gets the next free place for a build: the kind of build and its owner decide, then its age."""

from __future__ import annotations

from sandlot.functions import Bundle, Manifest, Registry
from sandlot.functions.builds import Build, BuildQueue
from sandlot.models import Runtime
from tests.jobs.test_functions_builds import LOCK, builds, registry

__all__ = ["builds", "registry"]
PYTHON = ["python"]


async def deploy(registry: Registry, name: str, owner: str, *, source_builds: bool = False, text: str = "") -> None:
    manifest = Manifest(
        runtime=Runtime.PYTHON, handler="main.handler", dependencies=("numpy",), source_builds=source_builds
    )
    content = text or f"def handler(e, c): return {name!r}"
    await registry.deploy(name, Bundle({"main.py": content.encode()}), manifest, owner=owner)


async def claim(builds: BuildQueue, *busy: str, source_builds: bool | None = None) -> Build | None:
    return await builds.claim(PYTHON, [0], source_builds=source_builds, busy_owners=busy)


async def test_each_kind_of_build_is_claimed_in_its_own_lane(registry: Registry, builds: BuildQueue) -> None:
    await deploy(registry, "source", "a", source_builds=True)
    await deploy(registry, "wheels", "a")
    assert (found := await claim(builds, source_builds=False)) is not None
    assert found.function == "wheels"
    assert await claim(builds, source_builds=False) is None
    assert (found := await claim(builds, source_builds=True)) is not None
    assert found.function == "source"


async def test_the_words_source_builds_in_a_manifest_do_not_change_its_lane(
    registry: Registry, builds: BuildQueue
) -> None:
    manifest = Manifest(
        runtime=Runtime.PYTHON,
        handler="main.handler",
        dependencies=("numpy",),
        environment={"A": '"source_builds":true', "SOURCE": "true"},
    )
    await registry.deploy("tricky", Bundle({"main.py": b"def handler(e, c): return 1"}), manifest, owner="a")
    assert await claim(builds, source_builds=True) is None
    assert await claim(builds, source_builds=False) is not None


async def test_owners_that_are_served_already_are_left_out_however_many_builds_wait(
    registry: Registry, builds: BuildQueue
) -> None:
    for number in range(230):  # more than two pages of the script
        await deploy(registry, f"many-{number}", "greedy")
    await deploy(registry, "single", "modest")
    assert (found := await claim(builds, "greedy")) is not None
    assert (found.function, found.owner) == ("single", "modest")
    assert await claim(builds, "greedy", "modest") is None
    assert (found := await claim(builds)) is not None
    assert (found.function, found.owner) == ("many-0", "greedy")


async def test_a_build_that_two_owners_wait_for_counts_for_either(registry: Registry, builds: BuildQueue) -> None:
    for name, owner in (("one", "greedy"), ("two", "modest")):
        await deploy(registry, name, owner, text="def handler(e, c): return 1")
    assert (found := await claim(builds, "greedy")) is not None
    assert found.owner == "modest"
    assert await builds.succeed(found, LOCK)
    assert (await registry.resolve("one")).number == 1


async def test_a_version_of_an_earlier_release_without_an_owner_counts_for_its_function(
    registry: Registry, builds: BuildQueue
) -> None:
    await deploy(registry, "old", "")
    assert await claim(builds, "function old") is None
    assert (found := await claim(builds, "")) is not None
    assert found.owner == "function old"
