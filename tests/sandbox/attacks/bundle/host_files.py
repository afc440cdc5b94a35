"""Attempts on the host's files, on what is mounted, on devices and on descriptors that were left open."""

import ctypes
import os
import stat
import sys

libc = ctypes.CDLL(None, use_errno=True)
SYS = {
    "x86_64": {"name_to_handle_at": 303, "open_by_handle_at": 304},
    "aarch64": {"name_to_handle_at": 264, "open_by_handle_at": 265},
}[os.uname().machine]


def read(path):
    with open(path, "rb") as file:
        return file.read(200).decode("latin-1")


def try_read_host_file(targets):
    return read(targets["file"])


def try_read_through_parents(targets):
    return read("../" * 20 + targets["file"])


def try_read_shadow(targets):
    return read("/etc/shadow")


def try_append_to_host_file(targets):
    with open(targets["victim_file"], "ab") as file:
        file.write(b"!")
    return "appended"


def try_truncate_host_file(targets):
    os.truncate(targets["victim_file"], 1)
    return "truncated"


def try_chmod_host_file(targets):
    os.chmod(targets["victim_file"], 0o777)  # noqa: S103 - any uid must get at the bait
    return "mode changed"


def try_change_times_of_host_file(targets):
    os.utime(targets["victim_file"], (1, 1))
    return "times changed"


def try_hardlink_host_file(targets):
    link = os.path.join(targets["scratch"], "hardlink")
    os.link(targets["victim_file"], link)
    os.unlink(link)
    return "hard link made"


def try_symlink_to_host_file(targets):
    """Judge0 (CVE-2024-28185, -28189): a link planted inside is followed by somebody privileged; here, by ourselves."""
    link = os.path.join(targets["scratch"], "symlink")
    os.symlink(targets["file"], link)
    try:
        return read(link)
    finally:
        os.unlink(link)


def try_write_own_code(targets):
    path = os.path.join(targets["bundle"], "planted.py")
    with open(path, "w") as file:
        file.write("")
    os.unlink(path)
    return "wrote " + path


def try_write_standard_library(targets):
    path = os.path.join(os.path.dirname(os.__file__), "planted.py")
    with open(path, "w") as file:
        file.write("")
    os.unlink(path)
    return "wrote " + path


def try_write_root_directory(targets):
    path = "/planted-by-a-sandbox"
    os.mkdir(path)
    os.rmdir(path)
    return "made " + path


def try_write_ld_so_preload(targets):
    fd = os.open("/etc/ld.so.preload", os.O_WRONLY | os.O_CREAT)
    os.close(fd)
    if os.path.getsize("/etc/ld.so.preload") == 0:
        os.unlink("/etc/ld.so.preload")
    return "opened /etc/ld.so.preload for writing"


def try_write_dev_directory(targets):
    path = "/dev/planted-by-a-sandbox"
    os.mkdir(path)
    os.rmdir(path)
    return "made " + path


def try_open_by_handle(targets):
    """shocker: file handles name inodes past every mount namespace."""
    handle = ctypes.create_string_buffer(8 + 128)
    ctypes.memmove(handle, (128).to_bytes(4, "little"), 4)
    mount_id = ctypes.c_int()
    path = targets["file"].encode()
    if libc.syscall(SYS["name_to_handle_at"], -100, path, handle, ctypes.byref(mount_id), 0) != 0:
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    root = os.open("/", os.O_RDONLY)
    fd = libc.syscall(SYS["open_by_handle_at"], root, handle, os.O_RDONLY)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "open_by_handle_at")
    return os.read(fd, 100).decode()


def try_find_leaked_descriptors(targets):
    """CVE-2024-21626: a descriptor of the host that nobody closed."""
    leaked = []
    for fd in range(5, 1024):
        try:
            kind = os.fstat(fd)
        except OSError:
            continue
        if stat.S_ISDIR(kind.st_mode) or stat.S_ISREG(kind.st_mode):
            leaked.append(fd)
    return f"descriptors {leaked}" if leaked else None


