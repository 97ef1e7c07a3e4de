"""Placement of the shared actors: the queue with the driver, without which it is useless, and limiters on the head.

Both are preferences: a node that can't take them, or is lost, does not prevent the start. By default Ray puts an actor
that asks for no CPU on any node; if that node vanished silently, the run would stand still for a minute.
"""

import socket
from typing import Any

import ray
from ray.util import get_node_ip_address
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stillhouse.cluster.ray_internals import HEAD_RESOURCE


def on(node: str | None) -> dict[str, Any]:
    """The options of an actor without a CPU that belongs on this node; None: anywhere.

    An actor that asks for nothing at all is put on a random node whatever it prefers (Ray 2.60), so it asks for a byte.
    """
    if node is None:
        return {"num_cpus": 0}
    return {"num_cpus": 0, "memory": 1, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}


def head_node() -> str | None:
    """The id of the cluster's head node, if known."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return next((node["NodeID"] for node in nodes if node["Alive"] and HEAD_RESOURCE in node["Resources"]), None)


def place() -> str:
    """This node, in readable form."""
    address = get_node_ip_address()  # type: ignore[no-untyped-call]
    return f"{socket.gethostname()} ({address}, node {ray.get_runtime_context().get_node_id()[:8]})"
