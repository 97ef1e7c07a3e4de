"""Lanes, one module each: the ways in which samples get asked. `base` is their contract."""

from collections.abc import Callable, Mapping
from typing import Any

from stillhouse.gen.worker.lanes.base import Lane
from stillhouse.gen.worker.lanes.online import OnlineLane

LANES: Mapping[str, Callable[..., Lane[Any]]] = {
    "online": OnlineLane,
}
"""By name; constructed with a teacher's client, and with host, gate, counters and clock by name."""
