"""What the restricted level does without a mount namespace: reaching what is closed, giving folders and taking them back."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.sandbox.level_rig import bundle, open_level
from worker.sandbox.selftest.trial import try_once
from worker.sandbox.zygote import syscalls
from worker.sandbox.zygote.isolation import landlock
from worker.sandbox.zygote.isolation.host_paths import is_open_to_others
from worker.sandbox.zygote.isolation.tmpdir import remove_home

REPOSITORY = Path(__file__).resolve().parents[2]
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: functions get another uid only there")


@pytest.mark.slow
@AS_ROOT
async def test_a_bundle_in_a_closed_folder_is_read_and_the_folder_stays_closed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "neighbour").write_text("not yours")
    made = bundle(
        closed,
        "import os\ndef handler(e, c):\n try: return open(e).read()\n except OSError as error: return type(error).__name__",
    )
    async with open_level("restricted") as host:
        own = await try_once(host.prewarm, "python", made, str(made / "main.py"))
        other = await try_once(host.prewarm, "python", made, str(closed / "neighbour"))
    assert own.answer == "PermissionError"  # what it runs is a copy elsewhere
    assert other.answer == "PermissionError"
    assert not [name for name in os.listdir(tempfile.gettempdir()) if name.startswith(f"sandlot-bundles-{os.getpid()}")]


@pytest.mark.slow
async def test_home_is_writable_and_its_own(tmp_path: Path) -> None:
    source = "import os, tempfile\ndef handler(e, c):\n with tempfile.NamedTemporaryFile() as file: file.write(b'x')\n return os.environ['HOME']"
    async with open_level("restricted") as host:
        first = await try_once(host.prewarm, "python", bundle(tmp_path, source), {})
        if not first.receipt["home"]:
            pytest.skip("no tmpfs with a size and a file limit can be had here")
        assert first.kind == "result"
        assert not os.path.exists(first.answer)  # noqa: ASYNC240 - one stat


def test_a_home_without_permissions_is_removed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "a/b").mkdir(parents=True)
    (home / "a/b/file").write_text("x")
    (home / "link").symlink_to("/etc")
    (home / "a/b").chmod(0)
    (home / "a").chmod(0)
    remove_home(str(home))
    assert not home.exists()
    assert os.path.isdir("/etc")


def test_open_means_open_all_the_way(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp())
    inner = folder / "inner"
    inner.mkdir(mode=0o755)
    assert not is_open_to_others(str(inner))
    folder.chmod(0o711)
    assert is_open_to_others(str(inner))
    inner.rmdir()
    folder.rmdir()


PORTS = """
import os, socket, sys
from worker.sandbox.zygote import syscalls
from worker.sandbox.zygote.isolation import landlock
port, other = map(int, sys.argv[1:])
syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
landlock.restrict(syscalls.landlock_abi(), readable=[], writable=[], devices=[], connect_ports=[port])
for address in (("127.0.0.1", port), ("127.0.0.2", port), ("127.0.0.1", other)):
    try:
        socket.socket().connect(address)
        print("reached")
    except PermissionError:
        print("refused")
"""


@pytest.mark.skipif(syscalls.landlock_abi() < landlock.NETWORK_FROM, reason="Landlock knows no ports here")
def test_a_port_that_landlock_permits_is_permitted_at_every_address() -> None:
    """Why there are no builds and no hosts to reach without a network namespace: the proxy's port would be everybody's."""
    with (
        socket.create_server(("127.0.0.1", 0)) as proxy,
        socket.create_server(("127.0.0.2", proxy.getsockname()[1])) as elsewhere,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        assert elsewhere.getsockname()[0] != proxy.getsockname()[0]
        ports = [str(each.getsockname()[1]) for each in (proxy, other)]
        shown = subprocess.run(
            [sys.executable, "-c", PORTS, *ports], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
    assert shown.stdout.split() == ["reached", "reached", "refused"]