def try_escape_through_descriptors(targets):
    for fd in range(64):
        try:
            found = os.open("../" * 20 + targets["file"].lstrip("/"), os.O_RDONLY, dir_fd=fd)
        except OSError:
            continue
        return os.read(found, 100).decode()
    return None


def try_escape_through_proc_fd(targets):
    for fd in range(64):
        try:
            return read(f"/proc/self/fd/{fd}/" + "../" * 20 + targets["file"].lstrip("/"))
        except OSError:
            continue
    return None


def try_escape_through_proc_root(targets):
    for pid in (os.getppid(), targets["victim_pid"]):
        try:
            return read(f"/proc/{pid}/root{targets['file']}")
        except OSError:
            continue
    return None


def try_see_host_mounts(targets):
    mounts = read("/proc/self/mounts") + open("/proc/self/mounts").read()  # noqa: SIM115 - the process ends with the attempt
    return mounts[:200] if "cgroup" in mounts or " /sys " in mounts else None


def try_read_disk(targets):
    for name in os.listdir("/dev"):
        path = "/dev/" + name
        if stat.S_ISBLK(os.stat(path).st_mode):
            fd = os.open(path, os.O_RDONLY)
            return f"{path}: {len(os.read(fd, 512))} bytes"
    return None


def try_read_kernel_log(targets):
    return f"{os.open('/dev/kmsg', os.O_RDONLY | os.O_NONBLOCK)}"


def try_open_memory_device(targets):
    return f"{os.open('/dev/mem', os.O_RDONLY)}"


def try_make_device_node(targets):
    path = os.path.join(targets["scratch"], "node")
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(254, 0))
    os.unlink(path)
    return "made a block device"


def try_get_terminal(targets):
    _first, second = os.openpty()
    return os.ttyname(second)


def try_open_sysrq(targets):
    return f"{os.open('/proc/sysrq-trigger', os.O_WRONLY)}"


def try_open_core_pattern(targets):
    return f"{os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY)}"


def try_read_kernel_symbols(targets):
    with open("/proc/kallsyms") as file:
        return next((line for line in file if int(line.split()[0], 16)), None)


def try_enter_cgroup_tree(targets):
    return f"{os.open('/sys/fs/cgroup/memory/cgroup.procs', os.O_WRONLY)}"


def try_open_release_agent(targets):
    """CVE-2022-0492: the host runs what release_agent names."""
    return f"{os.open('/sys/fs/cgroup/memory/release_agent', os.O_WRONLY)}"


def try_find_setuid_program(targets):
    if libc.prctl(39, 0, 0, 0, 0) == 1:  # PR_GET_NO_NEW_PRIVS: then the bit means nothing
        return None
    for folder in ("/usr/bin", "/bin"):
        for name in ("su", "passwd", "mount", "newgrp"):
            path = f"{folder}/{name}"
            if (
                os.path.exists(path)
                and os.stat(path).st_mode & stat.S_ISUID
                and not os.statvfs(path).f_flag & os.ST_NOSUID
            ):
                return path
    return None


def try_read_installed_packages(targets):
    import site

    for folder in site.getsitepackages():
        names = os.listdir(folder)
        if names:
            return f"{folder}: {names[:3]}"
    return None


def try_leave_chroot(targets):
    os.chdir("/")
    os.chroot(targets["scratch"])  # the working directory is outside now
    return read(targets["file"].lstrip("/"))


def try_overwrite_interpreter(targets):
    """CVE-2019-5736: the program that runs the box is writable from inside."""
    libraries = [line.split()[-1] for line in open("/proc/self/maps") if "libpython" in line or "libc.so" in line]  # noqa: SIM115 - the process ends with the attempt
    path = libraries[0] if libraries else os.path.realpath(sys.executable)
    return f"{path} {os.open(path, os.O_RDWR)}"
