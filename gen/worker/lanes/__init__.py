"""Lanes, one module each: the ways in which samples are asked. `base` is their contract."""

from collections.abc import Callable, Mapping
from typing import Any

from stillhouse.gen.worker.lanes.base import Lane
from stillhouse.gen.worker.lanes.batch import BatchLane
from stillhouse.gen.worker.lanes.batch_then_online import BatchThenOnlineLane
from stillhouse.gen.worker.lanes.online import OnlineLane

LANES: Mapping[str, Callable[..., Lane[Any]]] = {
    "online": OnlineLane,
    "batch": BatchLane,
    "batch-then-online": BatchThenOnlineLane,
}
"""Lanes by a teacher's `mode`; constructed with its client, and with tasks, listener, gate, counters and clock by
name."""
