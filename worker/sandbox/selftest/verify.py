"""Attack a real sandbox to find out which isolation features hold.

A worker does so for each zygote it starts, and refuses a level that does not hold; `sandlot doctor`
prints the results feature by feature. An attack that succeeds, that fails with an error of its own,
or that gives no answer means that the feature does not hold.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from sandlot.errors import SandboxUnavailable
from worker.sandbox.selftest.trial import Trial, try_in
from worker.sandbox.spec import Level, RuntimeCommand, SandboxSpec
from worker.sandbox.uids import reserve_block
from worker.sandbox.zygote.isolation.capabilities import SECUREBITS
from worker.sandbox.zygote_client import ZygoteClient

BUNDLE: Final = Path(__file__).parent / "bundle"
LIMIT_S: Final = 20.0
NUMBERS_INSIDE: Final = 128
"""More than the pids of a new sandbox's processes and threads: its PID namespace counts from 1, and
`SandboxSpec.processes` is 64."""

_PYTHON_CHECKS: Final = (
    "files", "bundle", "descriptors", "processes", "worker memory", "tracing", "tcp", "abstract sockets", "new namespaces",
    "mounts", "keyrings", "io_uring", "bpf", "privileges", "environment", "limits",
)  # fmt: skip
_NODE_CHECKS: Final = ("files", "bundle", "processes", "worker memory", "tcp", "abstract sockets", "environment")
_NAMESPACES: Final = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")

_SECCOMP_REMEDY: Final = (
    "the kernel must allow seccomp filters (CONFIG_SECCOMP_FILTER) and the container must not forbid seccomp(2)"
)
_LANDLOCK_REMEDY: Final = (
    "boot with a kernel of 5.13 or newer and lsm=...,landlock, and let the container call landlock_*(2)"
)
REMEDIES: Final = {
    "namespaces": "see `strict` in docs/sandbox.md: user namespaces, or root with CAP_SYS_ADMIN",
    "seccomp": _SECCOMP_REMEDY,
    "tracing": _SECCOMP_REMEDY,
    "new namespaces": _SECCOMP_REMEDY,
    "io_uring": _SECCOMP_REMEDY,
    "keyrings": _SECCOMP_REMEDY,
    "bpf": _SECCOMP_REMEDY,
    "landlock": _LANDLOCK_REMEDY,
    "limits": "do not forbid setrlimit(2) and prlimit(2)",
}


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of an attack on one isolation feature of one runtime's sandboxes."""

    feature: str
    held: bool
    detail: str
    remedy: str = ""


async def probe(
    *,
    level: Literal["auto", "strict", "restricted"],
    runtimes: Sequence[RuntimeCommand],
    state_dir: Path,
    missing: tuple[str, ...] = (),
) -> list[ProbeResult]:
    """Attack every feature of the level that a worker would use here.

    With `auto`, the restricted level follows if a feature of the strict one does not hold.

    Returns:
        One result per feature, named `strict python: files` and so on. A level that does not even
        start is a result with its remedy, not an exception.
    """
    levels: tuple[Level, ...] = ("strict", "restricted") if level == "auto" else (level,)
    results: list[ProbeResult] = []
    for candidate in levels:
        found = [await _probe_runtime(candidate, runtime, state_dir, missing) for runtime in runtimes]
        results += [result for group in found for result in group]
        if all(result.held for group in found for result in group):
            break
    return results


async def require_isolation(client: ZygoteClient) -> list[ProbeResult]:
    """Attack, and refuse the level unless every feature holds.

    Raises:
        SandboxUnavailable: the message names every feature that does not hold, and the remedy.
    """
    async with asyncio.timeout(LIMIT_S * 2):
        results = await attack(client)
    if broken := describe_failures(results):
        raise SandboxUnavailable(f"the {client.level} sandbox for {client.runtime.name} does not hold here: {broken}")
    return results


async def attack(client: ZygoteClient) -> list[ProbeResult]:
    """Attack every feature of the client's level once, all in one sandbox."""
    secret = secrets.token_hex(16)
    with _canaries(secret) as (targets, contacted), _neighbour(secret) as neighbour_pid:
        targets["neighbour_pid"] = neighbour_pid
        try:
            trial = await _try(client, targets)
        except SandboxUnavailable as error:
            return [ProbeResult("start", False, error.message, remedy_for(client.level, error.message))]
        found = list(_results_of(client, trial))
        if contacted():
            found.append(_result("network", False, "something reached the canary on the host's loopback device"))
        if secret in trial.log:
            found.append(_result("secrets", False, "the worker's secret was printed inside"))
    return found


def remedy_for(level: Level, failure: str) -> str:
    """Return the remedy for a level that does not even start here."""
    if level == "restricted":
        return _LANDLOCK_REMEDY
    if _read_number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == 1 and os.geteuid() != 0:
        return "AppArmor forbids user namespaces: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or run the worker as root"
    if (
        _read_number("/proc/sys/user/max_user_namespaces") == 0
        or _read_number("/proc/sys/kernel/unprivileged_userns_clone") == 0
    ):
        return "user namespaces are switched off: sysctl -w user.max_user_namespaces=15000 (and kernel.unprivileged_userns_clone=1 on Debian)"
    if _in_container():
        return "the container forbids namespaces or mounts: start it with deploy/worker-seccomp.json as its seccomp profile, and apparmor=unconfined where AppArmor is (docs/containers.md)"
    return "the kernel refused: see `strict` in docs/sandbox.md for what it needs"


def describe_failures(results: list[ProbeResult]) -> str:
    """Return one line with the features that do not hold and their remedies; empty if all hold."""
    broken = [result for result in results if not result.held]
    return "; ".join(f"{result.feature} does not hold ({result.detail}): {result.remedy}" for result in broken)


