"""Attempts on other processes: the worker, a victim, another function; and on memory and queues shared with them."""

import ctypes
import os
import resource
import signal
import struct

libc = ctypes.CDLL(None, use_errno=True)
ON_X86 = os.uname().machine == "x86_64"


def syscall(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def try_see_victim(targets):
    with open(f"/proc/{targets['victim_pid']}/comm") as file:
        return file.read()


def try_list_processes(targets):
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return f"{len(pids)} processes" if len(pids) > 5 else None


def try_read_victim_environment(targets):
    with open(f"/proc/{targets['victim_pid']}/environ") as file:
        text = file.read()
    return text if targets["token"] in text else None


def try_read_worker_environment(targets):
    with open(f"/proc/{targets['worker_pid']}/environ") as file:
        text = file.read()
    return "the worker's environment" if text else None


def try_read_own_environment(targets):
    found = [name for name, value in os.environ.items() if targets["token"] in value]
    return f"{found}" if found else None


def try_open_victim_memory(targets):
    pid = targets["victim_pid"]
    return str(os.open(f"/proc/{pid}/mem", os.O_RDWR))


def try_open_parent_memory(targets):
    return str(os.open(f"/proc/{os.getppid()}/mem", os.O_RDWR))


def try_trace_victim(targets):
    syscall(
        101 if ON_X86 else 117, ctypes.c_long(0x4206), ctypes.c_long(targets["victim_pid"]), None, None
    )  # PTRACE_SEIZE
    return "attached"


def try_trace_parent(targets):
    syscall(101 if ON_X86 else 117, ctypes.c_long(0x4206), ctypes.c_long(os.getppid()), None, None)
    return "attached"


class IoVec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def try_read_memory_of_victim(targets):
    buffer = ctypes.create_string_buffer(8)
    local, remote = IoVec(ctypes.addressof(buffer), 8), IoVec(targets["victim_address"], 8)
    count = syscall(
        310 if ON_X86 else 270,
        targets["victim_pid"],
        ctypes.byref(local),
        ctypes.c_ulong(1),
        ctypes.byref(remote),
        ctypes.c_ulong(1),
        ctypes.c_ulong(0),
    )
    return f"{count} bytes"


def try_take_descriptor_of_victim(targets):
    pidfd = os.pidfd_open(targets["victim_pid"])
    return f"{syscall(438, ctypes.c_int(pidfd), ctypes.c_int(0), ctypes.c_uint(0))}"


def try_signal_victim(targets):
    os.kill(targets["victim_pid"], 0)
    return "could signal"


def try_signal_worker(targets):
    os.kill(targets["worker_pid"], 0)
    return "could signal"


def try_signal_by_pidfd(targets):
    signal.pidfd_send_signal(os.pidfd_open(targets["victim_pid"]), signal.SIGCONT)
    return "signalled"


def try_queue_signal(targets):
    syscall(
        129 if ON_X86 else 138,
        targets["victim_pid"],
        signal.SIGCONT,
        struct.pack("=3i", signal.SIGCONT, 0, -1) + bytes(116),
    )  # SI_QUEUE
    return "queued"


def try_limit_victim(targets):
    before = resource.prlimit(targets["victim_pid"], resource.RLIMIT_NOFILE)
    resource.prlimit(targets["victim_pid"], resource.RLIMIT_NOFILE, before)
    return "limits set"


def try_slow_victim_down(targets):
    os.setpriority(os.PRIO_PROCESS, targets["victim_pid"], 5)
    return "priority set"


def try_pin_victim(targets):
    os.sched_setaffinity(targets["victim_pid"], os.sched_getaffinity(0))
    return "affinity set"


def try_attach_shared_memory(targets):
    identifier = libc.shmget(targets["shm_key"], 0, 0)
    if identifier < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(identifier, None, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "shmat")
    return ctypes.string_at(address, 8).decode("latin-1")


def try_make_shared_memory(targets):
    identifier = libc.shmget(0, 4096, 0o600 | 0o1000)
    if identifier < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    libc.shmctl(identifier, 0, None)
    return f"segment {identifier}"


def try_message_queue(targets):
    identifier = libc.msgget(0, 0o600 | 0o1000)
    if identifier < 0:
        raise OSError(ctypes.get_errno(), "msgget")
    libc.msgctl(identifier, 0, None)
    return f"queue {identifier}"


def try_semaphores(targets):
    identifier = libc.semget(0, 1, 0o600 | 0o1000)
    if identifier < 0:
        raise OSError(ctypes.get_errno(), "semget")
    libc.semctl(identifier, 0, 0)
    return f"semaphore {identifier}"


def try_posix_queue(targets):
    queue = libc.mq_open(targets["queue"].encode(), os.O_RDWR)
    if queue < 0:
        raise OSError(ctypes.get_errno(), "mq_open")
    return f"queue {queue}"


def try_read_shared_folder(targets):
    with open(targets["shared_file"]) as file:
        return file.read()
