"""The Ray that a run works on: one started for it, or a running cluster. The only module that starts or joins one."""

import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stillhouse.cluster.ray_internals import (
    GCS_CALL,
    OWN_PROCESSES,
    ended_if_it_fails,
    few_processes,
    gcs_address,
    listed_draining_nodes,
    reread_settings,
)
from stillhouse.cluster.tokens import MODE, Token, kept_token, named_token, no_token, refused_token
from stillhouse.gen.errors import Paused, UsageError

NAMESPACE = "stillhouse"
CONNECT_TIMEOUT_S = 5.0
START_PATIENCE_S = 10.0
"""A note appears after this long without a started worker."""
SLOW_START_S = 30.0
"""A note appears after this long without a started worker although CPUs are free."""
_SETTINGS = b"\x04"
"""Type of the first frame that an HTTP/2 server sends, and so a gRPC server: RFC 9113, 3.4 and 6.5."""

UNPACK_TIMEOUT_S = 120.0
"""Long enough for a busy machine: whatever is not unpacked by then may be deleted under a worker."""
MIN_FREE_BYTES = 16 * 2**20
"""Free space for a Ray that is started here: its logs need a tenth of this in a short run."""
_COMMON: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray, for as long as the block lasts. `address` None: start one, or inside a job, join the job's cluster.

    Raises:
        UsageError: there is no cluster at the address, or it can't be joined.
        Paused: this machine is too busy to start one.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    with ExitStack() as stack:
        try:
            if address is None:
                _start_alone()
            else:
                check_reachable(address)
                stack.enter_context(token_agreed(address))
                ray.init(address=address, **_COMMON)
        except (RayError, RuntimeError, ValueError, OSError) as error:
            if address is None:
                raise _not_started(error) from None
            raise UsageError(
                f"can't join the Ray cluster at {address}: {_words(error)}; if its version of Python or Ray differs "
                "from the one here, use: stillhouse submit --address http://head:8265"
            ) from None
        stack.callback(ray.shutdown)
        if address is not None:
            _unpack_on_siblings()
        yield


def _unpack_on_siblings() -> None:
    """Make the other raylets in our session's folder unpack the job's working_dir now, not while we import.

    Two raylets of one cluster on one machine unpack it to the same path, and each deletes what is there before it
    unpacks for the first time (Ray 2.54 to 2.60). For a moment, modules would be missing under processes that load
    them. A raylet unpacks once, for its first process of the job; so each starts one before any of ours needs a module.
    """
    if not ray.get_runtime_context().runtime_env.get("working_dir"):
        return
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    places = {node["NodeID"]: (node["NodeManagerHostname"], Path(node["RayletSocketName"]).parent) for node in nodes}
    here = this_node()
    siblings = [node for node, place in places.items() if node != here and place == places.get(here)]
    if not siblings:
        return
    unpacked = Path.cwd()

    def nothing() -> None:
        """A local function, which Ray sends by value, because importing it would take a module."""

    task = ray.remote(nothing)
    on = [NodeAffinitySchedulingStrategy(node, soft=True) for node in siblings]
    ray.wait(
        [task.options(num_cpus=0, scheduling_strategy=each).remote() for each in on],
        num_returns=len(on),
        timeout=UNPACK_TIMEOUT_S,
    )
    os.chdir(unpacked)  # our files were deleted


def _not_started(error: Exception) -> UsageError:
    """Ray's error, with what to do if it is about the folder where Ray keeps its files."""
    words = f"Ray can't be started here: {_words(error)}"
    if "AF_UNIX path length" in words:
        return UsageError(f"{words}; set RAY_TMPDIR to a folder with a short path, such as /tmp")
    if isinstance(error, OSError):
        return UsageError(
            f"{words}; Ray keeps its files in {_ray_folder()}: set RAY_TMPDIR to a folder that you own, with a "
            "short path"
        )
    return UsageError(words)


