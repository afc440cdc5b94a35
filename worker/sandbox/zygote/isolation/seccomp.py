"""The seccomp filter of a sandbox: the system calls it may make, compiled to BPF (seccomp(2)).

An allow list: a call that is not on it fails with ENOSYS, as on a kernel that does not have it, so
that C libraries and runtimes fall back. The first half compiles rules to classic BPF, the second
half is the rules. The program is a balanced tree of comparisons, because the kernel runs it once
for every system call number when it is loaded, to build its cache: 300 instructions load in 0.84 ms
as a list and in 0.22 ms as a tree.
"""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final, NamedTuple

# Opcodes of linux/bpf_common.h.
LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
JUMP: Final = 0x05  # BPF_JMP | BPF_JA
JUMP_EQUAL: Final = 0x15
JUMP_GREATER: Final = 0x25
JUMP_NOT_LESS: Final = 0x35
JUMP_ANY_BIT: Final = 0x45
AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
RETURN: Final = 0x06

# In struct seccomp_data: int nr, u32 arch, u64 instruction_pointer, u64 args[6].
NUMBER_OFFSET: Final = 0
ARCHITECTURE_OFFSET: Final = 4

# SECCOMP_RET_* of linux/seccomp.h. The most severe answer of all loaded filters counts.
ALLOW: Final = 0x7FFF0000
ERRNO: Final = 0x00050000
KILL_PROCESS: Final = 0x80000000

X32_BIT: Final = 0x40000000  # __X32_SYSCALL_BIT
HIGHEST_NUMBER: Final = 0xFFFFFFFF


class Instruction(NamedTuple):
    """One `struct sock_filter`."""

    code: int
    if_true: int
    if_false: int
    operand: int


Block = tuple[Instruction, ...]
"""Instructions that end by themselves: every path through them returns an action."""


def return_action(action: int) -> Block:
    """Return the block that ends the filter with this action."""
    return (Instruction(RETURN, 0, 0, action),)


def refuse(errno: int) -> Block:
    """Return the block that makes the call fail with this errno, without being run."""
    return return_action(ERRNO | errno)


def argument(index: int) -> Instruction:
    """Return the instruction that loads the low half of an argument.

    Both supported machines are little endian, so the low half of the u64 comes first.
    """
    return Instruction(LOAD, 0, 0, 16 + 8 * index)


# The distances of a conditional jump are bytes; that of BPF_JA has 32 bits.
def either(test: Instruction, yes: Block, no: Block) -> Block:
    """Return the block that continues with `yes` if the test holds, else with `no`.

    Args:
        test: a conditional jump whose distances are filled in here.
    """
    if len(yes) <= 255:
        return (test._replace(if_true=0, if_false=len(yes)), *yes, *no)
    return (test._replace(if_true=0, if_false=1), Instruction(JUMP, 0, 0, len(yes)), *yes, *no)


def is_any_bit(mask: int, yes: Block, no: Block) -> Block:
    """Return the block that tests whether the accumulator has any bit of `mask`."""
    return either(Instruction(JUMP_ANY_BIT, 0, 0, mask), yes, no)


def is_one_of(values: Sequence[int], yes: Block, no: Block) -> Block:
    """Return the block that compares the accumulator with each of `values`."""
    block = no
    for value in reversed(values):
        block = either(Instruction(JUMP_EQUAL, 0, 0, value), yes, block)
    return block


def compile_filter(rules: Mapping[int, Block], default: Block, architecture: int, *, x32: bool) -> bytes:
    """Compile rules to an array of `struct sock_filter`, as seccomp(2) takes it.

    Args:
        rules: by system call number. A block has to load whatever it tests.
        architecture: AUDIT_ARCH of the native ABI; a call through any other one kills the process.
        x32: whether numbers from 0x40000000 up are a second ABI; a call through it kills as well.
    """
    ranges = _ranges(rules, default, x32=x32)
    tree = (Instruction(LOAD, 0, 0, NUMBER_OFFSET), *_tree(ranges))
    # The architecture comes first, since the numbers below mean other calls in other ABIs: an
    # x86_64 process can make ia32 calls by int 0x80. The short kill stands before the long tree, so
    # that the distance of the jump over it fits into a byte.
    checked = (
        Instruction(LOAD, 0, 0, ARCHITECTURE_OFFSET),
        Instruction(JUMP_EQUAL, 1, 0, architecture),
        *return_action(KILL_PROCESS),
        *tree,
    )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in checked)


def _ranges(rules: Mapping[int, Block], default: Block, *, x32: bool) -> list[tuple[int, Block]]:
    """Return (first number, block) pairs in ascending order, with equal neighbours joined."""
    edges: list[tuple[int, Block]] = []
    after = 0
    for number in sorted(rules):
        if number > after:
            edges.append((after, default))
        edges.append((number, rules[number]))
        after = number + 1
    edges.append((after, default))
    if x32:
        edges.append((X32_BIT, return_action(KILL_PROCESS)))
    joined = edges[:1]
    for first, block in edges[1:]:
        if block != joined[-1][1]:
            joined.append((first, block))
    return joined


