"""What actors log: a line an event, whatever a teacher says."""

import json
import logging

from stillhouse.cluster.actors.events import MAX_TEXT, _Line
from stillhouse.cluster.actors.logged_queue import LoggedQueue
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.coordination.messages import Renewal
from stillhouse.gen.dataset.layout import ChunkId


def line(event: str, **fields: object) -> str:
    """The event as it is logged."""
    record = logging.makeLogRecord({"msg": event, "levelname": "WARNING", "fields": fields})
    return _Line().format(record)


def test_hostile_text_stays_on_its_line() -> None:
    """Line breaks, control and bidirectional characters of a teacher's message are escaped, and it is cut."""
    logged = line("teacher trouble", last="a\r\nb\x1b[31m\u2028\u202e\x9b" + "x" * 5000, count=3)
    assert logged.isascii()
    assert logged.isprintable()
    fields = json.loads(logged)
    assert (fields["event"], fields["level"], fields["count"], len(fields["last"])) == (
        "teacher trouble",
        "warning",
        3,
        MAX_TEXT,
    )


class _Queue:
    """Takes every renewal."""

    async def renew(self, worker: str, held: list[ChunkId], counters: Counters) -> Renewal:
        return Renewal([])


async def test_troubles_get_one_line_per_kind() -> None:
    """A thousand refusals between two renewals are one line that counts them; without more there is no line."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    logging.getLogger("stillhouse.events").addHandler(handler)
    queue, counters = LoggedQueue(_Queue(), teachers=["r1"]), Counters()  # type: ignore[arg-type]
    try:
        for _ in range(1000):
            counters.troubled("r1", "rate", "slow down")
        counters.troubled("r1", "overload", "busy")
        await queue.renew("w", [], counters)
        await queue.renew("w", [], counters)
    finally:
        logging.getLogger("stillhouse.events").removeHandler(handler)
    seen = [vars(record)["fields"] for record in records]
    assert [(fields["kind"], fields["count"]) for fields in seen] == [("rate", 1000), ("overload", 1)]
