"""The process that judges: `python -m stillhouse.gen.checks.child`, with a socket to its pool as standard input.

Everything happens in the main thread, where a signal can end a check that uses too much CPU time; verdicts therefore do
not depend on how busy the machine is. It never imports ray, httpx or the rest of the program.
"""

import os
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from pydantic import TypeAdapter

from stillhouse.gen.checks.base import Answer, OutOfTime, Row, Unchecked, Verdict
from stillhouse.gen.checks.confine import die_with, limit_resources
from stillhouse.gen.checks.equality import equality_checks
from stillhouse.gen.checks.link import DONE, REPLACE_ME, packed, receive_frame
from stillhouse.gen.checks.registry import NamedCheck, built
from stillhouse.gen.checks.runner import OUT_OF_MEMORY, verdicts
from stillhouse.gen.errors import UsageError, cause_of
from stillhouse.schemas.checks import AnyCheck

REPORT_AFTER_S = 0.002
"""Verdicts are reported together until this much time has passed, and always before an answer that may take long."""
_CHECK: TypeAdapter[AnyCheck] = TypeAdapter(AnyCheck)
_INSIST_S = 0.5
"""Time between interruptions: a library may swallow the first one."""


def main() -> None:
    """Judge until the pool closes its end of the socket."""
    link = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a check that reads its standard input must not read ours
    settings = receive_frame(link)
    die_with(settings["parent"])
    try:
        duties = _duties(settings)
    except UsageError as error:
        link.sendall(packed(str(error)))
        return
    except Exception as error:  # noqa: BLE001 - reported to whoever started the pool
        link.sendall(packed(f"checks: can't be prepared: {cause_of(error)}"))
        return
    limit_resources(memory_bytes=settings["memory_bytes"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the pool
    link.sendall(packed(None))
    judge = Judge(duties, link, timeout_s=settings["timeout_s"])
    with suppress(EOFError, ConnectionError):
        while True:
            frame = receive_frame(link)
            if isinstance(frame, str):
                judge.pieces.append(frame)
            else:
                judge.serve(frame)


def _duties(settings: dict[str, Any]) -> dict[str, Sequence[NamedCheck]]:
    """What to run on an answer, by name; see `link.Duty`."""
    checks = built([_CHECK.validate_json(text) for text in settings["checks"]])
    if settings["equality"] is None:
        return {"check": checks}
    stating, comparing = equality_checks(settings["equality"])
    return {"check": checks, "state": [stating], "compare": [comparing] if comparing else []}


class Judge:
    """Judges batches of answers and reports verdicts as they come."""

    def __init__(self, duties: Mapping[str, Sequence[NamedCheck]], link: socket.socket, *, timeout_s: float) -> None:
        self.pieces: deque[str] = deque()
        """Pieces of texts in the next batch that are too long for one frame."""
        self._duties = duties
        self._link = link
        self._timeout_s = timeout_s
        self._done: list[list[tuple[Any, ...]]] = []
        self._reported_at = time.monotonic()
        self._may_interrupt = False
        self._is_spent = False
        """True after an interruption, which may have left a library's caches half written: this process must not judge
        again."""
        signal.signal(signal.SIGPROF, self._out_of_time)

    def serve(self, batch: list[tuple[Any, ...]]) -> None:
        """Judge a batch. A single answer is reported check by check, so that we know which check killed the process."""
        is_alone = len(batch) == 1
        for text, reasoning, tokens, schema_key, row, duty in batch:
            if time.monotonic() - self._reported_at > REPORT_AFTER_S:
                self._report()
            answer = Answer(self._whole(text) or "", self._whole(reasoning), tokens, schema_key)
            self._done.append(self._judged(self._duties[duty], answer, row, is_alone=is_alone))
            if self._is_spent:
                break
        self._report()
        self._link.sendall(packed(REPLACE_ME if self._is_spent else DONE))

    def _whole(self, text: str | int | None) -> str | None:
        """The text, or the given number of pieces joined."""
        return "".join(self.pieces.popleft() for _ in range(text)) if isinstance(text, int) else text

    def _judged(
        self, checks: Sequence[NamedCheck], answer: Answer, row: Row, *, is_alone: bool
    ) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        signal.setitimer(signal.ITIMER_PROF, self._timeout_s, _INSIST_S)
        judging = verdicts(checks, answer, row)
        while (verdict := self._next(judging)) is not None:
            found.append(_plain(verdict))
            if is_alone:
                self._link.sendall(packed(found[-1]))
            if isinstance(verdict, Unchecked):
                self._is_spent |= verdict.reason == OUT_OF_MEMORY
                break
        signal.setitimer(signal.ITIMER_PROF, 0)
        return found

    def _next(self, judging: Iterator[Verdict]) -> Verdict | None:
        """The next check's verdict. Only here may the timer interrupt, so a frame is never half sent."""
        try:
            self._may_interrupt = True
            verdict = next(judging, None)
        except OutOfTime as error:  # it went off before or after the check itself
            verdict = Unchecked(str(error))
        finally:
            self._may_interrupt = False
        return verdict

    def _report(self) -> None:
        if self._done:
            self._link.sendall(packed(self._done))
            self._done = []
        self._reported_at = time.monotonic()

    def _out_of_time(self, number: int, frame: FrameType | None) -> None:
        if self._may_interrupt:
            self._is_spent = True
            raise OutOfTime(f"took more than {self._timeout_s:g} s of CPU time")


def _plain(verdict: Verdict) -> tuple[Any, ...]:
    if isinstance(verdict, Unchecked):
        return (verdict.reason,)
    found = (verdict.accepted, verdict.score, verdict.detail)
    return found if verdict.own is None else (*found, dict(verdict.own))


if __name__ == "__main__":
    main()
