"""The root file system of a zygote's strict sandboxes: read-only, with only what functions need.

It is built once, on a small tmpfs in the zygote's own mount namespace. Each sandbox gets a copy of
that namespace, mounts its own /tmp and /proc there, makes the tree its root with pivot_root(2), and
gets its function at /fn. A restricted sandbox sees the host's paths instead: `shared_paths`.
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

# Taken from the host as they are, where they exist: shared libraries, time zones, certificate
# authorities.
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

_MOUNT_POINTS: Final = (BUNDLE_PATH[1:], PACKAGES_PATH[1:], RUNTIME_PATH[1:])
_FILES: Final = {
    "etc/passwd": "root:x:0:0:root:/:/bin/sh\nfn:x:1000:1000:function:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    "etc/group": "root:x:0:\nfn:x:1000:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost fn\n::1 localhost\n",
    "etc/hostname": "fn\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "etc/resolv.conf": "",
}


# Process: zygote, at both levels. Debian keeps the libraries of one architecture in a folder of its
# own (the multiarch triplet), others directly in /usr/lib. /lib and /lib64 are links into /usr on
# most systems, and are then made as links by `build`.
def shared_paths(config: ZygoteConfig) -> list[str]:
    """Return the host's files and folders that a runtime reads, as far as they exist."""
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
    """Return the interpreter, its shared libraries and the standard library.

    Below /usr these are single folders, without packages installed beside them; any other prefix is
    taken whole.
    """
    prefix = sys.base_prefix
    libraries = (
        [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")] if prefix == "/usr" else [f"{prefix}/lib"]
    )
    return [*libraries, os.path.realpath(sys.executable)]


# Process: zygote, once, in its own mount namespace, where it has CAP_SYS_ADMIN: as root, or in the
# user namespace that StrictLevel made. mount_setattr(2) only adds flags here, so flags that an
# outer user namespace has locked (mount_namespaces(7)) cannot make it fail.
def build(base: str, config: ZygoteConfig) -> None:
    """Mount the root file system on the existing folder `base`.

    Raises:
        OSError: a mount was refused. The zygote then ends, and its mount namespace with everything
            in it.
    """
    syscalls.mount("sandlot", base, "tmpfs", syscalls.MS_NOSUID, "mode=755,size=1m,nr_inodes=4096")
    for name in ("dev", "etc", "proc", "run", "srv", "tmp", "usr/bin", "usr/lib", *_MOUNT_POINTS):
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
        # Node looks for packages in each folder above the importing file; for `import`, unlike
        # `require`, nowhere else.
        os.symlink(f"{PACKAGES_PATH}/node_modules", f"{base}/node_modules")
    # AT_RECURSIVE, for every mount below: others were broken into through a writable bind mount
    # below a read-only root.
    syscalls.mount_setattr(
        syscalls.AT_FDCWD, base, syscalls.AT_RECURSIVE, syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID
    )


# Process: zygote. mount(2): a bind mount ignores most other flags, so the attributes need a second
# call. MS_REC, because in a user namespace the mounts that came from an outer one are locked
# together (mount_namespaces(7)): a bind mount that left out those below would uncover what they
# hide, and fails with EINVAL.
def _bind(source: str, target: str, attributes: int) -> None:
    """Bind a file or a folder read-only, with everything that is mounted below it."""
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


# Process: zygote.
def _hide_installed_packages(base: str) -> None:
    """Cover the host's installed packages by an empty folder: a function must not import them."""
    for path in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        if os.path.isdir(base + path):
            _bind(f"{base}/srv", base + path, syscalls.MOUNT_ATTR_NODEV)


# Process: zygote. Bind mounts of the host's nodes, without MOUNT_ATTR_NODEV, because a zygote in a
# user namespace may not mknod(2) a device. /dev/shm is /tmp, so that one tmpfs limits both.
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
