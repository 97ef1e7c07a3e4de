"""Ray's private names that we use exist in the installed Ray; each test says what breaks without them."""

import importlib.util
import inspect
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import ray
from builders import recipe_of
from ray._common import constants
from ray._private.node import Node
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import get_uri_for_directory
from ray._private.services import ProcessInfo
from ray.job_submission import JobSubmissionClient

from stillhouse.cluster import ray_internals
from stillhouse.cluster.jobs.job_client import CLIENT_LOGGERS, JobClient
from stillhouse.cluster.jobs.shipment import packed


class _Dashboard(BaseHTTPRequestHandler):
    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["X-Made-Up"]))
        body = json.dumps({"version": "4", "ray_version": "2.99.0", "ray_commit": "x"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def dashboard() -> Iterator[str]:
    """The address of one that knows its version alone."""
    with HTTPServer(("127.0.0.1", 0), _Dashboard) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_every_job_request_goes_through_our_client(dashboard: str) -> None:
    """Without it: `submit` hangs on a dead host, follows a login page, and sends a token that Ray found on its own."""

    class Client(JobClient):
        def send(self, method: str, endpoint: str, **options: Any) -> Any:
            return self.exchange(method, endpoint, headers={"X-Made-Up": "1"}, timeout=5, **options)

    assert Client(dashboard).server_version == "2.99.0"
    assert set(_Dashboard.seen) == {("/api/version", "1")}
    source = inspect.getsource(JobSubmissionClient)
    assert source.count("self._do_request(") >= 5
    assert "headers=self._headers" in source  # the log's, which has a connection of its own


def test_compiled_modules_travel(tmp_path: Path) -> None:
    """Without it: each process of a job compiles our modules by itself; nothing fails."""
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "module.pyc").write_bytes(b"compiled")
    with packed(recipe_of(tmp_path), ship="code") as shipment:
        ours = shipment.runtime_env["excludes"]
    default = get_runtime_env_default_excludes()
    packages = [
        get_uri_for_directory(str(tmp_path), include_gitignore=True, excludes=excludes)
        for excludes in (default, [*default, *ours], [])
    ]
    assert packages[0] != packages[1] == packages[2]


def test_processes_that_a_run_does_not_need_can_be_left_out() -> None:
    """Without it: a run's own Ray takes twice as long to start; nothing fails."""
    names = ray_internals.UNNEEDED_PROCESSES
    before = [getattr(Node, name) for name in names]
    with ray_internals.few_processes():
        assert not any(getattr(Node, name) is old for name, old in zip(names, before, strict=True))
        utils: Any = importlib.import_module("ray._private.utils")
        assert isinstance(utils.get_dashboard_dependency_error(), ImportError)
    assert [getattr(Node, name) for name in names] == before


def test_a_ray_that_does_not_start_is_ended_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without: its processes compete with the second try, and with the end of this process."""
    process = subprocess.Popen(["sleep", "60"])

    def begin(node: Any) -> None:
        unused = dict.fromkeys(set(ProcessInfo._fields) - {"process"})
        node.all_processes = {"raylet": [ProcessInfo(process=process, **unused)]}
        node.removal_lock = threading.Lock()
        raise TimeoutError

    monkeypatch.setattr(Node, "__init__", begin)
    with pytest.raises(TimeoutError), ray_internals.ended_if_it_fails():
        Node()  # type: ignore[call-arg]
    assert process.poll() is not None
    assert vars(Node)["__init__"] is begin
    assert "self.removal_lock = " in inspect.getsource(Node)


def test_the_address_of_the_gcs_is_known() -> None:
    """Without it: nobody asks a cluster if it wants a token, and Ray decides by its own rules."""
    assert ray_internals.gcs_address("192.0.2.7:6379") == "192.0.2.7:6379"


def test_ray_settings_can_be_reloaded() -> None:
    """Without it: RAY_AUTH_MODE, set once the cluster's requirement is known, has no effect in this process."""
    ray_internals.reread_settings()


def test_draining_nodes_can_be_listed() -> None:
    """Without: a node's last two minutes pass unused, and its chunks are recovered from their journals instead."""
    with pytest.raises(ray.exceptions.RaySystemError):  # Ray is not started
        ray_internals.listed_draining_nodes()


def test_the_head_has_its_own_resource() -> None:
    """Without: limiters are put on any node, and are lost with it."""
    assert constants.HEAD_NODE_RESOURCE_NAME == ray_internals.HEAD_RESOURCE


@pytest.mark.parametrize("name", CLIENT_LOGGERS)
def test_loggers_of_the_job_client_exist(name: str) -> None:
    """Without it: its warnings appear next to our own messages."""
    assert importlib.util.find_spec(name) is not None
