"""Load on one URL, made with wrk, and wrk's report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SCRIPT: Final = Path(__file__).with_name("wrk.lua")
REPLY_LIMIT_S: Final = 20
"""wrk counts slower requests as timeouts. RQ's fork worker takes about 1 s at 64 clients."""


INSTALL_LIMIT_S: Final = 300


class LoadFailed(Exception):
    """wrk is missing, did not run, or printed an unknown report."""


@dataclass(frozen=True, slots=True)
class Load:
    """The figures of one run of wrk.

    `errors` counts replies of status 400 and above, broken connections and timeouts.
    """

    requests: int
    duration_s: float
    p50_ms: float
    p99_ms: float
    errors: int

    @property
    def per_s(self) -> float:
        return self.requests / self.duration_s


def find_wrk() -> str:
    """Return the path of wrk, which root on a Debian machine gets installed.

    Raises:
        LoadFailed: wrk is missing; the message says what to install.
    """
    apt_get = shutil.which("apt-get")
    if shutil.which("wrk") is None and os.geteuid() == 0 and apt_get is not None:
        subprocess.run(
            [apt_get, "install", "-y", "-qq", "wrk"], capture_output=True, timeout=INSTALL_LIMIT_S, check=False
        )
    path = shutil.which("wrk")
    if path is None:
        raise LoadFailed("wrk is not installed. On Debian: apt-get install -y wrk")
    return path


def parse_report(output: str) -> Load:
    """Return the line of JSON that wrk.lua prints between wrk's own lines.

    Raises:
        LoadFailed: the output has no such line.
    """
    for line in output.splitlines():
        if line.startswith('{"requests"'):
            report = json.loads(line)
            return Load(
                requests=report["requests"],
                duration_s=report["duration_us"] / 1e6,
                p50_ms=report["p50_us"] / 1e3,
                p99_ms=report["p99_us"] / 1e3,
                errors=sum(report[kind] for kind in ("connect", "read", "write", "timeout", "status")),
            )
    raise LoadFailed(f"wrk printed no report: {output.strip()[-300:]}")


def run(url: str, body: str, headers: dict[str, str], *, clients: int, duration_s: float) -> Load:
    """Keep `clients` connections busy for `duration_s`, one request at a time on each.

    Raises:
        LoadFailed: wrk could not run or connect.
    """
    extra = [text for header in headers.items() for text in header]
    argv = [
        find_wrk(),
        "-t1",
        f"-c{clients}",
        f"-d{max(1, round(duration_s))}s",
        f"--timeout={REPLY_LIMIT_S}s",
        "-s",
        str(SCRIPT),
        url,
    ]
    try:
        ran = subprocess.run(
            [*argv, "--", body, *extra],
            capture_output=True,
            text=True,
            timeout=duration_s + REPLY_LIMIT_S + 10,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LoadFailed(f"wrk did not end {REPLY_LIMIT_S + 10} s after its time") from error
    if ran.returncode != 0:
        raise LoadFailed(f"wrk ended with {ran.returncode}: {(ran.stderr or ran.stdout).strip()[-300:]}")
    return parse_report(ran.stdout)
