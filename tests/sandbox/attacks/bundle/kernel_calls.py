"""Attempts that go straight to the kernel: namespaces, mounts, privileges, foreign ABIs, dangerous subsystems."""

import ctypes
import errno
import mmap
import os
import resource
import socket
import struct
import time

libc = ctypes.CDLL(None, use_errno=True)
ON_X86 = os.uname().machine == "x86_64"
NR = (
    {
        "clone": 56,
        "ptrace": 101,
        "vm_readv": 310,
        "add_key": 248,
        "keyctl": 250,
        "bpf": 321,
        "perf": 298,
        "uffd": 323,
        "capset": 126,
        "personality": 135,
    }
    if ON_X86
    else {
        "clone": 220,
        "ptrace": 117,
        "vm_readv": 270,
        "add_key": 217,
        "keyctl": 219,
        "bpf": 280,
        "perf": 241,
        "uffd": 282,
        "capset": 91,
        "personality": 92,
    }
)
NEWNS, NEWUSER, NEWPID, NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000


def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def check(result, name):
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return f"{name}: {result}"


def try_unshare_user_namespace(targets):
    return check(libc.unshare(NEWUSER | NEWNS), "unshare")


def try_unshare_network(targets):
    return check(libc.unshare(NEWNET), "unshare")


def in_child(child):
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if child() else 1)
        except OSError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def try_clone_namespaces(targets):
    pid = call(NR["clone"], ctypes.c_ulong(NEWUSER | NEWNS | 17), None, None, None, None)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "cloned into new namespaces"


def try_clone3_namespaces(targets):
    arguments = struct.pack("=11Q", NEWUSER, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0)
    pid = call(435, arguments, ctypes.c_size_t(len(arguments)))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "cloned into new namespaces"


def try_join_namespace(targets):
    fd = os.open(f"/proc/{targets['victim_pid']}/ns/mnt", os.O_RDONLY)
    return check(libc.setns(fd, 0), "setns")


def try_join_namespace_by_pidfd(targets):
    return check(libc.setns(os.pidfd_open(targets["victim_pid"]), NEWNS), "setns")


def try_mount_tmpfs(targets):
    return check(libc.mount(b"x", targets["scratch"].encode(), b"tmpfs", 0, None), "mount")


def try_mount_proc(targets):
    return check(libc.mount(b"proc", b"/proc", b"proc", 0, None), "mount")


def try_remount_writable(targets):
    return check(libc.mount(None, b"/", None, 32 | 4096, None), "remount")


def try_unmount(targets):
    return check(libc.umount2(b"/proc", 2), "umount")


def try_new_mount_api(targets):
    return f"fsopen: {call(430, b'tmpfs', ctypes.c_uint(0))}"


def try_open_tree(targets):
    return f"open_tree: {call(428, ctypes.c_int(-100), b'/', ctypes.c_uint(1))}"


def try_pivot_root(targets):
    """EINVAL or EBUSY means that the kernel looked at the arguments: the permission was there."""
    result = libc.syscall(155 if ON_X86 else 41, b".", b".")
    return f"errno {ctypes.get_errno()}" if result == 0 or ctypes.get_errno() in (errno.EINVAL, errno.EBUSY) else None


def try_set_hostname(targets):
    name = b"owned"
    return check(libc.sethostname(name, len(name)), "sethostname")


def try_set_clock(targets):
    time.clock_settime(time.CLOCK_REALTIME, time.time())
    return "clock set"


def try_become_root(targets):
    os.setresuid(0, 0, 0)
    return f"uid {os.getuid()}"


def try_change_group(targets):
    os.setgroups([0])
    return "group 0"


def try_gain_capabilities(targets):
    header = struct.pack("=Ii", 0x20080522, 0)
    call(NR["capset"], header, struct.pack("=6I", 1 << 7, 1 << 7, 0, 0, 0, 0))
    return "capset accepted"


def try_have_capabilities(targets):
    """In the bounding set, and to be had from a file: both at once are needed."""
    bounded, locked = (
        libc.prctl(23, 21, 0, 0, 0),
        libc.prctl(39, 0, 0, 0, 0),
    )  # PR_CAPBSET_READ of CAP_SYS_ADMIN, PR_GET_NO_NEW_PRIVS
    return "CAP_SYS_ADMIN can be had" if bounded == 1 and locked == 0 else None


def try_have_new_privileges(targets):
    return "no_new_privs is off" if libc.prctl(39, 0, 0, 0, 0) == 0 else None


def try_undo_securebits(targets):
    return check(libc.prctl(28, 0, 0, 0, 0), "securebits cleared")


def try_change_personality(targets):
    return f"was {call(NR['personality'], ctypes.c_ulong(0x0040000)):#x}"


def run_machine_code(code):
    page = mmap.mmap(
        -1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    )
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()


