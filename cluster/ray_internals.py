"""All uses of Ray's private interface, and nothing else: seen in Ray 2.54 to 2.60. Those of its job client are in
`jobs/job_client.py`.

For each, tests/unit/test_ray_internals.py says what breaks if a later Ray lacks it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import ray
from ray._private.services import canonicalize_bootstrap_address

HEAD_RESOURCE = "node:__internal_head__"
"""A resource that only the head has."""

GCS_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"
"""A gRPC method of the GCS that takes an empty message and changes nothing."""

OWN_PROCESSES = {"prestart_worker_first_driver": False, "worker_niceness": 0}
"""`_system_config` of a Ray that is started for one run. Each of our actors has its own process, so idle processes
started ahead would only compete with them. The actors are the run itself, not guests on a shared node, so they need no
lower priority."""

UNNEEDED_PROCESSES = ("start_monitor", "start_log_monitor", "start_api_server")
"""Methods of `Node` that start its autoscaler, its log monitor and its dashboard's web server."""


@contextmanager
def few_processes() -> Iterator[None]:
    """A Ray that is started within the block starts only the processes that a run needs.

    The other processes take half of its start; Ray loads the dashboard even if `include_dashboard` is false, unless its
    dependencies seem to be missing. Each node's agent then runs without its web server.
    """
    utils: Any = ray._private.utils
    missing = ImportError("no dashboard is wanted")
    with ExitStack() as stack:
        for name in UNNEEDED_PROCESSES:
            stack.enter_context(_replaced(ray._private.node.Node, name, lambda *_args, **_settings: None))
        stack.enter_context(_replaced(utils, "get_dashboard_dependency_error", lambda: missing))
        yield


@contextmanager
def ended_if_it_fails() -> Iterator[None]:
    """If the block fails, end the processes of a Ray that was started within it.

    Ray itself forgets them: they would run until this process has ended, and compete with a second try, and then with
    this process's end, on a machine that is too busy already.
    """
    node: Any = ray._private.node.Node
    begin, nodes = node.__init__, []

    def remember(started: Any, *args: Any, **settings: Any) -> None:
        nodes.append(started)
        begin(started, *args, **settings)

    with _replaced(node, "__init__", remember):
        try:
            yield
        except BaseException:
            for started in nodes:
                if hasattr(started, "removal_lock"):  # otherwise it has no processes yet
                    started.kill_all_processes(check_alive=False, allow_graceful=True)
            raise


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """Replace an attribute of the owner; a Ray without this attribute is left alone, and starts all its processes."""
    before = getattr(owner, name, None)
    if before is None:
        yield
        return
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def gcs_address(address: str) -> str | None:
    """The host:port of the cluster's GCS; for `auto`, that of the cluster on this machine, if any."""
    found: str | None = canonicalize_bootstrap_address(address)
    return found


def reread_settings() -> None:
    """Make Ray's core read the RAY_ variables again; by itself it reads them only when it is imported."""
    raylet: Any = ray._raylet
    raylet.Config.initialize("")


def listed_draining_nodes() -> set[str]:
    """The ids of draining nodes. No public call returns them; Ray Train uses this one too.

    Raises:
        RayError, TimeoutError: the cluster can't be asked.
    """
    return set(ray._private.state.state.get_draining_nodes())