def _tree(ranges: Sequence[tuple[int, Block]]) -> Block:
    """Return the block that finds the range of the number in the accumulator by bisection."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    low, high = _tree(ranges[:middle]), _tree(ranges[middle:])
    return either(Instruction(JUMP_NOT_LESS, 0, 0, ranges[middle][0]), high, low)


def interpret(program: bytes, number: int, architecture: int, arguments: Sequence[int] = ()) -> int:
    """Return the action that the kernel would take, for tests of every number and architecture."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *(list(arguments) + [0] * 6)[:6])
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = position = 0
    while True:
        operation, if_true, if_false, operand = code[position]
        position += 1
        if operation == RETURN:
            return int(operand)
        if operation == LOAD:
            accumulator = int.from_bytes(data[operand : operand + 4], "little")
        elif operation == AND:
            accumulator &= operand
        elif operation == JUMP:
            position += operand
        else:
            position += if_true if _holds(operation, accumulator, operand) else if_false


def _holds(operation: int, accumulator: int, operand: int) -> bool:
    if operation == JUMP_EQUAL:
        return accumulator == operand
    if operation == JUMP_GREATER:
        return accumulator > operand
    if operation == JUMP_NOT_LESS:
        return accumulator >= operand
    if operation == JUMP_ANY_BIT:
        return bool(accumulator & operand)
    raise ValueError(f"unknown BPF operation {operation:#x}")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# AUDIT_ARCH_* of linux/audit.h: the ELF machine, with the bits for 64 bits and little endian.
AUDIT_ARCHITECTURE: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# A name that a machine's table does not have is skipped: aarch64 has neither open nor fork.
_ALLOWED: Final = _words(
    """
    access alarm arch_prctl brk cachestat capget chdir chmod chown clock_getres clock_gettime clock_nanosleep close close_range
    copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
    epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat
    fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fstat fstatfs fsync ftruncate futex futex_requeue
    futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpgid
    getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit get_robust_list getrusage getsid gettid gettimeofday
    getuid getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch kill lchown lgetxattr link linkat listxattr
    llistxattr lseek lstat madvise map_shadow_stack membarrier mincore mkdir mkdirat mlock mlock2 mmap mprotect mremap mseal msync
    munlock munmap nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
    pkey_mprotect poll ppoll pread64 preadv preadv2 prlimit64 pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat
    readv rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max
    sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setparam sched_setscheduler sched_yield
    select sendfile setitimer setpgid setpriority setrlimit set_robust_list setsid set_tid_address sigaltstack signalfd signalfd4 stat
    statfs statx symlink symlinkat sync_file_range sysinfo tgkill time timer_create timer_delete timer_getoverrun timer_gettime
    timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat uretprobe utime
    utimensat utimes vfork wait4 waitid write writev get_mempolicy accept accept4 bind connect getpeername getsockname getsockopt
    listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto setsockopt shutdown
    """
)

# EPERM instead of ENOSYS, for a readable error: these calls exist, and need a privilege.
_REFUSED: Final = _words(
    """
    unshare setns mount umount umount2 pivot_root chroot ptrace process_vm_readv process_vm_writev keyctl add_key request_key bpf
    perf_event_open userfaultfd kexec_load kexec_file_load init_module finit_module delete_module reboot swapon swapoff syslog acct
    settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname iopl ioperm quotactl quotactl_fd mknod mknodat
    open_by_handle_at name_to_handle_at setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset shmget
    shmat shmctl shmdt semget semop semtimedop semctl msgget msgsnd msgrcv msgctl mq_open mq_unlink vhangup lookup_dcookie setxattr
    lsetxattr fsetxattr removexattr lremovexattr fremovexattr setxattrat removexattrat pidfd_getfd kcmp move_pages migrate_pages mbind
    set_mempolicy splice vmsplice tee memfd_secret
    """
)

# Without a PID namespace a kill reaches the process group. So no process may leave it (setsid,
# setpgid), signal beyond it, or slow the machine's other processes down.
_REFUSED_WITHOUT_NAMESPACES: Final = _words(
    """
    setsid setpgid setpriority sched_setattr sched_setparam sched_setscheduler ioprio_set pidfd_open pidfd_send_signal rt_sigqueueinfo
    rt_tgsigqueueinfo
    """
)

# Landlock does not govern modes, owners and times (landlock(7)): under the worker's own uid these
# calls would reach the worker's files by their path.
_REFUSED_UNDER_OWN_UID: Final = _words(
    """
    chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat utime utimes futimesat utimensat
    """
)

# CLONE_NEWNS | CGROUP | UTS | IPC | USER | PID | NET. CLONE_NEWTIME (0x80) is not among them: in
# clone(2) that bit belongs to the exit signal; unshare(2) and clone3(2), which take it, are
# refused.
CLONE_NEW: Final = 0x7E020000
TERMINAL_INJECTION: Final = (0x5412, 0x541C, 0x5423, 0x541D)  # TIOCSTI (CVE-2017-5226), TIOCLINUX, TIOCSETD, TIOCCONS
REFUSED_PRCTL: Final = (35, 22, 0x59616D61, 4)  # PR_SET_MM, PR_SET_SECCOMP, PR_SET_PTRACER, PR_SET_DUMPABLE
MAP_SHARED_ANONYMOUS: Final = 0x21  # MAP_SHARED | MAP_ANONYMOUS
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
SOCK_STREAM, SOCK_DGRAM, SOCK_TYPE = 1, 2, 0xF
PERSONALITY_QUERY: Final = 0xFFFFFFFF

