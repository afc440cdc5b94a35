"""A process on the host that attempts are aimed at: it owns something of every kind, and says where each is.

Started with a token in its environment; prints one line of JSON, then answers nothing and lives until it is killed.
"""

import ctypes
import json
import os
import socket
import sys
import threading

libc = ctypes.CDLL(None, use_errno=True)
SHM_KEY = 0x53414E44


def listener(family, address):
    sock = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(address)
    sock.listen(64)
    return sock


def answer_http(sock):
    while True:
        peer, _ = sock.accept()
        with peer:
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")


def main():
    folder, token = sys.argv[1], os.environ["SANDLOT_CANARY"]
    files = {"file": token, "victim_file": token, "shared": token}
    for name, text in files.items():
        with open(f"{folder}/{name}", "w") as file:
            file.write(text)
        os.chmod(f"{folder}/{name}", 0o666)  # noqa: S103 - any uid must get at the bait
    shared_file = f"/dev/shm/sandlot-canary-{os.getpid()}"
    with open(shared_file, "w") as file:
        file.write(token)
    os.chmod(shared_file, 0o666)  # noqa: S103 - any uid must get at the bait
    tcp, tcp6, http = (
        listener(socket.AF_INET, ("127.0.0.1", 0)),
        listener(socket.AF_INET6, ("::1", 0)),
        listener(socket.AF_INET, ("127.0.0.1", 0)),
    )
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    abstract = f"sandlot-canary-{os.getpid()}"
    by_path = listener(socket.AF_UNIX, f"{folder}/socket")
    os.chmod(f"{folder}/socket", 0o666)  # noqa: S103 - any uid must get at the bait
    keep = [listener(socket.AF_UNIX, "\0" + abstract), by_path, tcp, tcp6, udp]
    threading.Thread(target=answer_http, args=(http,), daemon=True).start()
    shm = libc.shmget(SHM_KEY + os.getpid(), 4096, 0o666 | 0o1000)
    libc.shmat.restype = ctypes.c_void_p
    ctypes.memmove(libc.shmat(shm, None, 0), token.encode(), len(token))
    queue = f"/sandlot-canary-{os.getpid()}"
    libc.mq_open(queue.encode(), os.O_CREAT | os.O_RDWR, 0o666, None)
    key = f"sandlot-{os.getpid()}"
    libc.syscall(
        ctypes.c_long(248 if os.uname().machine == "x86_64" else 217),
        b"user",
        key.encode(),
        b"secret",
        ctypes.c_size_t(6),
        ctypes.c_int(-4),
    )
    buffer = ctypes.create_string_buffer(token.encode())
    targets = {
        "file": f"{folder}/file",
        "victim_file": f"{folder}/victim_file",
        "shared_file": shared_file,
        "victim_pid": os.getpid(),
        "victim_address": ctypes.addressof(buffer),
        "token": token,
        "tcp_port": tcp.getsockname()[1],
        "tcp6_port": tcp6.getsockname()[1],
        "http_port": http.getsockname()[1],
        "udp_port": udp.getsockname()[1],
        "abstract": abstract,
        "socket_path": f"{folder}/socket",
        "shm_key": SHM_KEY + os.getpid(),
        "queue": queue,
        "key": key,
    }
    print(json.dumps(targets), flush=True)
    sys.stdin.read()
    for sock in keep:
        sock.close()
    os.unlink(shared_file)
    libc.mq_unlink(queue.encode())
    libc.shmctl(shm, 0, None)


main()
