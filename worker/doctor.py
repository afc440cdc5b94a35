"""`python -m worker.doctor`: attack the walls of this machine's sandboxes and print what held, as JSON for `sandlot doctor`.

Exits with 0 whatever it found; what it found is the answer.
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
            Path(folder).chmod(0o755)  # a sandbox of another uid must get at what lies below
            results = asyncio.run(
                probe(level=settings.sandbox, runtimes=runtime_commands(settings), state_dir=Path(folder))
            )
    except OperatorError as error:
        print(f"sandlot doctor: {error.message}", file=sys.stderr)
        return 2
    print(json.dumps(list(rows(results))))
    return 0


def rows(results: Sequence[ProbeResult]) -> Iterator[Row]:
    """One row for each runtime at each level, then one for each wall that does not hold.

    A broken strict wall is a warning while restricted holds for every runtime, else a failure.
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
            "found": f"{len(found) - len(broken)} of {len(found)} walls held against attack; {whole}",
            "remedy": "",
        }
        for result in broken:
            yield {"name": result.feature, "grade": grade, "found": result.detail, "remedy": result.remedy}


if __name__ == "__main__":
    sys.exit(main())
