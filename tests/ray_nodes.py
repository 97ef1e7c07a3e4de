"""A Ray of several nodes on this machine, without a dashboard, ended with all its processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ports import reserved_ports
from ray.cluster_utils import Cluster

_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


@contextmanager
def ray_nodes(*cpus: int) -> Iterator[Cluster]:
    """A head with the first number of CPUs, and a node with each of the others.

    Each node is given its agents' ports. Otherwise it waits until its agents have chosen them, and after 15 s, as may
    happen on a busy machine, it dies.
    """
    with reserved_ports(len(_PORTS) * len(cpus)) as reserved:
        ports = iter(reserved)
        nodes: list[dict[str, Any]] = [{"num_cpus": each, **dict(zip(_PORTS, ports, strict=False))} for each in cpus]
        cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **nodes[0]})
        try:
            for node in nodes[1:]:
                cluster.add_node(**node)
            cluster.wait_for_nodes()
            yield cluster
        finally:
            cluster.shutdown()  # type: ignore[no-untyped-call]
