"""Addresses without a cluster: reported at once, on one line, with what was expected."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from builders import questions, recipe_of, write_source
from click.testing import CliRunner

from stillhouse.cluster.cli import main


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe; what commands put into the environment is taken out again."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    write_source(tmp_path, questions(3))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of(tmp_path).model_dump(mode="json", exclude_none=True)))
    return path


def refused(*args: object) -> str:
    """The one line that the command ends with, and exit code 2."""
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == 2, result.output
    return result.output.splitlines()[-1]


@contextmanager
def served(bodies: dict[str, str]) -> Iterator[str]:
    """The address of a web server that answers these paths, and no others."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = bodies.get(self.path, "").encode()
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("version", ["[1, 2]", "null", "{}", '{"ray_version": []}', '"x"', "<html>"])
def test_a_server_that_is_not_ray_is_reported(recipe: Path, version: str) -> None:
    """Whatever it answers, to any request."""
    with served({"/api/version": version}) as address:
        said = refused("submit", recipe, "--address", address)
    assert address in said


def test_a_server_that_only_resembles_ray_is_reported(recipe: Path) -> None:
    """It reports a version, but has no jobs."""
    version = json.dumps({"version": "4", "ray_version": "2.60.0", "ray_commit": ""})
    with served({"/api/version": version, "/api/jobs/": '{"a": 1}'}) as address:
        said = refused("stop", "x", "--address", address)
    assert "does not answer as Ray's dashboard does" in said


def test_a_port_without_a_gcs_is_reported_at_once(recipe: Path) -> None:
    """Ray itself would try for two minutes and ignore signals meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with server.accept()[0] as client:
                client.recv(1024)  # closed with something unread, it would be reset
                client.sendall(b"SSH-2.0-x\r\n")

        threading.Thread(target=greet, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        said = refused("run", recipe, "--address", address)
    assert "is not a Ray cluster" in said


def test_an_old_cluster_is_refused(recipe: Path) -> None:
    """Before anything is shipped to it."""

    version = json.dumps({"version": "4", "ray_version": "2.40.0", "ray_commit": ""})
    with served({"/api/version": version}) as address:
        said = refused("submit", recipe, "--address", address)
    assert "runs Ray 2.40.0" in said


@pytest.mark.parametrize(
    ("command", "address", "said"),
    [
        ("submit", "http://127.0.0.1:1", "no Ray cluster answers at http://127.0.0.1:1"),
        ("submit", "127.0.0.1:8265", "expected the http address"),
        ("submit", "http://user:secret@127.0.0.1:8265", "without credentials"),
        ("submit", "http://[::1", "expected the http address"),
        ("run", "", "expected a cluster's address"),
        ("run", "127.0.0.1:1", "no Ray cluster at 127.0.0.1:1"),
    ],
)
def test_a_wrong_address_is_reported_at_once(recipe: Path, command: str, address: str, said: str) -> None:
    """With what was expected."""
    line = refused(command, recipe, "--address", address)
    assert said in line
    assert "secret" not in line
