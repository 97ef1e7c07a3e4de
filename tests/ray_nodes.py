"""A Ray of several nodes on this machine, without a dashboard, ended with all its processes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.cluster_utils import Cluster

from stillhouse.cluster.ray_internals import ended_if_it_fails

STARTS = 4
"""On a busy machine a node may die while it starts: its agents have 15 s to choose their ports."""


@contextmanager
def ray_nodes(*cpus: int) -> Iterator[Cluster]:
    """A head with the first number of CPUs, and a node with each of the others."""
    cluster = Cluster()
    try:
        _add(cluster, num_cpus=cpus[0], include_dashboard=False)
        for each in cpus[1:]:
            _add(cluster, num_cpus=each)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def _add(cluster: Cluster, **settings: Any) -> None:
    for left in reversed(range(STARTS)):
        try:
            with ended_if_it_fails():
                cluster.add_node(**settings)
        except Exception as error:
            if type(error) is not Exception or not left:  # Ray raises a bare exception if a node is not up in time
                raise
            print(f"another try: {error}", file=sys.stderr)
        else:
            return
