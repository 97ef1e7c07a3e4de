"""The ports that tests give their servers: no two holders have the same."""

import socket
import subprocess
import sys
from pathlib import Path

import ports
import pytest
from ports import reserved_ports

HOLD = "import ports, sys\nwith ports.reserved_ports(3) as held: print(*held, flush=True); sys.stdin.read()"


def test_two_processes_never_hold_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six ports another process holds three: we are given the other three, and all once it has ended."""
    monkeypatch.setattr(ports, "CANDIDATES", range(20_000, 20_006))
    monkeypatch.setattr(ports, "MIN_CANDIDATES", 1)
    program = HOLD.replace("\nwith", "\nports.CANDIDATES, ports.MIN_CANDIDATES = range(20_000, 20_006), 1\nwith")
    command, folder, pipe = [sys.executable, "-c", program], Path(ports.__file__).parent, subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        theirs = {int(port) for port in other.stdout.readline().split()}
        with reserved_ports(3) as ours:
            assert len(theirs | set(ours)) == 6
            with pytest.raises(AssertionError, match="found 0"), reserved_ports(1):
                pass
        other.communicate("")
    with reserved_ports(6) as all_of_them:
        assert set(all_of_them) == set(ports.CANDIDATES)


def test_a_port_in_use_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the listener does not hold our lock."""
    with reserved_ports(1) as (port,):
        pass
    monkeypatch.setattr(ports, "CANDIDATES", range(port, port + 1))
    monkeypatch.setattr(ports, "MIN_CANDIDATES", 1)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(AssertionError, match="found 0"), reserved_ports(1):
        pass


def test_ports_are_outside_the_range_of_outgoing_connections() -> None:
    """The kernel never gives them to a client."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    if first - ports.CANDIDATES.start < ports.MIN_CANDIDATES:
        pytest.skip(f"this machine gives its clients {first} to {last}")
    with reserved_ports(20) as held:
        assert not any(first <= port <= last for port in held)
