"""Send one request to the API, inside the guest, with the first key.

Prints the reply's body and exits with 0 for every status below 400.

python3 ask.py METHOD PATH [JSON]
python3 ask.py SCRAPE URL      with the metrics token instead
python3 ask.py LIVE UNIT       ends with 0 if one of the API's workers is a process of this unit
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

KEY = Path("/etc/sandlot/api.key")
TOKEN = Path("/etc/sandlot/metrics.token")
API = "http://127.0.0.1:8000"


def main(method: str, path: str, body: str | None = None) -> int:
    if method == "LIVE":
        return 0 if is_live(path) else 1
    headers = {"authorization": f"Bearer {KEY.read_text().strip()}", "content-type": "application/json"}
    if method == "SCRAPE":
        method, headers["authorization"] = "GET", f"Bearer {TOKEN.read_text().strip()}"
    if method == "SUBMIT":
        method, headers["prefer"] = "POST", "respond-async"
    data = None if body is None else body.encode()
    request = urllib.request.Request(path if "://" in path else API + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=100) as reply:
            print(reply.headers.get("x-job-id", ""), reply.read().decode(), sep="\n")
            return 0
    except urllib.error.HTTPError as refused:
        print(refused.headers.get("x-job-id", ""), refused.read().decode(), sep="\n")
        return 1


def is_live(unit: str) -> bool:
    request = urllib.request.Request(f"{API}/v1/status", headers={"authorization": f"Bearer {KEY.read_text().strip()}"})
    try:
        with urllib.request.urlopen(request, timeout=100) as reply:
            names = [worker["name"] for worker in json.load(reply)["workers"]]
    except OSError:
        return False
    groups = [Path(f"/proc/{name.split('.')[-2]}/cgroup") for name in names]  # host.pid.random
    return any(f"/{unit}.service/" in group.read_text() for group in groups if group.exists())


sys.exit(main(*sys.argv[1:]))
