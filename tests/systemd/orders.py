"""In the guest: run each command that comes over a serial line as JSON, and say how it ended.

Knows: one line is one command, one line is one answer. Does not know: Sandlot.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tty


def answer(order: str) -> dict[str, object]:
    asked = json.loads(order)
    try:
        done = subprocess.run(
            ["/bin/bash", "-c", asked["command"]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=asked["limit_s"],
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return {"status": None, "output": (late.stdout or b"").decode(errors="replace")}
    return {"status": done.returncode, "output": done.stdout.decode(errors="replace")}


def main() -> None:
    with open(sys.argv[1], "r+b", buffering=0) as line:
        tty.setraw(line)
        line.write(b'"ready"\n')
        order = b""
        while piece := line.read(4096):
            order += piece
            while b"\n" in order:
                one, _, order = order.partition(b"\n")
                line.write(json.dumps(answer(one.decode())).encode() + b"\n")


main()
