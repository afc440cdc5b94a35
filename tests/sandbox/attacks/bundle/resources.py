"""Attempts to take more than one's share; each is bounded, and says how much it got if that was too much."""

import mmap
import os
import select
import signal
import tempfile
import threading
import time

MIB = 1024 * 1024


def try_many_processes(targets):
    children = []
    try:
        for _ in range(150):
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            children.append(pid)
    except OSError:
        return None
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return f"{len(children)} processes"


def try_many_threads(targets):
    stop = threading.Event()
    threads = []
    try:
        for _ in range(150):
            thread = threading.Thread(target=stop.wait)
            thread.start()
            threads.append(thread)
    except (RuntimeError, MemoryError):
        return None
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return f"{len(threads)} threads"


def try_much_memory(targets):
    kept = []
    for _ in range(9):
        block = bytearray(64 * MIB)
        block[::4096] = b"x" * len(block[::4096])
        kept.append(block)
    return f"{len(kept) * 64} MiB"


def try_much_shared_memory(targets):
    kept = []
    for _ in range(9):
        block = mmap.mmap(-1, 64 * MIB)
        for offset in range(0, 64 * MIB, 4096):
            block[offset] = 1
        kept.append(block)
    return f"{len(kept) * 64} MiB"


def try_memory_in_children(targets):
    ends, children = [], []
    for _ in range(3):  # 300 of the 256 MiB that they may have together; more only take longer
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            try:
                block = bytearray(100 * MIB)
                block[::4096] = b"x" * (len(block) // 4096)
                os.write(write, b"x")
                time.sleep(60)
            finally:
                os._exit(1)
        os.close(write)
        ends.append(read)
        children.append(pid)
    try:
        held = 0
        for end in ends:
            ready, _, _ = select.select([end], [], [], 12)  # 100 MiB are slow to get on a busy machine
            held += bool(ready and os.read(end, 1))
        alive = sum(os.waitpid(pid, os.WNOHANG)[0] == 0 for pid in children)
    finally:
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    return f"{alive * 100} MiB in {alive} processes" if held == alive == 3 else None


def try_fill_disk(targets):
    with tempfile.TemporaryFile(dir=targets["scratch"]) as file:
        for _ in range(200):
            file.write(bytes(MIB))
            file.flush()
    return "200 MiB"


def try_many_small_files(targets):
    folder = tempfile.mkdtemp(dir=targets["scratch"])
    made = 0
    try:
        for number in range(20000):
            os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_WRONLY))
            made += 1
    except OSError:
        return None
    finally:
        for number in range(made):
            os.unlink(f"{folder}/{number}")
        os.rmdir(folder)
    return f"{made} files"


def try_sparse_file(targets):
    with tempfile.TemporaryFile(dir=targets["scratch"]) as file:
        os.truncate(file.fileno(), 1 << 40)
    return "a file of 1 TiB"


def try_many_descriptors(targets):
    fds = []
    try:
        for _ in range(2000):
            fds.append(os.open("/dev/null", os.O_RDONLY))  # noqa: PERF401 - those opened before the error must be closed
    except OSError:
        return None
    finally:
        for fd in fds:
            os.close(fd)
    return f"{len(fds)} descriptors"


def try_core_dump(targets):
    import resource

    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    return f"core files of up to {hard} bytes" if hard else None


def try_lock_memory(targets):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    block = mmap.mmap(-1, 16 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    if libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(16 * MIB)) < 0:
        raise OSError(ctypes.get_errno(), "mlock")
    return "16 MiB locked"


def try_many_timers(targets):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    made = 0
    timer = ctypes.c_void_p()
    while (
        made < 2000 and libc.syscall(222 if os.uname().machine == "x86_64" else 107, 1, None, ctypes.byref(timer)) == 0
    ):
        made += 1
    return f"{made} timers" if made >= 2000 else None


def try_leave_process_group(targets):
    """In a level without PID namespaces the group is what a kill reaches; with one, leaving it helps nobody."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
        except OSError:
            os._exit(1)
        os._exit(0)
    left = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return "left the process group" if left and not targets["alone"] else None
