"""How commands are written to Redis."""

from __future__ import annotations

import hiredis

from sandlot.redis.pipeline import LARGE_BYTES, _pack_in_parts


def test_a_command_in_parts_is_the_same_command_and_its_large_arguments_are_not_copied() -> None:
    large, larger = b"a" * (LARGE_BYTES + 1), b"b" * (LARGE_BYTES + 2)
    arguments = ("EVALSHA", "x" * 40, 0, 1.5, large, b"", "é", larger, 7)
    parts = _pack_in_parts(arguments)
    assert b"".join(parts) == hiredis.pack_command(arguments)  # type: ignore[arg-type]  # its stub means a tuple of any length
    assert any(part is large for part in parts)
    assert any(part is larger for part in parts)
