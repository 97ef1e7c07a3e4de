"""One child of the check pool, seen from its parent: a process of `gen.checks.child`, and the socket to it."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stillhouse.gen.checks.base import Answer, CheckResult, Row, Unchecked, Verdict
from stillhouse.gen.checks.link import Duty, packed, read_frame
from stillhouse.gen.errors import StillhouseError
from stillhouse.gen.process.child_environment import child_environment

START_S = 120.0
"""A busy machine takes a while to load sympy."""
MAX_PIECE_CHARS = 100_000
"""A longer text is sent in pieces."""


class ChecksBroken(StillhouseError):
    """The processes that judge can't be kept running."""


class Died(Exception):
    """The child is gone; says how it ended."""


class TookTooLong(Exception):
    """No verdict came in time."""


@dataclass(slots=True, eq=False)
class ChildProcess:
    """A process, and the socket to it."""

    process: "subprocess.Popen[bytes]"
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    errors: int
    """The file with its standard error."""
    partial: list[Verdict] = field(default_factory=list)
    """Verdicts so far on the answer that it judges on its own."""

    async def send(self, batch: Iterable[tuple[Answer, Row, Duty]], *, timeout_s: float) -> None:
        """Have it judge a batch.

        Raises:
            TookTooLong: it does not read.
        """
        jobs = []
        try:
            async with asyncio.timeout(timeout_s):
                for answer, row, duty in batch:
                    texts = [await self._in_pieces(text) for text in (answer.text, answer.reasoning)]
                    jobs.append((*texts, answer.tokens, answer.schema_key, dict(row), duty))
                self.writer.write(packed(jobs))
        except TimeoutError:
            raise TookTooLong from None
        except ConnectionError:
            pass  # the next read shows how it ended

    async def _in_pieces(self, text: str | None) -> str | int | None:
        """The text; or the number of pieces it was sent in, if packing all of it at once would block the event loop."""
        if text is None or len(text) <= MAX_PIECE_CHARS:
            return text
        starts = range(0, len(text), MAX_PIECE_CHARS)
        for start in starts:
            self.writer.write(packed(text[start : start + MAX_PIECE_CHARS]))
            await self.writer.drain()
            await asyncio.sleep(0)  # draining does not yield while the child reads as fast as this writes
        return len(starts)

    async def next(self, timeout_s: float) -> Any:
        """The next frame.

        Raises:
            Died, TookTooLong: there is none.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await read_frame(self.reader)
        except TimeoutError:
            raise TookTooLong from None
        except (asyncio.IncompleteReadError, ConnectionError, EOFError, ValueError, TypeError):
            await self._kill()
            raise Died(self._how()) from None

    async def end(self) -> None:
        """Kill it with whatever it started, and wait until it is gone. Called once."""
        await self._kill()
        os.close(self.errors)

    async def _kill(self) -> None:
        self.writer.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await asyncio.to_thread(self.process.wait)

    def _how(self) -> str:
        code = self.process.returncode
        said = os.pread(self.errors, 4096, 0).decode("utf-8", "replace").strip().splitlines()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{how}: {said[-1][:200]}" if said else how


async def start_child(settings: Mapping[str, Any]) -> ChildProcess:
    """A child that is ready to judge.

    Raises:
        ChecksBroken: it can't be started; says why.
    """
    ours, theirs = socket.socketpair()
    errors = os.memfd_create("stillhouse-check")
    with theirs:
        # Started from a thread that lives as long as the pool: a child dies with the thread that started it.
        process = subprocess.Popen(  # noqa: ASYNC220 - returns in a millisecond, and asyncio's needs a main thread
            [sys.executable, "-P", "-m", "stillhouse.gen.checks.child"],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=child_environment(),
            start_new_session=True,
        )
    ours.setblocking(False)  # noqa: FBT003 - takes no name
    child = ChildProcess(process, *await asyncio.open_unix_connection(sock=ours), errors)
    try:
        child.writer.write(packed(dict(settings) | {"parent": os.getpid()}))
        problem = await child.next(START_S)
    except (Died, TookTooLong) as error:
        await child.end()
        raise ChecksBroken(f"checks: their process {str(error) or 'did not start in time'}") from None
    except asyncio.CancelledError:
        await asyncio.shield(child.end())
        raise
    if problem is not None:
        await child.end()
        raise ChecksBroken(problem)
    return child


def verdict_of(plain: tuple[Any, ...]) -> Verdict:
    """A verdict as a child sends it."""
    return CheckResult(*plain) if len(plain) > 1 else Unchecked(*plain)
