"""Source packages whose build backends attack the sandbox that builds them."""

from __future__ import annotations

import io
import tarfile

_BACKEND = """
import os, time, zipfile

{body}

def _info(name):
    return {{
        f"{{name}}/METADATA": "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n",
        f"{{name}}/WHEEL": "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        f"{{name}}/RECORD": "",
    }}

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    attack()
    os.makedirs(f"{{folder}}/{name}-1.0.dist-info", exist_ok=True)
    for path, text in _info("{name}-1.0.dist-info").items():
        with open(f"{{folder}}/{{path}}", "w") as file:
            file.write(text)
    return "{name}-1.0.dist-info"

def build_wheel(folder, config_settings=None, metadata_directory=None):
    attack()
    with zipfile.ZipFile(f"{{folder}}/{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("{name}/__init__.py", "BUILT = True")
        for path, text in _info("{name}-1.0.dist-info").items():
            archive.writestr(path, text)
    return "{name}-1.0-py3-none-any.whl"
"""

SLEEPS = """
def attack():
    time.sleep(100_000)
"""

_POISONS = """
LOCK, PATH, TEXT = {lock!r}, {path!r}, {text!r}

def put(path, text):
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)

def attack():
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.closerange(null + 1, 64)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for path, text in (("/tmp/lock.txt", LOCK), (PATH, TEXT)):
            try:
                with open(path) as file:
                    same = file.read() == text
                if not same:
                    put(path, text)
            except OSError:
                pass
        time.sleep(0.0005)
    os._exit(0)
"""


def poisons(lock: str, path: str, text: str) -> str:
    """The body of a backend that leaves a process behind; this process replaces the lock and one installed file."""
    return _POISONS.format(lock=lock, path=path, text=text)


def hostile_sdist(name: str, body: str) -> bytes:
    """A source package, version 1.0, whose backend calls `attack()` of `body` at each step."""
    files = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": _BACKEND.format(name=name, body=body),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(f"{name}-1.0/{path}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()
