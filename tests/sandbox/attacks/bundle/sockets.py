"""Attempts on the network and on every family of sockets."""

import ctypes
import os
import socket

libc = ctypes.CDLL(None, use_errno=True)


def connect(family, kind, address):
    with socket.socket(family, kind) as sock:
        sock.settimeout(2)
        sock.connect(address)
        return f"connected to {address}"


def try_tcp_loopback(targets):
    return connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", targets["tcp_port"]))


def try_tcp_loopback_v6(targets):
    return connect(socket.AF_INET6, socket.SOCK_STREAM, ("::1", targets["tcp6_port"]))


def try_tcp_all_zero(targets):
    return connect(socket.AF_INET, socket.SOCK_STREAM, ("0.0.0.0", targets["tcp_port"]))


def try_udp(targets):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("127.0.0.1", targets["udp_port"]))
        return "sent"


def try_abstract_socket(targets):
    return connect(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + targets["abstract"])


def try_path_socket(targets):
    return connect(socket.AF_UNIX, socket.SOCK_STREAM, targets["socket_path"])


def try_listen(targets):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("0.0.0.0", 0))
        sock.listen()
        return f"listening on {sock.getsockname()}"


def try_raw_socket(targets):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP):
        return "raw socket"


def try_packet_socket(targets):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3)):
        return "packet socket"


def try_netlink(targets):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0):
        return "netlink socket"


def try_vsock(targets):
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM):
        return "vsock socket"


def try_kernel_crypto(targets):
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0):
        return "AF_ALG socket"


def try_other_families(targets):
    """Whatever families the kernel has beyond the few that anyone needs."""
    made = []
    for family in range(3, 46):
        if family in (socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, socket.AF_ALG, socket.AF_VSOCK):
            continue
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            fd = libc.socket(family, kind, 0)
            if fd >= 0:
                os.close(fd)
                made.append(family)
    return f"families {sorted(set(made))}" if made else None


def try_pair_of_other_family(targets):
    fds = (ctypes.c_int * 2)()
    if (
        libc.socketpair(30, socket.SOCK_STREAM, 0, fds) < 0
    ):  # AF_TIPC; the family is checked before the kernel has a say
        return None if ctypes.get_errno() == 13 else f"errno {ctypes.get_errno()}"
    return "pair"


def try_see_interfaces(targets):
    names = [name for _index, name in socket.if_nameindex()]
    return f"{names}" if names else None
