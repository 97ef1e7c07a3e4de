"""Ports for servers that take a port number: a reserved port is given to nobody else.

A port that is picked by binding to 0 and then closed may be taken before the server opens it, by an outgoing
connection or by a test in another process. So ours lie outside the range of outgoing connections and above the ports
that Ray gives its workers, and each is locked by a file that all processes of this user's tests share.
"""

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

CANDIDATES = range(20_000, 32_768)
MIN_CANDIDATES = 1000
"""Where outgoing connections leave us fewer, theirs are candidates too: the lock is then all that protects them."""


@contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Ports that nobody listens on; they stay reserved until the block ends or this process dies."""
    outgoing = _outgoing()
    candidates = [port for port in CANDIDATES if port not in outgoing]
    if len(candidates) < MIN_CANDIDATES:
        candidates = list(CANDIDATES)
    random.SystemRandom().shuffle(candidates)  # tests that seed `random` alike must not meet at the same ports
    locks = Path(tempfile.gettempdir()) / f"stillhouse-test-ports-{os.getuid()}"
    locks.mkdir(exist_ok=True)
    with ExitStack() as stack:
        ports: list[int] = []
        for port in candidates:
            lock = stack.enter_context((locks / str(port)).open("wb"))
            if _locked(lock) and _free(port):
                ports.append(port)
                if len(ports) == count:
                    break
        assert len(ports) == count, f"expected {count} free ports in {CANDIDATES}, found {len(ports)}"
        yield ports


def _outgoing() -> range:
    """The ports that the kernel gives outgoing connections."""
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except OSError:
        return range(32_768, 61_000)
    return range(int(first), int(last) + 1)


def _locked(file: BinaryIO) -> bool:
    """True if the lock was free and is now ours; closing the file releases it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _free(port: int) -> bool:
    """True if nobody listens there, on any address."""
    try:
        socket.create_server(("", port)).close()
    except OSError:
        return False
    return True
