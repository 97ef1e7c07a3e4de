"""What actors log: one event a line, as JSON, on standard error, where Ray's dashboard and log files show it.

Everything but plain ASCII is escaped, so that no teacher's words can break a line or drive a terminal.
"""

import json
import logging
from datetime import UTC, datetime
from functools import cache

MAX_TEXT = 500
"""Characters of a text field that are logged."""


class _Line(logging.Formatter):
    """A record as one line of JSON; its `fields` beside its event."""

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
    logger.propagate = False  # Ray gives its workers' root logger handlers of its own
    return logger


def event(name: str, **fields: str | float | list[str]) -> None:
    """Something went as it should."""
    _logger().info(name, extra={"fields": fields})


def trouble(name: str, **fields: str | float | list[str]) -> None:
    """Something did not, and is dealt with."""
    _logger().warning(name, extra={"fields": fields})
