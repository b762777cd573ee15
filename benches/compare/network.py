"""The network of the comparison: a namespace of its own with nothing but a loopback, so that how the
kernel sends is the same on every machine. What a system is set to matters more than most of what a
server does: BBR paces each connection by a timer and by how fast it found the reader, which on a
loopback is anything. NARs of 64 MiB took 0.15 to 0.27 s of CPU a GiB under BBR, from round to round,
and 0.06 to 0.10 under Reno."""

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

# Linux's own choice is CUBIC, which a namespace may not choose where the system did not; without
# loss the two do the same. The packets are those of an Ethernet: in the loopback's own, 64 KiB with
# a head are one packet and a few bytes, for which nginx as shipped waits 40 ms.
CONGESTION, MTU = "reno", 1500
SETTING = Path("/proc/sys/net/ipv4/tcp_congestion_control")
NEW_NETWORK, GET_FLAGS, SET_FLAGS, GET_MTU, SET_MTU = 0x40000000, 0x8913, 0x8914, 0x8921, 0x8922
IS_UP = 1


def loopback(asked, value=0):
    """Asks the kernel about the loopback's flags or MTU, or sets one."""
    shape = "16sh" if asked in (GET_FLAGS, SET_FLAGS) else "16si"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack(shape, b"lo", value).ljust(40, b"\0")
        answer = fcntl.ioctl(any_socket, asked, request)
    return struct.unpack(shape, answer[:struct.calcsize(shape)])[1]


def enter(congestion, mtu):
    """Goes into a new namespace; a line about why not, where that is so."""
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_NETWORK) != 0:
        return (f"on the machine's own loopback, TCP as the machine is set to: no network namespace "
                f"({os.strerror(ctypes.get_errno())}); root may have one")
    loopback(SET_MTU, mtu)
    loopback(SET_FLAGS, loopback(GET_FLAGS) | IS_UP)
    try:
        SETTING.write_text(congestion)
    except OSError as error:
        return f"TCP as the machine is set to: {congestion} is not to be had ({error.strerror})"
    return None


def seen():
    """How the kernel sends here."""
    return {"congestion": SETTING.read_text().strip(), "mtu": loopback(GET_MTU)}
