"""Everything of Ray that is not its public interface, and nothing of ours: seen in Ray 2.54 to 2.60.

tests/unit/test_ray_internals.py says of each what breaks if a later Ray lacks it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray.job_submission import JobSubmissionClient

HEAD_RESOURCE = "node:__internal_head__"
"""A resource that the head has, and no other node."""

GCS_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"
"""A gRPC method of the GCS that takes an empty message and changes nothing."""

OWN_PROCESSES = {"prestart_worker_first_driver": False, "worker_niceness": 0}
"""`_system_config` of a Ray that is started for one run. Each of our actors has a process of its own: idle ones started
ahead only compete with them. They are the run itself, not a guest's on a shared node: no lower priority for them."""

UNNEEDED_PROCESSES = ("start_monitor", "start_log_monitor", "start_api_server")
"""Methods of `Node` that start its autoscaler, its log monitor and its dashboard's web server."""

CLIENT_LOGGERS = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
    "ray._private.authentication.http_token_authentication",
)
"""Loggers that warn about what a job client meets; our own messages say it in other words."""


class JobClient(JobSubmissionClient):
    """Ray's client of the Jobs API, with its one request method open to subclasses.

    By itself it waits without limit for a host that does not answer, asks once, and follows redirects.
    """

    @property
    def server_version(self) -> str:
        """The version of Ray that the cluster runs."""
        return str(self._server_ray_version)

    def send(self, method: str, endpoint: str, **options: Any) -> Any:
        """Send any of the client's requests; for subclasses, which call `exchange`."""
        return self.exchange(method, endpoint, headers=self._headers, **options)

    def exchange(self, method: str, endpoint: str, *, headers: dict[str, str], **options: Any) -> Any:
        """Send one request with these headers alone; `options` are those of `requests.request`.

        Raises:
            ray.exceptions.AuthenticationError: the cluster refuses the token, or asks for one.
        """
        self._headers = headers  # and no token that Ray found by itself
        return super()._do_request(method, endpoint, **options)

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return self.send(method, endpoint, **options)


@contextmanager
def few_processes() -> Iterator[None]:
    """Have a Ray that is started meanwhile start the processes a run needs, and not those that serve others.

    Half of its start goes into them; the dashboard is loaded even if `include_dashboard` is false, unless its
    dependencies seem to be missing. Each node's agent then does without its web server.
    """
    utils: Any = ray._private.utils
    missing = ImportError("no dashboard is wanted")
    with ExitStack() as stack:
        for name in UNNEEDED_PROCESSES:
            stack.enter_context(_replaced(ray._private.node.Node, name, lambda *_args, **_settings: None))
        stack.enter_context(_replaced(utils, "get_dashboard_dependency_error", lambda: missing))
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """The owner with another attribute; a Ray without this name is left alone, and starts all its processes."""
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
    """The host:port of the cluster's GCS; given `auto`, of the one on this machine, if any."""
    found: str | None = canonicalize_bootstrap_address(address)
    return found


def reread_settings() -> None:
    """Have Ray's core read the RAY_ variables again; it does so by itself when it is imported, and never after."""
    raylet: Any = ray._raylet
    raylet.Config.initialize("")


def nodes_told_to_go() -> set[str]:
    """The ids of nodes that drain. No public call tells; Ray's own Train asks in the same way.

    Raises:
        RayError, TimeoutError: the cluster can't be asked.
    """
    return set(ray._private.state.state.get_draining_nodes())