async def _probe_runtime(
    level: Level, runtime: RuntimeCommand, state_dir: Path, missing: tuple[str, ...]
) -> list[ProbeResult]:
    folder = _make_folder(state_dir)
    uid_base, lock = reserve_block() if os.geteuid() == 0 else (0, None)
    client = ZygoteClient(runtime, level, folder, uid_base, lambda _client: None, missing)
    try:
        await client.open()
        found = await attack(client)
    except SandboxUnavailable as error:
        found = [ProbeResult("start", False, error.message, remedy_for(level, error.message))]
    finally:
        await client.close()
        if lock is not None:
            lock.close()
        shutil.rmtree(folder)
    return [
        ProbeResult(f"{level} {runtime.name}: {result.feature}", result.held, result.detail, result.remedy)
        for result in found
    ]


def _make_folder(state_dir: Path) -> Path:
    state_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="probe-", dir=state_dir.resolve()))
    folder.chmod(0o755)
    return folder


async def _try(client: ZygoteClient, targets: dict[str, Any]) -> Trial:
    sandbox = await client.spawn(SandboxSpec())
    try:
        await sandbox.attach(BUNDLE)
        return await try_in(sandbox, targets | {"bundle": sandbox.bundle_path}, limit_s=LIMIT_S)
    finally:
        sandbox.close()


@contextmanager
def _canaries(secret: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """Offer a file, a TCP port and an abstract socket that no function may reach.

    Yields:
        Their names for the attack, and a function that tells whether a socket was contacted.
    """
    folder = tempfile.mkdtemp(prefix="sandlot-canary-")
    name = f"sandlot-canary-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_INET) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        tcp.bind(("127.0.0.1", 0))
        abstract.bind("\0" + name)
        for listener in (tcp, abstract):
            listener.listen()
            listener.setblocking(False)
        path = Path(folder) / "canary"
        path.write_text(secret)
        path.chmod(0o644)
        Path(folder).chmod(0o755)
        targets = {
            "canary_file": str(path),
            "canary_port": tcp.getsockname()[1],
            "canary_name": name,
            "secret": secret,
        }
        try:
            yield targets, lambda: _was_contacted(tcp) or _was_contacted(abstract)
        finally:
            shutil.rmtree(folder)


@contextmanager
def _neighbour(secret: str) -> Iterator[int]:
    """Run a process of the worker's own user as a target, and yield its pid.

    The pid must not exist inside a sandbox. So the worker itself cannot be the target: in a
    container its pid may be 1 or 2, and so are those of init and runtime in every sandbox.
    """
    while True:
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={"CANARY": secret})
        with process:  # leaving closes its input, which ends it
            if process.pid > NUMBERS_INSIDE:
                yield process.pid
                return


def _was_contacted(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def _results_of(client: ZygoteClient, trial: Trial) -> Iterator[ProbeResult]:
    checks = _PYTHON_CHECKS if client.runtime.name == "python" else _NODE_CHECKS
    if trial.kind != "result" or not isinstance(trial.answer, dict):
        yield _result(
            "attack",
            False,
            f"the attack itself failed: {trial.kind} {trial.answer} {trial.exit.failure} {trial.log[:300]}",
        )
        return
    for feature in checks:
        answer = trial.answer.get(feature)
        if not isinstance(answer, list) or len(answer) != 2 or answer[0] is not False:
            yield _result(
                feature, False, str(answer[1]) if isinstance(answer, list) and len(answer) == 2 else "no answer"
            )
        else:
            yield _result(feature, True, str(answer[1]))
    yield from _receipt_results(client.level, trial.receipt)


def _receipt_results(level: Level, receipt: dict[str, Any]) -> Iterator[ProbeResult]:
    """Judge the receipt, which trusted code read from the kernel before the function ran."""
    yield _result(
        "seccomp", receipt.get("seccomp") is True, "a filter is loaded" if receipt.get("seccomp") else "no filter"
    )
    yield _result("no new privileges", receipt.get("no_new_privs") is True, str(receipt.get("no_new_privs")))
    yield _result("capabilities", receipt.get("capabilities") == "0x0", str(receipt.get("capabilities")))
    abi = receipt.get("landlock_abi", 0)
    if level == "strict":
        missing = [name for name in _NAMESPACES if name not in receipt.get("namespaces", ())]
        yield _result(
            "namespaces",
            not missing,
            f"shared with the host: {missing}" if missing else " ".join(receipt["namespaces"]),
        )
        yield _result("securebits", receipt.get("securebits") == SECUREBITS, f"{receipt.get('securebits', 0):#x}")
        yield _result(
            "landlock",
            True,
            f"Landlock ABI {abi}" if abi else "no Landlock here; namespaces and seccomp hold by themselves",
        )
    else:
        yield _result("landlock", abi > 0, f"ABI {abi}")
    counted = {name: receipt.get(name, "none") for name in ("memory", "processes", "cpu")}
    yield _result("cgroup limits", True, ", ".join(f"{name}: {how}" for name, how in counted.items()))


def _result(feature: str, held: bool, detail: str) -> ProbeResult:
    return ProbeResult(feature, held, detail, "" if held else REMEDIES.get(feature, "see docs/sandbox.md"))


def _in_container() -> bool:
    """Return whether this is a container, by the marks that Docker, Podman and Kubernetes leave."""
    marks = any(os.path.exists(path) for path in ("/.dockerenv", "/run/.containerenv"))
    return marks or "container" in os.environ or "KUBERNETES_SERVICE_HOST" in os.environ


def _read_number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None
