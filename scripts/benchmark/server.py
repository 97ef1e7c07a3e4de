"""The server that contestants ask: what it counts, and what its log says about limits.

It is restarted with the same seed for each of them, so that all send the same requests and get the same answers. It has
the machine's last core, and its CPU time counts for nobody.
"""

import http.client
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal
from urllib.parse import urlsplit

import orjson

from stillhouse.gen import simulator
from stillhouse.schemas.simulator import SimulatorSettings

WINDOW_S = 2.0
"""Speed is measured in windows of this length."""
SETTLING_S = 5.0
FULL = 0.9


@dataclass(frozen=True, slots=True)
class Watched:
    """A limit whose use is measured."""

    what: Literal["requests", "output tokens", "slots"]
    most: int
    """Per minute; of slots, at once."""
    after_s: float
    """Seconds after the first request at which the search, or a saved-up burst, is over."""


@dataclass(frozen=True, slots=True)
class Storm:
    """Seconds after the server's start between which it refuses everything."""

    start_s: float
    stop_s: float


@contextmanager
def serving(settings: SimulatorSettings) -> Iterator[str]:
    """The server's URL."""
    with simulator.start(settings) as process:
        os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        yield process.url


def stats(url: str) -> dict[str, Any]:
    """What the server has counted so far."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.request("GET", "/_stats")
    counted: dict[str, Any] = orjson.loads(connection.getresponse().read())
    connection.close()
    return counted | {"started_at": time.time() - counted["uptime_s"]}


def requests(log: Path) -> list[dict[str, Any]]:
    """The lines of its log, in the order of the requests."""
    lines: list[dict[str, Any]] = [orjson.loads(line) for line in log.read_bytes().splitlines()]
    return sorted(lines, key=lambda line: float(line["time"]))


def share_used(lines: Sequence[dict[str, Any]], watched: Watched) -> float:
    """Share of the limit used from `after_s` until the last request was admitted; 0.0 if none was.

    Of slots, until fewer answers are missing than there are slots.
    """
    since = lines[0]["time"] + watched.after_s
    if watched.what == "slots":
        return _slots_used([line for line in lines if line["status"] == 200], watched.most, since=since)
    let_in = [line for line in lines if line["status"] == 200 and line["time"] >= since]
    if not let_in:
        return 0.0
    # The last request ends the window and is not in it.
    used = sum(1 if watched.what == "requests" else line["completion_tokens"] for line in let_in[:-1])
    return float(used / ((let_in[-1]["time"] - since) * watched.most / 60))


def _slots_used(served: Sequence[dict[str, Any]], most: int, *, since: float) -> float:
    ends = sorted(line["time"] + line["latency_s"] for line in served)
    if len(ends) <= most or (until := ends[-most]) <= since:
        return 0.0
    busy_s = (min(line["time"] + line["latency_s"], until) - max(line["time"], since) for line in served)
    return float(sum(max(0.0, seconds) for seconds in busy_s) / (most * (until - since)))


def recovered_s(lines: Sequence[dict[str, Any]], storm: Storm, *, started_at: float) -> float | None:
    """Seconds from the storm's end to the first window at full speed; None: there was none, or none before the storm.

    Full speed is nine tenths of the median window before the storm.
    """
    times = [line["time"] - started_at for line in lines if line["status"] == 200]
    if not times or times[0] + SETTLING_S > storm.start_s - WINDOW_S:
        return None
    before = [_in_window(times, since) for since in _windows(times[0] + SETTLING_S, storm.start_s - WINDOW_S)]
    full = FULL * median(before)
    after = _windows(storm.stop_s, times[-1] - WINDOW_S)
    return next((since - storm.stop_s for since in after if _in_window(times, since) >= full), None)


def _windows(start_s: float, stop_s: float) -> Iterator[float]:
    while start_s <= stop_s:
        yield start_s
        start_s += WINDOW_S / 4


def _in_window(times: Sequence[float], since: float) -> int:
    return sum(since <= at < since + WINDOW_S for at in times)
