"""The actors' log: one JSON object per line on standard error, which Ray shows in its dashboard and log files.

Everything but plain ASCII is escaped, so that text from a teacher cannot break a line or control a terminal.
"""

import json
import logging
from datetime import UTC, datetime
from functools import cache

MAX_TEXT = 500
"""Maximum number of characters of a text field in the log."""


class _Line(logging.Formatter):
    """Formats a record as one line of JSON, with its `fields` next to its event."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, object] = getattr(record, "fields", {})
        cut = {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in fields.items()}
        return json.dumps({"at": at, "level": record.levelname.lower(), "event": record.getMessage(), **cut})


@cache
def _logger() -> logging.Logger:
    logger = logging.getLogger("stillhouse.events")
    handler = logging.StreamHandler()
    handler.setFormatter(_Line())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # Ray attaches its own handlers to the root logger of its workers
    return logger


def event(name: str, **fields: str | float | list[str]) -> None:
    """Log a normal event."""
    _logger().info(name, extra={"fields": fields})


def trouble(name: str, **fields: str | float | list[str]) -> None:
    """Log a problem that was handled."""
    _logger().warning(name, extra={"fields": fields})
