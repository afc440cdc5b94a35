"""Measure the time from saving a file under `sandlot dev` to the first answer of the new code.

    python -m benchmarks.saves [--saves 30]

A platform with its defaults runs beside a `sandlot dev` that watches a folder. Each save writes a
new text to the same file. One caller asks every 5 ms on one connection until it gets the new
answer. The kinds of functions take turns. The time includes noticing, checking, sending and
recording the save, and the new version's cold start.
"""

from __future__ import annotations

import argparse
import http.client
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from benchmarks import hosting, process_tree
from benchmarks.servers import clean_environment

START_LIMIT_S: Final = 120.0
"""Time limit that includes resolving and installing dependencies once."""
SERVED_LIMIT_S: Final = 60.0
ASKED_EVERY_S: Final = 0.005


class Kind(NamedTuple):
    """One kind of function.

    `text` is its source, with `NUMBER` in place of its answer; `file` is its path in the folder.
    """

    label: str
    file: str
    text: str


PYTHON: Final = "def handler(event, context):\n    return NUMBER\n"
KINDS: Final[Mapping[str, Kind]] = {
    "python": Kind(
        "Python, a file", "saved_python.py", '# /// script\n# [tool.sandlot]\n# visibility = "public"\n# ///\n' + PYTHON
    ),
    "node": Kind(
        "Node, a file", "saved_node.js", '// sandlot: {"visibility": "public"}\nexport const handler = () => NUMBER;\n'
    ),
    "python-folder": Kind("Python, a folder", "saved_folder/main.py", PYTHON),
    "python-package": Kind(
        "Python, with a package",
        "saved_package.py",
        '# /// script\n# dependencies = ["humanize>=4"]\n# [tool.sandlot]\n# visibility = "public"\n# ///\nimport humanize\n\n\n'
        + PYTHON,
    ),
    "node-package": Kind(
        "Node, with a package",
        "saved_node_package.mjs",
        '// sandlot: {"visibility": "public", "dependencies": ["dayjs@^1"]}\nimport "dayjs";\nexport const handler = () => NUMBER;\n',
    ),
}


@dataclass(frozen=True, slots=True)
class Place:
    folder: Path
    port: int

    def save(self, kind: Kind, number: int) -> None:
        (self.folder / kind.file).write_text(kind.text.replace("NUMBER", str(number)))

    def path(self, kind: Kind) -> str:
        return f"/v1/functions/{kind.file.partition('/')[0].partition('.')[0].replace('_', '-')}/invoke"


@contextmanager
def place(kinds: list[Kind]) -> Iterator[Place]:
    """Start a platform, and a `sandlot dev` that has deployed each kind once."""
    with tempfile.TemporaryDirectory(prefix="saves-") as folder, open(f"{folder}/log", "ab") as log:
        here = Place(Path(folder, "mine"), hosting.free_port())
        (here.folder / "saved_folder").mkdir(parents=True)
        Path(folder, "none").mkdir()
        (here.folder / "saved_folder" / "function.toml").write_text('visibility = "public"\n')
        for kind in kinds:
            here.save(kind, 0)
        running = []

        def start(*words: str) -> None:
            command = [sys.executable, "-m", "sandlot", *words]
            environment = clean_environment() | _certificates() | {"SANDLOT_SANDBOX": "strict"}
            running.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder))

        try:
            start("up", "--port", str(here.port), "--functions", f"{folder}/none")
            _wait_until(lambda: _status(here.port, "GET", "/readyz") == 200, folder)
            start("dev", "--functions", str(here.folder))
            _wait_until(lambda: all(_status(here.port, "POST", here.path(kind)) == 200 for kind in kinds), folder)
            yield here
        finally:
            for process in reversed(running):
                process.send_signal(signal.SIGINT)
                process.wait(START_LIMIT_S)


def _certificates() -> dict[str, str]:
    """Return the certificates, as set for OpenSSL, for an index behind a proxy with its own."""
    return {name: os.environ[name] for name in ("SSL_CERT_FILE",) if name in os.environ}


def _status(port: int, method: str, path: str) -> int:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request(method, path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def _wait_until(condition: Callable[[], bool], folder: str) -> None:
    deadline_s = time.monotonic() + START_LIMIT_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"it did not start; it said:\n{Path(folder, 'log').read_text()[-3000:]}")
        time.sleep(0.1)


def served_ms(here: Place, kind: Kind, number: int) -> float:
    """Measure from just before the write to the end of the first answer with the new code."""
    connection = http.client.HTTPConnection("127.0.0.1", here.port, timeout=30)
    try:
        connection.connect()
        began_s = time.monotonic()
        here.save(kind, number)
        while True:
            connection.request("POST", here.path(kind), b"")
            reply = connection.getresponse()
            answer = reply.read()
            took_s = time.monotonic() - began_s
            if reply.status != 200:
                raise SystemExit(f"{kind.label} answered {reply.status}: {answer[:300]!r}")
            if answer == str(number).encode():
                return took_s * 1000
            if took_s > SERVED_LIMIT_S:
                raise SystemExit(f"{kind.label} still answers {answer!r} {took_s:.0f} s after the save of {number}")
            time.sleep(ASKED_EVERY_S)
    finally:
        connection.close()


def measure(kinds: list[Kind], saves: int) -> None:
    took: dict[Kind, list[float]] = {kind: [] for kind in kinds}
    with place(kinds) as here:
        for number in range(1, saves + 1):
            for kind in kinds:
                took[kind].append(served_ms(here, kind, number))
    print(f"{saves} saves of each; ms from the write of the file to the first answer of the new code")
    print("| | median | 95 % | slowest |\n|---|---|---|---|")
    for kind, some_ms in took.items():
        some_ms.sort()
        within = some_ms[math.ceil(0.95 * len(some_ms)) - 1]
        print(f"| {kind.label} | {median(some_ms):.0f} | {within:.0f} | {some_ms[-1]:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saves", type=int, default=30, help="of each kind of function")
    parser.add_argument(
        "--only", nargs="+", choices=KINDS, default=list(KINDS), help="the kinds; those with packages need PyPI and npm"
    )
    options = parser.parse_args()
    process_tree.adopt_orphans()
    measure([KINDS[name] for name in options.only], options.saves)


if __name__ == "__main__":
    main()
