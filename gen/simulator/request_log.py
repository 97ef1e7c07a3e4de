"""The log of requests: one line each, written in batches off the hot path, complete once it is closed."""

import asyncio
from pathlib import Path
from typing import Any

import orjson

from stillhouse.gen.errors import UsageError

_FLUSH_EVERY_S = 0.2


class RequestLog:
    """Appends JSON lines to a file within a fifth of a second after they were added; without a path it keeps nothing.

    Raises:
        UsageError: the file can't be opened.
    """

    def __init__(self, path: str | None, *, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lines: list[dict[str, Any]] = []
        try:
            self._file = Path(path).open("ab", buffering=0) if path else None  # noqa: SIM115 - lives until `close`
        except OSError as error:
            raise UsageError(f"simulator: the log {path} can't be written: {error.strerror}") from error

    @property
    def wanted(self) -> bool:
        """True if lines are kept at all."""
        return self._file is not None

    def add(self, line: dict[str, Any]) -> None:
        """Keep a line; it must not change afterwards."""
        if self._file is None:
            return
        if not self._lines:
            self._loop.call_later(_FLUSH_EVERY_S, self.flush)
        self._lines.append(line)

    def flush(self) -> None:
        """Write what was added."""
        lines, self._lines = self._lines, []
        if lines and self._file is not None:
            pending = memoryview(b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines))
            while pending:
                pending = pending[self._file.write(pending) :]

    def close(self) -> None:
        """Write what was added and close the file; later lines are dropped."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None
