"""The root file system of every sandbox of one zygote: built once, read-only, with nothing in it that a function does not need.

Knows: which files runtimes, C libraries and TLS read. Does not know: namespaces, functions.
Lives in the zygote's own mount namespace, on a small tmpfs; each sandbox pivots into a copy and adds its own /tmp, /proc and /fn.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from typing import Final

from .. import syscalls
from ..protocol import BUNDLE_PATH, HOME_PATH, PACKAGES_PATH, RUNTIME_PATH, SECRETS_PATH, ZygoteConfig, inside_command

DEVICES: Final = ("null", "zero", "full", "random", "urandom")

# Taken from the host as they are, where they exist: shared libraries, time zones, certificate authorities.
_SHARED: Final = (
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/ld.so.cache",
    "/etc/localtime",
)

_PLACES: Final = (BUNDLE_PATH[1:], PACKAGES_PATH[1:], RUNTIME_PATH[1:])
_FILES: Final = {
    "etc/passwd": "root:x:0:0:root:/:/bin/sh\nfn:x:1000:1000:function:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    "etc/group": "root:x:0:\nfn:x:1000:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost fn\n::1 localhost\n",
    "etc/hostname": "fn\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "etc/resolv.conf": "",
}


def shared_paths(config: ZygoteConfig) -> list[str]:
    """Host paths a runtime needs to read, existing ones only; directories and files."""
    triplet = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}"
    paths = [triplet if os.path.isdir(triplet) else "/usr/lib", *_SHARED]
    paths += [path for path in ("/lib", "/lib64") if not os.path.islink(path)]
    paths += (
        python_paths()
        if config.runtime == "python"
        else [config.command[0], "/usr/share/nodejs", "/usr/share/node_modules"]
    )
    return [path for path in dict.fromkeys(paths) if os.path.exists(path)]


def python_paths() -> list[str]:
    """Interpreter, standard library and the interpreter's own shared libraries, without anything installed beside them."""
    prefix = sys.base_prefix
    libraries = (
        [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")] if prefix == "/usr" else [f"{prefix}/lib"]
    )
    return [*libraries, os.path.realpath(sys.executable)]


def build(base: str, config: ZygoteConfig) -> None:
    """Mount the skeleton on the existing directory `base`, in this process's own mount namespace.

    Raises:
        OSError: a mount was refused; the zygote ends, and the namespace with everything in it.
    """
    syscalls.mount("sandlot", base, "tmpfs", syscalls.MS_NOSUID, "mode=755,size=1m,nr_inodes=4096")
    for name in ("dev", "etc", "proc", "run", "srv", "tmp", "usr/bin", "usr/lib", *_PLACES):
        os.makedirs(f"{base}/{name}", mode=0o755, exist_ok=True)
    for name, text in _FILES.items():
        with open(f"{base}/{name}", "w", encoding="ascii") as file:
            file.write(text)
    for name in ("bin", "lib", "lib32", "lib64", "sbin"):
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{base}/{name}")
    for path in shared_paths(config):
        if path not in config.command:
            _bind(path, base + path, syscalls.MOUNT_ATTR_NODEV)
    if config.command:
        _bind(os.path.realpath(config.command[0]), base + inside_command(config)[0], syscalls.MOUNT_ATTR_NODEV)
    if shell := shutil.which("sh"):
        _bind(os.path.realpath(shell), f"{base}/usr/bin/sh", syscalls.MOUNT_ATTR_NODEV)
    _bind(config.folder, base + RUNTIME_PATH, syscalls.MOUNT_ATTR_NODEV)
    if config.runtime == "python":
        _hide_installed_packages(base)
    _make_devices(base)
    os.symlink(f"{HOME_PATH}/.secrets", base + SECRETS_PATH)
    if config.runtime == "node":
        # Node looks for packages in each folder above the file that wants one, for `import` nowhere else.
        os.symlink(f"{PACKAGES_PATH}/node_modules", f"{base}/node_modules")
    # Every sub-mount as well: a read-only root over a writable bind is how others were broken into.
    syscalls.mount_setattr(
        syscalls.AT_FDCWD, base, syscalls.AT_RECURSIVE, syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID
    )


def _bind(source: str, target: str, attributes: int) -> None:
    """Bind a file or directory, with all that is mounted below: a user namespace may not uncover what a mount hides."""
    if os.path.isdir(source):
        os.makedirs(target, mode=0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
        if not os.path.exists(target):
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    syscalls.mount(source, target, None, syscalls.MS_BIND | syscalls.MS_REC)
    syscalls.mount_setattr(
        syscalls.AT_FDCWD,
        target,
        syscalls.AT_RECURSIVE,
        syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | attributes,
    )


def _hide_installed_packages(base: str) -> None:
    """What the host installed for itself is not the function's to import: an empty folder lies on top."""
    for path in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        if os.path.isdir(base + path):
            _bind(f"{base}/srv", base + path, syscalls.MOUNT_ATTR_NODEV)


def _make_devices(base: str) -> None:
    for name in DEVICES:
        _bind(f"/dev/{name}", f"{base}/dev/{name}", 0)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("shm", HOME_PATH),
    ):
        os.symlink(target, f"{base}/dev/{name}")
