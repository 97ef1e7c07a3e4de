"""Placement of the shared actors: the queue goes with the driver, which it depends on, and limiters go on the head.

Both are preferences: a run starts even if the node can't take them, or is lost. By default, Ray puts an actor that asks
for no CPU on any node; if that node vanished silently, the run would stand still for a minute.
"""

import socket
from typing import Any

import ray
from ray.util import get_node_ip_address
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stillhouse.cluster.ray_internals import HEAD_RESOURCE


def on(node: str | None) -> dict[str, Any]:
    """Options for an actor without a CPU that belongs on this node; None for any node.

    Ray 2.60 puts an actor that asks for no resources on a random node, whatever it prefers. So it asks for a byte of
    memory.
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
