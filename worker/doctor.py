"""`python -m worker.doctor`: attack this machine's sandboxes and print which layers held.

The output is JSON for `sandlot doctor`. The exit status is 0 even if a layer failed, and 2 if the
sandboxes could not be tried.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from sandlot.errors import OperatorError
from sandlot.settings import load_settings
from worker.__main__ import runtime_commands
from worker.sandbox.selftest.verify import ProbeResult, probe

Row = dict[str, str]


def main() -> int:
    try:
        settings = load_settings()
        with tempfile.TemporaryDirectory(prefix="sandlot-doctor-") as folder:
            Path(folder).chmod(0o755)  # sandboxes with another uid must reach the files below
            results = asyncio.run(
                probe(level=settings.sandbox, runtimes=runtime_commands(settings), state_dir=Path(folder))
            )
    except OperatorError as error:
        print(f"sandlot doctor: {error.message}", file=sys.stderr)
        return 2
    print(json.dumps(list(rows(results))))
    return 0


def rows(results: Sequence[ProbeResult]) -> Iterator[Row]:
    """Yield a row for each runtime at each level, each followed by a row per layer that failed.

    A failed layer of the strict level is a warning if the restricted level holds for every runtime,
    and a failure otherwise.
    """
    groups: dict[str, list[ProbeResult]] = {}
    for result in results:
        groups.setdefault(result.feature.partition(": ")[0], []).append(result)
    last = results[-1].feature.split(" ")[0] if results else ""
    usable = bool(results) and all(result.held for result in results if result.feature.startswith(last))
    for group, found in groups.items():
        broken = [result for result in found if not result.held]
        grade = "ok" if not broken else "warning" if usable else "failed"
        whole = next((result.detail for result in found if result.feature.endswith("cgroup limits")), "")
        yield {
            "name": f"Sandbox {group}",
            "grade": grade,
            "found": f"{len(found) - len(broken)} of {len(found)} layers held against attack; {whole}",
            "remedy": "",
        }
        for result in broken:
            yield {"name": result.feature, "grade": grade, "found": result.detail, "remedy": result.remedy}


if __name__ == "__main__":
    sys.exit(main())
