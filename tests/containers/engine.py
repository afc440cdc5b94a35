"""A container engine for the tests: Podman as root, with a store under build/containers/.

The image is built in that store. Nothing here touches another Podman on the machine, and `close`
leaves files but no process, mount, network or container.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
HOME: Final = REPOSITORY / "build" / "containers"
RUN: Final = Path(
    "/run/sandlot-containers"
)  # short and on a tmpfs, as Podman wants it: what is here must not outlive a boot
PROGRAMS: Final = {
    "podman": "podman",
    "runc": "runc",
    "debootstrap": "debootstrap",
    "/usr/lib/podman/netavark": "netavark",
    "/usr/lib/podman/aardvark-dns": "aardvark-dns",
    "catatonit": "catatonit",
    "iptables": "iptables",
}
BASE: Final = "docker.io/library/debian:bookworm-slim"
IMAGE: Final = "localhost/sandlot:test"
BUILD: Final = "localhost/sandlot-build:test"
COMMAND_LIMIT_S: Final = 120
BUILD_LIMIT_S: Final = 900


class NoEngine(Exception):
    """There can be no container engine here; the message says why."""


class Engine:
    """A Podman with its own store, opened by `open_engine`.

    `environment` makes any `podman`, and podman-compose, use this store.
    """

    program: ClassVar[str] = "podman"
    # No pod: Docker has none, and in one all containers would share a network.
    compose: ClassVar[Sequence[str]] = (sys.executable, "-m", "podman_compose", "--in-pod=0")
    log_driver: ClassVar[str] = "k8s-file"
    """Podman's name of Docker's json-file."""
    shell: ClassVar[str] = (
        f'docker() {{ if [ "$1" = compose ]; then shift; {shlex.join(compose)} "$@"; else podman "$@"; fi; }}\n'
    )
    """A shell that has run this sends its `docker` commands to this engine."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment

    def run(
        self, *words: str, limit_s: float = COMMAND_LIMIT_S, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.program, *words],
            env=dict(self.environment),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{self.program} {' '.join(words)}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def once(self, *words: str, limit_s: float = COMMAND_LIMIT_S) -> subprocess.CompletedProcess[str]:
        """A container of its own for one command, gone when it ends."""
        return self.run("run", "--rm", "--init", *words, limit_s=limit_s, check=False)

    def inspect(self, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self.run("inspect", name).stdout)
        return found[0]

    def remove(self, *names: str) -> None:
        self.run("rm", "--force", "--time", "8", *names, check=False)

    def healthy(self, name: str) -> bool:
        """Asked by us: Podman leaves it to systemd's timers, which are not here."""
        return self.run("healthcheck", "run", name, check=False).returncode == 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Move this thread, and the processes it starts, to the network of published ports."""
        yield

    def has_image(self, name: str) -> bool:
        return self.run("image", "exists", name, check=False).returncode == 0

    def build_base(self) -> None:
        """Build the base image without a registry.

        It is the same Debian, installed from its packages, with this machine's CA certificates.
        """
        if self.has_image(BASE):
            return
        root = HOME / "rootfs"
        shutil.rmtree(root, ignore_errors=True)
        words = ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(root)]
        _call(words, BUILD_LIMIT_S)
        for authority in Path("/usr/local/share/ca-certificates").glob("*.crt"):
            shutil.copy(authority, root / "usr/local/share/ca-certificates")
        _call(["chroot", str(root), "update-ca-certificates"], COMMAND_LIMIT_S)
        archive = HOME / "base.tar"
        _call(["tar", "-C", str(root), "-cf", str(archive), "."], COMMAND_LIMIT_S)
        self.run("import", str(archive), BASE)
        archive.unlink()
        shutil.rmtree(root)

    def build_image(self) -> None:
        """Build the Dockerfile, reusing cached layers that are still valid."""
        base = ("--build-arg", f"BASE={BASE}")
        # The build stage gets a name: otherwise `image prune` below would remove the layers that
        # make the next build fast.
        self.build(*base, "--target", "build", "--tag", BUILD, ".")
        self.build(*base, "--tag", IMAGE, ".")
        self.run("image", "prune", "--force")

    def build(self, *words: str) -> None:
        limits = [word for limit in _own_limits() for word in ("--ulimit", limit)]  # a build reads no containers.conf
        self.run("build", "--network", "host", "--format", "docker", *limits, *words, limit_s=BUILD_LIMIT_S)

    def close(self) -> None:
        self.run("rm", "--all", "--force", "--time", "5", check=False)
        self.run("volume", "prune", "--force", check=False)
        self.run("network", "prune", "--force", check=False)
        for path in _mounts_below(HOME, RUN):
            subprocess.run(["umount", "--lazy", path], check=False)


def open_engine() -> Engine:
    """
    Raises:
        NoEngine: not root, or the programs cannot be had, or they do not work here.
    """
    if os.geteuid() != 0:
        raise NoEngine("a container engine with seccomp profiles and bridge networks of its own needs root")
    install(PROGRAMS)
    HOME.mkdir(parents=True, exist_ok=True)
    driver = "overlay"
    if not _works(_environment(driver)):
        driver = "vfs"  # a copy of everything for each layer, but it needs nothing of the kernel
        if not _works(_environment(driver)):
            raise NoEngine("podman info fails with the overlay driver and with vfs")
    return Engine(_environment(driver))


def lock() -> int:
    """Open the store for one test run at a time; other runs wait.

    It is closed when the process ends at the latest.
    """
    HOME.mkdir(parents=True, exist_ok=True)
    fd = os.open(HOME / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def install(programs: Mapping[str, str]) -> None:
    """Debian's packages of those that are missing.

    Args:
        programs: package by program.

    Raises:
        NoEngine: they cannot be had.
    """
    missing = [package for program, package in programs.items() if shutil.which(program) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise NoEngine(f"missing: {', '.join(missing)}; apt-get, which would install them, is missing too")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
        done = subprocess.run(
            ["apt-get", *words], env=environment, capture_output=True, text=True, timeout=BUILD_LIMIT_S, check=False
        )
        if done.returncode:
            raise NoEngine(f"apt-get {' '.join(words)}: {done.stderr.strip()[-300:]}")


def _environment(driver: str) -> dict[str, str]:
    """Write configuration files for this store alone.

    Nothing else reaches the podman that podman-compose starts.
    """
    (HOME / "storage.conf").write_text(
        f'[storage]\ndriver = "{driver}"\ngraphroot = "{HOME}/store-{driver}"\nrunroot = "{RUN}/run"\n'
    )
    (HOME / "containers.conf").write_text(
        f"[containers]\ndefault_ulimits = {json.dumps(_own_limits())}\n"
        f'[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "{HOME}/networks"\n'
        f'[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\ntmp_dir = "{RUN}/libpod"\n'
    )
    return {
        **os.environ,
        "CONTAINERS_CONF": str(HOME / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(HOME / "storage.conf"),
    }


def _own_limits() -> Sequence[str]:
    """Lower Podman's default limits of a million.

    A root without CAP_SYS_RESOURCE may not set them.
    """
    ours = {
        "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "nproc": resource.getrlimit(resource.RLIMIT_NPROC)[1],
    }
    # Podman lowers its own limit of processes to pid_max's default before it starts anything.
    bounded = {"nofile": min(ours["nofile"], 1 << 20), "nproc": min(ours["nproc"], 32768)}
    return [f"{name}={limit}:{limit}" for name, limit in bounded.items() if ours[name] != resource.RLIM_INFINITY]


def _works(environment: Mapping[str, str]) -> bool:
    words = ["podman", "info"]
    done = subprocess.run(words, env=dict(environment), capture_output=True, timeout=COMMAND_LIMIT_S, check=False)
    return done.returncode == 0


def _call(words: Sequence[str], limit_s: float) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=limit_s, check=False)
    if done.returncode:
        raise NoEngine(f"{words[0]}: {(done.stderr or done.stdout).strip()[-500:]}")


def _mounts_below(*folders: Path) -> list[str]:
    """Mount points in these folders, the innermost first."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        points = [line.split(" ")[4] for line in file]
    return sorted(
        (point for point in points if any(point.startswith(f"{folder}/") for folder in folders)), reverse=True
    )