def _ray_folder() -> Path:
    """The folder where a Ray that is started here keeps its files."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")  # noqa: S108 - Ray's choice


def _check_room() -> None:
    """Refuse to start on a full disk: Ray itself would start, and its processes would then die silently.

    Raises:
        UsageError: the disk is full.
    """
    folder = _ray_folder()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    disk = shutil.disk_usage(there)
    if disk.total and disk.free < MIN_FREE_BYTES:
        raise UsageError(
            f"Ray can't be started here: the disk of {folder}, where it keeps its files, is full "
            f"({disk.free / 2**20:.1f} MiB free); expected {MIN_FREE_BYTES / 2**20:.0f}: free some space, or set "
            "RAY_TMPDIR to a folder on another disk, with a short path"
        )


def _start_alone() -> None:
    _check_room()
    with few_processes():
        _start(
            address="local",
            include_dashboard=False,
            num_cpus=max(4, os.cpu_count() or 1),
            _system_config=OWN_PROCESSES,
            **_COMMON,
        )


def _start(**settings: Any) -> None:
    """Start a Ray, and try a second time if the first try was too slow.

    Raises:
        Paused: neither came up.
    """
    for left in (1, 0):
        try:
            with ended_if_it_fails():
                ray.init(**settings)
        except Exception as error:
            if type(error) is not Exception:  # Ray raises a bare exception if its node is not up within 30 s
                raise
            if not left:
                raise Paused(
                    f"Ray failed to start here twice ({_words(error)}); try again when this machine is less busy"
                ) from None
            ray.shutdown()
        else:
            return


def check_reachable(address: str) -> None:
    """Check that host:port may be a cluster's GCS; Ray itself would try for two minutes, and then end the process.

    Raises:
        UsageError: nothing listens there, or something else does.
    """
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise UsageError(
            f"expected `auto` or a cluster's host:port (6379 by default), got {address}; for the dashboard's http "
            "address, use: stillhouse submit"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            said = sock.recv(8)
    except (OSError, OverflowError) as error:
        raise UsageError(f"no Ray cluster at {address}: {error}; is it up, and is this its GCS port?") from None
    if os.environ.get("RAY_USE_TLS") == "1":
        return  # it sends nothing to clients that it does not trust yet
    if said.startswith(b"HTTP/"):
        raise UsageError(
            f"{address} is a web server, perhaps the dashboard; expected the GCS port (6379 by default); for the "
            "dashboard's http address, use: stillhouse submit"
        )
    if said[3:4] != _SETTINGS:
        raise UsageError(f"what listens at {address} is not a Ray cluster; is this its GCS port (6379 by default)?")


@contextmanager
def token_agreed(address: str) -> Iterator[None]:
    """Make Ray send a token if the cluster requires one, and only then.

    Ray itself decides by what it finds on this machine: without RAY_AUTH_MODE, it sends the token in the user's home to
    a cluster found by `auto`, but to no other. A cluster without tokens accepts a client with a token only in part.

    Raises:
        UsageError: the cluster requires a token, and there is none, or it is wrong.
    """
    gcs = gcs_address(address)
    asks = None if gcs is None else _refuses(gcs, None)
    if gcs is None or asks is None:
        yield
        return
    if asks:
        token = named_token() or kept_token()
        if token is None:
            raise no_token(address)
        if _refuses(gcs, token):
            raise refused_token(address, token.origin)
    before = os.environ.get(MODE)
    try:
        _set_mode("token" if asks else "disabled")
        yield
    finally:
        _set_mode(before)


def _refuses(gcs: str, token: Token | None) -> bool | None:
    """True if the cluster rejects clients with this token (None: without a token); None if it can't be asked."""
    if os.environ.get("RAY_USE_TLS") == "1":
        return None
    import grpc  # Ray's own client; it takes a while to load

    metadata = (("authorization", f"Bearer {token.value}"),) if token else ()
    with grpc.insecure_channel(gcs) as channel:
        try:
            channel.unary_unary(GCS_CALL)(b"", timeout=CONNECT_TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            return True if error.code() == grpc.StatusCode.UNAUTHENTICATED else None
        return False


def _set_mode(mode: str | None) -> None:
    """Set a variable for this process; Ray reads it when it is imported, and again on request. None: not set."""
    os.environ[MODE] = mode or "disabled"
    reread_settings()
    if mode is None:
        del os.environ[MODE]


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def cpus() -> int:
    """The CPUs of the cluster's nodes."""
    return int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]


def free_cpus() -> float:
    """CPUs that nothing has reserved."""
    return float(ray.available_resources().get("CPU", 0))  # type: ignore[no-untyped-call]


def why_none_started(waited_s: float) -> str | None:
    """The message if no worker has started for this long: soon if no CPU is free, later if nodes are only slow."""
    if waited_s < START_PATIENCE_S:
        return None
    free, known = free_cpus(), cpus()
    if free < 1:
        why = f"each needs a CPU, and {free:g} of {known} are free: end another job, or add a node"
    elif waited_s > SLOW_START_S:
        why = f"{free:g} of {known} CPUs are free, so its nodes start processes slowly"
    else:
        return None
    return f"no worker has started after {waited_s:.0f} s ({why}); waiting"


def draining_nodes() -> set[str]:
    """The ids of nodes that are about to go away (a spot notice, a scale-down); actors on them have to end soon."""
    try:
        return listed_draining_nodes()
    except (RayError, TimeoutError):
        return set()


def this_node() -> str:
    """The id of the driver's node."""
    return str(ray.get_runtime_context().get_node_id())
