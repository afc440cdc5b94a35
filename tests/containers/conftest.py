"""An engine and an image for all container tests.

They take minutes and root, so they run only on request: make test-containers.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.containers.docker_engine import Docker, open_docker
from tests.containers.engine import REPOSITORY, Engine, NoEngine, lock, open_engine

collect_ignore_glob = [] if os.environ.get("SANDLOT_TEST_CONTAINERS") else ["test_*.py"]


ENGINES: Final = ("engine", "docker")
"""The fixtures of what compose.yaml is run by."""


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Podman with our image in its store; whatever runs in it is gone afterwards."""
    held = lock()
    try:
        found = open_engine()
        found.build_base()
    except NoEngine as reason:
        os.close(held)
        pytest.skip(f"no container engine here: {reason}")
    found.build_image()
    try:
        yield found
    finally:
        found.close()
        os.close(held)


@pytest.fixture(scope="session")
def docker(engine: Engine) -> Iterator[Docker]:
    """Docker's own engine, with the image that Podman built."""
    with ExitStack() as stack:
        try:
            found = stack.enter_context(open_docker(engine))
        except NoEngine as reason:
            pytest.skip(f"no Docker here: {reason}")
        yield found


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the files that deploy/make-secrets.sh wrote."""
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    subprocess.run([REPOSITORY / "deploy" / "make-secrets.sh", folder], check=True, capture_output=True, timeout=30)
    return folder
