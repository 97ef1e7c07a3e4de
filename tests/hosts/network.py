"""A bridge with two hosts' network namespaces on it, and the ways to cut them from each other and from the outside."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_NOWHERE = "02:00:00:00:00:01"
"""An Ethernet address that no port has: what is sent there is lost without a word."""


def why_not() -> str | None:
    """Why hosts can't be made here; None if they can."""
    if os.geteuid() != 0:
        return "making network namespaces takes root"
    if missing := [tool for tool in ("ip", "bridge", "unshare", "nsenter") if shutil.which(tool) is None]:
        return f"{', '.join(missing)} missing: install iproute2 and util-linux"
    probe = f"shp{os.getpid()}"  # a test in another process may look at the same moment
    if (tried := _ip("link", "add", probe, "type", "bridge", check=False)).returncode:
        return f"bridges can't be made here: {tried.stderr.strip()}"
    _ip("link", "del", probe)
    return None


@dataclass(frozen=True, slots=True)
class Network:
    """One range of addresses; several networks may exist at once, each with a range of its own."""

    lane: int

    @property
    def store(self) -> str:
        """The store's address, outside both hosts."""
        return f"10.91.{self.lane}.200"

    @property
    def teacher(self) -> str:
        """The teacher's address, outside both hosts."""
        return f"10.91.{self.lane}.201"

    def address(self, host: int) -> str:
        """A host's address."""
        return f"10.91.{self.lane}.{host}"

    def namespace(self, host: int) -> str:
        """A host's network namespace."""
        return f"shlab{self.lane}-{host}"

    def cut(self, host: int) -> None:
        """Pull the host's cable."""
        _ip("link", "set", self._port(host), "down")

    def part(self, *hosts: int) -> None:
        """Cut hosts off from each other and from nothing else: an isolated port of a bridge reaches only the others."""
        for host in hosts:
            _run("bridge", "link", "set", "dev", self._port(host), "isolated", "on")

    def lose(self, host: int, address: str) -> None:
        """Have all that the host sends to an address vanish."""
        where = (address, "dev", "eth0", "lladdr", _NOWHERE, "nud", "permanent")
        _ip("-n", self.namespace(host), "neigh", "replace", *where)

    def heal(self, host: int) -> None:
        """Undo all of it."""
        _ip("link", "set", self._port(host), "up")
        _run("bridge", "link", "set", "dev", self._port(host), "isolated", "off")
        for address in (self.store, self.teacher):
            _ip("-n", self.namespace(host), "neigh", "del", address, "dev", "eth0", check=False)

    def _port(self, host: int) -> str:
        return f"shlab{self.lane}h{host}"

    @property
    def _bridge(self) -> str:
        return f"shlab{self.lane}"

    def add(self, host: int) -> None:
        """Make a host."""
        space, port = self.namespace(host), self._port(host)
        _ip("netns", "add", space)
        _ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", port, "master", self._bridge, "up")
        _ip("-n", space, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")
        _ip("-n", space, "link", "set", "lo", "up")
        # Nothing is behind it. Ray asks which of its addresses leads to 8.8.8.8, and waits for name servers otherwise.
        _ip("-n", space, "route", "add", "default", "via", self.store)

    def remove(self, *hosts: int) -> None:
        """Take hosts away, and the network with them."""
        for host in hosts:
            _ip("link", "del", self._port(host), check=False)
            _ip("netns", "del", self.namespace(host), check=False)
        _ip("link", "del", self._bridge, check=False)


@contextmanager
def network(*hosts: int) -> Iterator[Network]:
    """A network with these hosts in the first free lane, until the end."""
    made = next((lane for lane in range(32) if _claimed(lane)), None)
    assert made is not None, "all lanes are taken: delete what `ip link` shows as shlab*"
    net = Network(made)
    try:
        for address in (net.store, net.teacher):
            _ip("addr", "add", f"{address}/24", "dev", f"shlab{made}")
        _ip("link", "set", f"shlab{made}", "up")
        for host in hosts:
            net.add(host)
        yield net
    finally:
        net.remove(*hosts)


def _claimed(lane: int) -> bool:
    return _ip("link", "add", f"shlab{lane}", "type", "bridge", check=False).returncode == 0


def _ip(*args: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return _run("ip", *args, check=check)


def _run(*args: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(args, capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{' '.join(args)}: {done.stderr.strip()}"
    return done
