"""The Ray a run works on: one started for it, or a running cluster. The only module that starts or joins one."""

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
    few_processes,
    gcs_address,
    nodes_told_to_go,
    reread_settings,
)
from stillhouse.cluster.tokens import MODE, Token, kept_token, named_token, no_token, refused_token
from stillhouse.gen.errors import Paused, UsageError

NAMESPACE = "stillhouse"
CONNECT_TIMEOUT_S = 5.0
START_PATIENCE_S = 10.0
"""A note appears after this long without a started worker."""
SLOW_START_S = 30.0
"""The same, if CPUs are free."""
_SETTINGS = b"\x04"
"""The type of the frame that an HTTP/2 server, as gRPC's are, says first: RFC 9113, 3.4 and 6.5."""

UNPACK_TIMEOUT_S = 120.0
"""For a busy machine: whatever is not unpacked by then may be deleted under a worker."""
MIN_FREE_BYTES = 16 * 2**20
"""For a Ray that is started here: its logs, more than ten times what a short run writes."""
_COMMON: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray, for as long as the block lasts. `address` None: one of our own, unless this is a job on a cluster already.

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
                f"the Ray cluster at {address} can't be joined: {_words(error)}; if its versions of Python "
                "or Ray differ from those here, run there: stillhouse submit --address http://head:8265"
            ) from None
        stack.callback(ray.shutdown)
        if address is not None:
            _unpack_on_siblings()
        yield


def _unpack_on_siblings() -> None:
    """Have the other raylets that share our session's folder unpack the job's working_dir now, not while we import.

    Two raylets of one cluster on one machine keep it at the same path, and each deletes what is there before it unpacks
    it for the first time (Ray 2.54 to 2.60): modules would be gone for a moment under processes that load them. Each
    unpacks it once, for its first process of the job; so each starts one before any of ours needs a module.
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
        """A local function, which Ray sends as it is: to import it would take a module."""

    task = ray.remote(nothing)
    on = [NodeAffinitySchedulingStrategy(node, soft=True) for node in siblings]
    ray.wait(
        [task.options(num_cpus=0, scheduling_strategy=each).remote() for each in on],
        num_returns=len(on),
        timeout=UNPACK_TIMEOUT_S,
    )
    os.chdir(unpacked)  # ours was deleted


def _not_started(error: Exception) -> UsageError:
    """With what to do where it is about the folder that Ray keeps its files in."""
    words = f"Ray can't be started here: {_words(error)}"
    if "AF_UNIX path length" in words:
        return UsageError(f"{words}; set RAY_TMPDIR to a folder with a short path, such as /tmp")
    if isinstance(error, OSError):
        return UsageError(
            f"{words}; Ray keeps its files in {_ray_folder()}: set RAY_TMPDIR to a folder of yours, with a short path"
        )
    return UsageError(words)


def _ray_folder() -> Path:
    """Where a Ray that is started here keeps its files."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")  # noqa: S108 - Ray's choice


def _check_room() -> None:
    """Ray itself starts on a full disk, and its processes then die silently.

    Raises:
        UsageError: the disk is full.
    """
    folder = _ray_folder()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    disk = shutil.disk_usage(there)
    if disk.total and disk.free < MIN_FREE_BYTES:
        raise UsageError(
            f"Ray can't be started here: the disk of {folder}, where it keeps its files, is full "
            f"({disk.free / 2**20:.1f} MiB free); expected {MIN_FREE_BYTES / 2**20:.0f}: free some, or set RAY_TMPDIR "
            "to a folder on another disk, with a short path"
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
    """Start a Ray, in a second try where the first was too slow.

    Raises:
        Paused: neither came up.
    """
    for left in (1, 0):
        try:
            ray.init(**settings)
        except Exception as error:
            if type(error) is not Exception:  # Ray raises a bare one where its node is not up within 30 s
                raise
            if not left:
                raise Paused(
                    f"Ray failed to start here twice ({_words(error)}); try again on a quieter machine"
                ) from None
            ray.shutdown()
        else:
            return


def check_reachable(address: str) -> None:
    """Check that a cluster's GCS may be at host:port; Ray itself would try for two minutes, and then end the process.

    Raises:
        UsageError: nobody listens there, or something else does.
    """
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise UsageError(
            f"expected `auto` or a cluster's host:port (6379 by default), got {address}; "
            "with the dashboard's http address: stillhouse submit"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            said = sock.recv(8)
    except (OSError, OverflowError) as error:
        raise UsageError(f"no Ray cluster at {address}: {error}; is it up, and is this its GCS port?") from None
    if os.environ.get("RAY_USE_TLS") == "1":
        return  # it says nothing to whom it does not trust yet
    if said.startswith(b"HTTP/"):
        raise UsageError(
            f"{address} is a web server, perhaps the dashboard; expected the GCS port (6379 by default), "
            "or with the dashboard's http address: stillhouse submit"
        )
    if said[3:4] != _SETTINGS:
        raise UsageError(f"what listens at {address} is not a Ray cluster; is this its GCS port (6379 by default)?")


@contextmanager
def token_agreed(address: str) -> Iterator[None]:
    """Have Ray send a token where the cluster asks for one, and only there.

    Ray itself goes by what it finds on this machine: without RAY_AUTH_MODE it sends the token in the user's home to a
    cluster found by `auto` but to no other, and a cluster without tokens accepts a client that has one only half.

    Raises:
        UsageError: the cluster asks for a token, and there is none, or not the right one.
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
    """True if the cluster lets nobody in with this token or, given None, without one; None if it can't be asked."""
    if os.environ.get("RAY_USE_TLS") == "1":
        return None
    import grpc  # Ray's own; it takes a while to load

    metadata = (("authorization", f"Bearer {token.value}"),) if token else ()
    with grpc.insecure_channel(gcs) as channel:
        try:
            channel.unary_unary(GCS_CALL)(b"", timeout=CONNECT_TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            return True if error.code() == grpc.StatusCode.UNAUTHENTICATED else None
        return False


def _set_mode(mode: str | None) -> None:
    """For this process; Ray reads it when it is imported, and again on request. None: not set, and no token."""
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
    """The message when no worker has started for this long: soon if none has a CPU, later if nodes are only slow."""
    if waited_s < START_PATIENCE_S:
        return None
    free, known = free_cpus(), cpus()
    if free < 1:
        why = f"each needs a CPU, and {free:g} of {known} are free: end another job, or add a node"
    elif waited_s > SLOW_START_S:
        why = f"{free:g} of {known} CPUs are free, so its nodes are slow to start one"
    else:
        return None
    return f"no worker has started after {waited_s:.0f} s ({why}); waiting"


def draining_nodes() -> set[str]:
    """The ids of nodes that are about to go (a spot notice, a scale-down); what runs there is to end soon."""
    try:
        return nodes_told_to_go()
    except (RayError, TimeoutError):
        return set()


def this_node() -> str:
    """The id of the node that the driver is on."""
    return str(ray.get_runtime_context().get_node_id())
