"""A function's secrets as files: there for it alone, whatever its runtime, isolation and level, and the same for each call."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sandlot.models import Isolation, Runtime
from tests.sandbox.pool_rig import Rig, open_host, open_rig
from worker.sandbox.host import SandboxHost

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRETS = {"PASSWORD": "correct-horse-battery-staple", "CERTIFICATE": "-----BEGIN-----\nÄ\n-----END-----\n"}

READ = {
    Runtime.PYTHON: """
import os, pathlib
folder = pathlib.Path(os.environ["SANDLOT_SECRETS_DIR"])
at_import = {path.name: path.read_bytes().decode() for path in folder.iterdir()}
def handler(event, context):
    values = {path.name: path.read_bytes().decode() for path in folder.iterdir()}
    modes = [oct(path.stat().st_mode & 0o777) for path in (folder, *folder.iterdir())]
    return [at_import, values, {name: os.environ[name] for name in values}, modes, os.path.exists("/run/secrets/PASSWORD")]
""",
    Runtime.NODE: """
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
const folder = process.env.SANDLOT_SECRETS_DIR;
const read = () => Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(`${folder}/${name}`, 'utf8')]));
const atImport = read();
const mode = (path) => '0o' + (statSync(path).mode & 0o777).toString(8);
export const handler = () => [atImport, read(), { PASSWORD: process.env.PASSWORD, CERTIFICATE: process.env.CERTIFICATE },
  [mode(folder), ...readdirSync(folder).map((name) => mode(`${folder}/${name}`))], existsSync('/run/secrets/PASSWORD')];
""",
}

SPOIL = """
import os, pathlib
def handler(event, context):
    folder = pathlib.Path(os.environ["SANDLOT_SECRETS_DIR"])
    value = (folder / "PASSWORD").read_text()
    folder.chmod(0o700)
    for path in folder.iterdir():
        path.unlink()
    if event == "link":
        folder.rmdir()
        folder.symlink_to("/fn")
    elif event == "file":
        folder.rmdir()
        folder.write_text("mine")
    else:
        (folder / "PASSWORD").write_text("mine")
    return value
"""

SEARCH = """
import os
def handler(event, context):
    seen = []
    for root in ("/tmp", "/run", "/fn", "/dev/shm", event):
        for folder, _, names in os.walk(root):
            for name in names:
                try:
                    with open(os.path.join(folder, name), "rb") as file:
                        seen.append(file.read(65536).decode("utf-8", "replace"))
                except OSError:
                    pass
    return ["SANDLOT_SECRETS_DIR" in os.environ, "".join(seen)]
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["strict", "restricted"])
async def host(request: pytest.FixtureRequest) -> AsyncIterator[SandboxHost]:
    async with open_host(node=True, level=request.param) as host:
        yield host


@pytest_asyncio.fixture(loop_scope="module")
async def rig(host: SandboxHost) -> AsyncIterator[Rig]:
    async with open_rig(host, prewarmed=1) as rig:
        yield rig


def processes_with(value: bytes) -> list[str]:
    """Files of /proc that show it to others."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        for file in (path / "cmdline", path / "environ"):
            with contextlib.suppress(OSError):  # it ended
                if value in file.read_bytes():
                    found.append(str(file))
    return found


def files_on_disk(name: str) -> list[Path]:
    """List the files of this name that sandboxes left on the host's disk.

    Tests of other processes remove their folders meanwhile; `os.walk` passes over these.
    """
    folders = Path(tempfile.gettempdir()).glob("sandlot-*")
    return [Path(place, name) for folder in folders for place, _, files in os.walk(folder) if name in files]


def write(rig: Rig, source: str, **spec: Any) -> str:
    return rig.write(source, secret_names=tuple(SECRETS), secrets=SECRETS, **spec)


@pytest.mark.slow
@pytest.mark.parametrize("isolation", Isolation)
@pytest.mark.parametrize("runtime", Runtime)
async def test_each_secret_is_a_variable_and_a_file_before_the_import(
    rig: Rig, host: SandboxHost, runtime: Runtime, isolation: Isolation
) -> None:
    name = write(rig, READ[runtime], runtime=runtime, isolation=isolation)
    for _ in range(2):
        at_import, values, variables, modes, at_run_secrets = await rig.value(name)
        assert at_import == values == variables == SECRETS
        assert modes == ["0o500", "0o400", "0o400"]
        assert at_run_secrets == (host.level == "strict")


@pytest.mark.parametrize("how", ["write", "link", "file"])
async def test_a_call_in_a_process_of_its_own_cannot_change_the_files_of_the_next(rig: Rig, how: str) -> None:
    name = write(rig, SPOIL, isolation=Isolation.FORK)
    assert [await rig.value(name, how) for _ in range(3)] == [SECRETS["PASSWORD"]] * 3


async def test_another_function_finds_nothing_of_it(rig: Rig, host: SandboxHost) -> None:
    keeper = write(rig, READ[Runtime.PYTHON], name="keeper")
    folder = (await rig.value(keeper))[0]  # its sandbox is warm now
    assert folder == SECRETS
    has_folder, seen = await rig.value(rig.write(SEARCH, name="curious"), "/proc")
    assert (has_folder, SECRETS["PASSWORD"] in seen) == (False, False)


async def test_no_file_of_the_host_has_it_and_nothing_is_left_in_proc(rig: Rig) -> None:
    name = write(rig, READ[Runtime.PYTHON])
    await rig.value(name)
    assert processes_with(SECRETS["PASSWORD"].encode()) == []
    assert files_on_disk("PASSWORD") == []


async def test_the_receipt_and_the_logs_of_a_call_do_not_have_it(rig: Rig) -> None:
    outcome = await rig.run(write(rig, READ[Runtime.NODE], runtime=Runtime.NODE))
    assert SECRETS["PASSWORD"].encode() not in outcome.receipt + outcome.logs
    assert json.loads(outcome.receipt)["level"]
