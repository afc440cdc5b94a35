"""`make hostile`: send 10,000 hostile requests to a new platform, and print a table of the replies.

Then compare the replies to generated requests with the platform's own OpenAPI document.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.hostile.contract import breaches
from tests.hostile.grammar import requests
from tests.hostile.throw import GROWTH_LIMIT_MIB, throw
from tests.system.up_process import Up

SOURCE = (
    "# /// script\n# [tool.sandlot]\n# visibility = 'public'\n# ///\ndef handler(event, context):\n    return event\n"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument(
        "--examples", type=int, default=10, help="of each way to ask for each operation of the document"
    )
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sandlot-hostile-") as folder:
        (Path(folder) / "functions").mkdir()
        (Path(folder) / "functions" / "echo.py").write_text(SOURCE)
        up = Up(Path(folder), env={"SANDLOT_WAIT_CAP_S": "0.5"})
        try:
            up.ready()
            (pid,) = [pid for pid in up.processes() if is_api(pid)]
            began_s = time.monotonic()
            verdict = throw(up.url, requests(given.seed, given.requests), pid)
            took_s = time.monotonic() - began_s
            with up.client() as client:
                serves = client.post("/v1/functions/echo/invoke", content=b"1").content == b"1"
            key = (Path(folder) / ".sandlot" / "key").read_text().strip()
            broken = list(breaches(up.url, key, given.examples, seed=given.seed)) if given.examples else []
        finally:
            up.stop()
    print(
        "seed        requests  "
        + "".join(f"{name:>8}" for name in sorted(verdict.statuses))
        + "   bad 5xx  hung  slowest s  grown MiB"
    )
    counts = "".join(f"{verdict.statuses[name]:>8}" for name in sorted(verdict.statuses))
    print(
        f"{given.seed:<11} {given.requests:>8}  {counts} {len(verdict.bad):>9} {verdict.hung:>5} {verdict.slowest_s:>10.2f} {verdict.growth_mib:>10.1f}"
    )
    for line in (*verdict.bad[:10], *broken[:50]):
        print(line)
    print(f"{len(broken)} replies that the OpenAPI document does not promise")
    print(f"{took_s:.0f} s; afterwards it {'serves' if serves else 'does NOT serve'}")
    return 1 if broken or verdict.bad or verdict.hung or not serves or verdict.growth_mib > GROWTH_LIMIT_MIB else 0


def is_api(pid: int) -> bool:
    return b"api" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


sys.exit(main())