def try_ia32_call(targets):
    """getpid(2) through int 0x80: another table of numbers, which a filter that looks at numbers alone misreads."""
    if not ON_X86:
        raise RuntimeError("no ia32 on this machine")
    got = run_machine_code(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    return f"int 0x80 gave {got}"


def try_x32_call(targets):
    """A third table, behind bit 30. Surviving the call is enough: the filter let it through to the kernel."""
    if not ON_X86:
        raise RuntimeError("no x32 on this machine")
    return f"x32 getpid gave {libc.syscall(ctypes.c_long(0x40000000 | 39))}"


def try_keyring(targets):
    key = call(NR["add_key"], b"user", b"sandlot-attack", b"secret", ctypes.c_size_t(6), ctypes.c_int(-4))
    call(NR["keyctl"], ctypes.c_int(3), ctypes.c_int(key))  # revoke
    return f"key {key}"


def try_find_host_key(targets):
    return f"key {call(NR['keyctl'], ctypes.c_int(10), ctypes.c_int(-4), b'user', targets['key'].encode(), ctypes.c_int(0))}"


def try_bpf(targets):
    return f"map {call(NR['bpf'], ctypes.c_int(0), struct.pack('=IIII', 2, 4, 4, 1) + bytes(104), ctypes.c_uint(120))}"


def try_perf_events(targets):
    attributes = struct.pack("=IIQ", 1, 112, 0) + bytes(96)
    return (
        f"perf {call(NR['perf'], attributes, ctypes.c_int(0), ctypes.c_int(-1), ctypes.c_int(-1), ctypes.c_ulong(0))}"
    )


def try_userfaultfd(targets):
    return f"uffd {call(NR['uffd'], ctypes.c_int(0))}"


def try_io_uring(targets):
    """io_uring does its work past the seccomp filter."""
    return f"ring {call(425, ctypes.c_uint(4), bytes(120))}"


def try_fanotify(targets):
    return f"fanotify {call(300 if ON_X86 else 262, ctypes.c_uint(0), ctypes.c_uint(0))}"


def permitted(number, *arguments):
    """Whether the kernel got past its permission check, with arguments it then refuses."""
    libc.syscall(ctypes.c_long(number), *arguments)
    found = ctypes.get_errno()
    if found in (errno.EPERM, errno.EACCES, errno.ENOSYS):
        raise OSError(found, os.strerror(found))
    return f"errno {found}"


def try_reboot(targets):
    return permitted(169 if ON_X86 else 142, ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0), None)


def try_unload_module(targets):
    return permitted(176 if ON_X86 else 106, b"no-such-module", ctypes.c_uint(0))


def try_swapon(targets):
    return permitted(167 if ON_X86 else 224, b"/no-such-file", ctypes.c_int(0))


def try_port_privilege(targets):
    if not ON_X86:
        raise RuntimeError("no ports on this machine")
    return f"iopl: {call(172, ctypes.c_int(3))}"


def try_process_accounting(targets):
    return permitted(163 if ON_X86 else 89, b"/no-such-file")


def try_inject_into_terminal(targets):
    """TIOCSTI (CVE-2017-5226). ENOTTY means that the ioctl itself was let through to the driver."""
    import fcntl

    try:
        fcntl.ioctl(0, 0x5412, b"x")
    except OSError as error:
        return f"errno {error.errno}" if error.errno != errno.EPERM else None
    return "typed"


def try_raise_limits(targets):
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
    return "limit raised"


def try_real_time_scheduling(targets):
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return "real time"


def try_raise_priority(targets):
    os.setpriority(os.PRIO_PROCESS, 0, -10)
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    return "priority raised"


def try_debug_setting(targets):
    """Become traceable again, or name who may trace us."""
    return (
        check(libc.prctl(0x59616D61, -1, 0, 0, 0), "PR_SET_PTRACER")
        if os.path.exists("/proc/sys/kernel/yama")
        else check(libc.prctl(4, 1, 0, 0, 0), "PR_SET_DUMPABLE")
    )


def try_splice_into_file(targets):
    """Dirty Pipe (CVE-2022-0847) began with a page of a read-only file in a pipe."""
    file = os.open(os.__file__, os.O_RDONLY)
    _read, write = os.pipe()
    return (
        f"spliced {os.splice(file, write, 1, offset_src=0)}"
        if hasattr(os, "splice")
        else f"spliced {call(275 if ON_X86 else 76, file, None, write, None, ctypes.c_size_t(1), ctypes.c_uint(0))}"
    )


def try_pass_socket_credentials(targets):
    """Claim to be somebody else over a unix socket; the kernel must refuse what is not ours."""
    first, _second = socket.socketpair()
    first.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("=3i", 1, 0, 0))])
    return "claimed to be pid 1, uid 0"
