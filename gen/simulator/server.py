"""The simulator on a socket: it answers from `serve` until `close`; after `close`, its log is complete."""

import asyncio
import resource
import signal
from collections.abc import Callable
from types import TracebackType
from typing import Self

import uvloop

from stillhouse.gen.errors import UsageError
from stillhouse.gen.simulator.protocol import Connection
from stillhouse.gen.simulator.simulator import Simulator
from stillhouse.schemas.simulator import SimulatorSettings

_BACKLOG = 4096


class Server:
    """A listening simulator; close it, or use it as an asynchronous context."""

    def __init__(self, listener: asyncio.Server, simulator: Simulator) -> None:
        self._listener = listener
        self._simulator = simulator
        host, self._port = listener.sockets[0].getsockname()[:2]
        self._host = f"[{host}]" if ":" in host else host

    @property
    def url(self) -> str:
        """The base URL of the OpenAI protocol, such as `http://127.0.0.1:8000/v1`."""
        return f"http://{self._host}:{self._port}/v1"

    async def close(self) -> None:
        """Stop listening, abort what is in progress and complete the log."""
        self._listener.close()
        self._simulator.close()
        await self._listener.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def serve(settings: SimulatorSettings, *, host: str = "127.0.0.1", port: int = 0) -> Server:
    """Listen on the running loop; port 0 picks a free port.

    Raises:
        UsageError: the address can't be bound, or a file that the settings name can't be opened.
    """
    loop = asyncio.get_running_loop()
    simulator = Simulator(settings, loop=loop)
    try:
        listener = await loop.create_server(lambda: Connection(simulator), host, port, backlog=_BACKLOG)
    except OSError as error:
        simulator.close()
        raise UsageError(f"simulator: {host}:{port} can't be bound ({error.strerror}); choose another port") from error
    return Server(listener, simulator)


def run_forever(
    settings: SimulatorSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    ready: Callable[[str], None] | None = None,
    parent_fd: int | None = None,
) -> None:
    """Serve in this process until SIGTERM or SIGINT, then complete the log and return.

    `ready` is called with the URL once requests are accepted. With `parent_fd`, the read end of a pipe, it returns
    instead when the other end is closed, which the kernel does however the parent dies.

    Raises:
        UsageError: as `serve`.
    """
    _raise_open_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings, host=host, port=port, ready=ready, parent_fd=parent_fd))


async def _run(
    settings: SimulatorSettings, *, host: str, port: int, ready: Callable[[str], None] | None, parent_fd: int | None
) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        # `ray job stop` signals the driver's children too, while the driver still waits for answers in flight.
        loop.add_signal_handler(signum, stop.set if parent_fd is None else bool)
    async with await serve(settings, host=host, port=port) as server:
        if parent_fd is not None:
            # Nothing is ever sent over the pipe: readable means closed.
            loop.add_reader(parent_fd, stop.set)
        if ready is not None:
            ready(server.url)
        await stop.wait()
        if parent_fd is not None:
            loop.remove_reader(parent_fd)


def _raise_open_files() -> None:
    """A connection is a file; the usual soft limit of 1,024 is less than a run has in flight."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
