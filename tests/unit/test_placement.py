"""Which workers can run which functions."""

from __future__ import annotations

import pytest

from sandlot.errors import InvalidSettings
from sandlot.functions import Manifest
from sandlot.functions.bundle import Bundle, digest_of, pack
from sandlot.functions.manifest import BadSetting, parse_manifest
from sandlot.functions.version import placement_of
from sandlot.placement import placements
from sandlot.settings import Settings

DEFAULTS = {"runtime": "python", "handler": "main.handler"}


@pytest.mark.parametrize(
    ("tags", "placement"), [([], "python"), (["gpu"], "python,gpu"), (["ssd", "gpu", "ssd"], "python,gpu,ssd")]
)
def test_a_function_needs_a_runtime_and_its_tags(tags: list[str], placement: str) -> None:
    assert placement_of(parse_manifest({"tags": tags}, DEFAULTS)) == placement


def test_a_worker_runs_whatever_needs_no_more_than_it_has() -> None:
    assert placements(["python"], []) == ["python"]
    assert placements(["python", "node"], ["ssd", "gpu"]) == [
        *("node", "node,gpu", "node,ssd", "node,gpu,ssd"),
        *("python", "python,gpu", "python,ssd", "python,gpu,ssd"),
    ]


@pytest.mark.parametrize("tags", [["GPU"], ["a b"], [""], ["a,b"], ["a@b"], ["a", "b", "c", "d", "e"]])
def test_an_invalid_tag_is_refused(tags: list[str]) -> None:
    with pytest.raises(BadSetting, match="tag"):
        parse_manifest({"tags": tags}, DEFAULTS)


def test_a_function_without_tags_keeps_the_digest_it_had_before_there_were_any() -> None:
    assert b"tags" not in pack(Bundle({"main.py": b""}), Manifest(**DEFAULTS))
    with_tags = parse_manifest({"tags": ["gpu"]}, DEFAULTS)
    assert digest_of(pack(Bundle({"main.py": b""}), with_tags)) != digest_of(
        pack(Bundle({"main.py": b""}), Manifest(**DEFAULTS))
    )


def test_a_setting_gives_a_worker_its_tags() -> None:
    assert Settings(tags=" ssd, gpu,").read_tags() == ("gpu", "ssd")
    with pytest.raises(InvalidSettings, match=r"SANDLOT_TAGS='G PU'"):
        Settings(tags="G PU").read_tags()
