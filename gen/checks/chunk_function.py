"""`function` with `per: chunk`: a user's function sees all answers of a chunk at once, as an Arrow table.

It runs in a separate process for each chunk. Unlike the children of the pool, this process may start threads, as Arrow
does, and may hold a chunk in memory.
"""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from stillhouse.gen.checks.base import Answer, CheckResult, Row, Unchecked, Verdict
from stillhouse.gen.checks.function import record_of
from stillhouse.gen.process.child_environment import child_environment
from stillhouse.schemas.function_check import FunctionCheck

TIMEOUT_S = 300.0
"""Time limit for a chunk; a function that needs a second per answer belongs in `per: record`, which uses all CPUs."""
_SAID_CHARS = 200


class ChunkFunction:
    """The last check of a recipe, if it is a function that judges whole chunks."""

    def __init__(self, settings: FunctionCheck, *, timeout_s: float = TIMEOUT_S) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    async def judge(self, answers: Sequence[tuple[Answer, Row]]) -> list[Verdict]:
        """The verdict on each answer; if the function fails as a whole, all are unchecked. One call at a time."""
        if not answers:
            return []
        try:
            return await asyncio.to_thread(self._judge, answers)
        except asyncio.CancelledError:
            if self._process is not None:
                _kill(self._process)
            raise

    def _judge(self, answers: Sequence[tuple[Answer, Row]]) -> list[Verdict]:
        try:
            table = _table([record_of(self._settings, *each) for each in answers])
        except (pa.ArrowException, UnicodeEncodeError) as error:
            return self._unchecked(f"the answers make no Arrow table: {error}", len(answers))
        with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
            there, found = Path(folder, "answers.arrow"), Path(folder, "verdicts.json")
            with pa.OSFile(str(there), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            given = {"parent": os.getpid(), "settings": self._settings.model_dump_json()}
            why = self._run(orjson.dumps(given | {"answers": str(there), "verdicts": str(found)}))
            said = orjson.loads(found.read_bytes()) if found.exists() else why
        if isinstance(said, str):
            return self._unchecked(said, len(answers))
        return [Unchecked(*each) if len(each) == 1 else CheckResult(*each) for each in said]

    def _run(self, given: bytes) -> str:
        """Run the process; returns how it ended, which counts if it left no result."""
        # Started from the thread that waits for it: the child dies with the thread that started it.
        process = self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "stillhouse.gen.checks.chunk_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=child_environment(),
            start_new_session=True,
        )
        try:
            _, errors = process.communicate(given, timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            return f"took more than {self._timeout_s:g} s"
        finally:
            _kill(process)
            if process.stderr is not None:
                process.stderr.close()
        lines = errors.decode("utf-8", "replace").strip().splitlines()
        return f"the check's process ended with exit code {process.returncode}: {(lines or [''])[-1][:_SAID_CHARS]}"

    def _unchecked(self, why: str, count: int) -> list[Verdict]:
        return [Unchecked(f"{self._settings.name}: {why}")] * count


def is_reached(said: Sequence[Verdict], *, checks: int) -> bool:
    """True if all checks but the last accept the answer; `verdicts` are theirs."""
    return len(said) == checks and all(isinstance(each, CheckResult) and each.accepted for each in said[:-1])


def _table(records: Sequence[dict[str, Any]]) -> pa.Table:
    names = ("text", "reasoning", "tokens", "row")
    kinds = (pa.large_string(), pa.large_string(), pa.int64(), None)
    columns = [[record[name] for record in records] for name in names]
    return pa.table([pa.array(*each) for each in zip(columns, kinds, strict=True)], names=list(names))


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill it, with everything it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