_YES: Final = return_action(ALLOW)
_EPERM: Final = refuse(errno.EPERM)
_EACCES: Final = refuse(errno.EACCES)
_ENOSYS: Final = refuse(errno.ENOSYS)


class FilterChoice(NamedTuple):
    """The properties of a sandbox that its filter depends on; each combination is compiled once."""

    network: bool = False
    """Internet sockets, TCP and UDP: the sandbox's own network leads to the proxy only."""
    namespaces: bool = True
    """False at the restricted level."""
    other_uid: bool = True
    """False where the function has the worker's own uid, and only Landlock protects the worker's
    files."""
    shared_memory: bool = False
    """Anonymous shared mappings and memfds: only where a memory cgroup counts them, as RLIMIT_DATA
    does not."""


@cache
def syscall_numbers(machine: str) -> dict[str, int]:
    """Return the system call numbers of `x86_64` or `aarch64` by name.

    The tables are from libseccomp 2.5.4 and from linux/arch/*/syscall.tbl up to Linux 6.13.
    """
    with open(os.path.join(os.path.dirname(__file__), "syscalls.json"), encoding="ascii") as file:
        tables: dict[str, dict[str, int]] = json.load(file)
    return tables[machine]


# Process: zygote, before the first sandbox; the runtime loads the result in lock_down.
def build_filter(choice: FilterChoice, machine: str) -> bytes:
    """Return the compiled filter for one machine."""
    by_name: dict[str, Block] = dict.fromkeys(_ALLOWED, _YES) | dict.fromkeys(_REFUSED, _EPERM) | _checked(choice)
    if not choice.namespaces:
        by_name |= dict.fromkeys(_REFUSED_WITHOUT_NAMESPACES, _EPERM)
    if not choice.other_uid:
        by_name |= dict.fromkeys(_REFUSED_UNDER_OWN_UID, _EPERM)
    numbers = syscall_numbers(machine)
    rules = {numbers[name]: block for name, block in by_name.items() if name in numbers}
    return compile_filter(rules, _ENOSYS, AUDIT_ARCHITECTURE[machine], x32=machine == "x86_64")


def _checked(choice: FilterChoice) -> dict[str, Block]:
    """Return the rules of calls whose arguments decide.

    The kernel reads the low 32 bits of each of these arguments, and so do the rules.
    """
    own_process_only = (argument(0), *is_one_of((0,), _YES, _EPERM))
    rules = {
        # With another pid, a call could lower the limits of the process that the next call is
        # forked from.
        "prlimit64": own_process_only,
        "clone": (argument(0), *is_any_bit(CLONE_NEW, _EPERM, _YES)),
        # Its flags are behind a pointer, which a filter cannot follow. On ENOSYS the C library
        # falls back to clone(2); on EPERM every creation of a thread would fail.
        "clone3": _ENOSYS,
        "ioctl": (argument(1), *is_one_of(TERMINAL_INJECTION, _EPERM, _YES)),
        "personality": (argument(0), *is_one_of((0, PERSONALITY_QUERY), _YES, _EPERM)),
        "prctl": (argument(0), *is_one_of(REFUSED_PRCTL, _EPERM, _YES)),
        "socket": _socket(choice),
        "socketpair": (argument(0), *is_one_of((AF_UNIX,), _YES, _EACCES)),
        "memfd_create": _YES if choice.shared_memory else _EPERM,
    }
    if not choice.shared_memory:
        masked = (argument(3), Instruction(AND, 0, 0, MAP_SHARED_ANONYMOUS))
        rules["mmap"] = (*masked, *is_one_of((MAP_SHARED_ANONYMOUS,), refuse(errno.ENOMEM), _YES))
    if not choice.namespaces:
        rules["sched_setaffinity"] = own_process_only
    return rules


def _socket(choice: FilterChoice) -> Block:
    """Return the rule for socket(2): families that stay inside the sandbox.

    With a network these are AF_INET and AF_INET6 as well, for the protocols TCP and UDP.
    """
    # Landlock below ABI 9 cannot refuse connect(2) to a socket at a path, so a sandbox without a
    # mount namespace gets no AF_UNIX socket at all.
    block = is_one_of((AF_UNIX,), _YES, _EACCES) if choice.namespaces else _EACCES
    if choice.network:
        kind = (
            argument(1),
            Instruction(AND, 0, 0, SOCK_TYPE),
            *is_one_of((SOCK_STREAM, SOCK_DGRAM), (argument(2), *is_one_of((0, 6, 17), _YES, _EACCES)), _EACCES),
        )
        block = is_one_of((AF_INET, AF_INET6), kind, block)
    return (argument(0), *block)
