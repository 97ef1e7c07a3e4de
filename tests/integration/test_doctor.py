"""`doctor` against real servers and folders: each fault it looks for is found, named, and comes with its fix."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from builders import questions, recipe_of, write_source
from click.testing import CliRunner

from stillhouse.cluster.cli import main
from stillhouse.cluster.commands.doctor import Finding, examine_recipe
from stillhouse.gen import simulator
from stillhouse.schemas.recipe_file import dump_recipe
from stillhouse.schemas.simulator import SimulatorSettings

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
"""Of a clock that is far off."""


def teacher(url: str, **changes: Any) -> dict[str, Any]:
    """A teacher at the url."""
    return {"name": "t", "base_url": url, "model": "m", "terms": {"training_use": "permitted"}} | changes


def found(root: Path, **changes: Any) -> dict[str, Finding]:
    """The findings on a recipe, by name; the last one if two have the same name."""
    write_source(root, questions(3))
    return {finding.name: finding for finding in examine_recipe(recipe_of(root, **changes))}


@contextmanager
def replying(status: int, body: dict[str, Any], **headers: str) -> Iterator[str]:
    """The base URL of a server that has one reply to everything."""

    class One(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            data = json.dumps(body).encode()
            self.send_response_only(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), One) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_a_healthy_recipe_passes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """A teacher is asked once, briefly; no dataset is created."""
    log = tmp_path / "log.jsonl"
    with simulator.start(SimulatorSettings(log=str(log))) as server:
        findings = found(tmp_path, teachers=[teacher(server.url)])
    assert {name: finding.state for name, finding in findings.items()} == {
        "source": "ok", "dataset": "ok", "journal": "ok", "teacher t": "ok"
    }  # fmt: skip
    assert "one request sent" in findings["teacher t"].message
    assert len(log.read_text().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_refused_key_is_named_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider echoes it; doctor does not."""
    monkeypatch.setenv("A_KEY", "secret-value-of-this-account")
    refusal = {
        "error": {"message": "Incorrect API key provided: secret-value-of-this-account", "code": "invalid_api_key"}
    }
    with replying(401, refusal) as url:
        finding = found(tmp_path, teachers=[teacher(url, api_key="env:A_KEY")])["teacher t"]
    assert finding.state == "fail"
    assert "api_key" in finding.fix
    assert "secret-value" not in finding.as_text()


@pytest.mark.parametrize(
    ("status", "message", "state", "fix"),
    [
        (429, "Rate limit reached", "warn", "limits"),
        (404, "The model `m` does not exist", "fail", "model"),
        (500, "oops", "fail", "server is up"),
        (503, "Loading model", "warn", "still loading"),
    ],
)
def test_a_teachers_error_reply_leads_to_advice(
    tmp_path: Path, status: int, message: str, state: str, fix: str
) -> None:
    """A teacher that needs time is not the recipe's fault; everything else is."""
    with replying(status, {"error": {"message": message}}) as url:
        finding = found(tmp_path, teachers=[teacher(url)])["teacher t"]
    assert (finding.state, fix in finding.fix) == (state, True), finding


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (None, "lacks the requested log-probabilities"),
        ([{"token": "a", "logprob": "-0.5"}], "lacks the requested log-probabilities"),
        ([{"token": "a", "logprob": -0.5}], "lacks the requested token ids"),
        ([{"token": "token_id:7", "logprob": -0.5}], None),
    ],
)
def test_missing_labels_are_reported(tmp_path: Path, entries: Any, words: str | None) -> None:
    """Before a run pays for answers without them."""
    message = {"role": "assistant", "content": "hello"}
    answer = {"choices": [{"finish_reason": "stop", "message": message, "logprobs": {"content": entries}}]}
    with replying(200, answer) as url:
        ask = {"top_logprobs": 2, "token_ids": True}
        finding = found(tmp_path, ask=ask, teachers=[teacher(url)])["teacher t"]
    assert finding.state == ("warn" if words else "ok")
    assert (words or "answers as") in finding.message


def test_a_wrong_clock_is_reported(tmp_path: Path) -> None:
    """The Date of the teacher's reply shows it."""
    answer = {
        "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}],
        "model": "m",
    }
    with replying(200, answer, Date=DATE) as url:
        finding = found(tmp_path, teachers=[teacher(url)])["teacher t"]
    assert (finding.state, "clock" in finding.message) == ("warn", True)


def test_a_missing_teacher_source_and_key_are_reported(tmp_path: Path) -> None:
    """Each is a separate finding, and the others are still tried."""
    (tmp_path / "other").mkdir()
    absent = [
        teacher("http://127.0.0.1:1/v1", name="a"),
        teacher("http://127.0.0.1:1/v1", name="b", api_key="env:NO_1"),
    ]
    findings = found(tmp_path, teachers=absent, source={"path": str(tmp_path / "none.jsonl")})
    states = {name: finding.state for name, finding in findings.items()}
    assert states == {
        "source": "fail", "dataset": "ok", "journal": "ok", "teacher a": "fail", "teacher b": "fail"
    }  # fmt: skip
    assert "NO_1" in findings["teacher b"].message


def test_an_unwritable_store_is_reported(tmp_path: Path) -> None:
    """A file is where the dataset should be."""
    (tmp_path / "out").write_text("in the way")
    assert found(tmp_path)["dataset"].state == "fail"


def test_the_command_exits_1_where_something_fails(tmp_path: Path) -> None:
    """For example with an invalid Ray address; `--json` prints JSON."""
    write_source(tmp_path, questions(3))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_recipe(recipe_of(tmp_path)))
    done = CliRunner().invoke(main, ["doctor", str(recipe), "--address", "127.0.0.1:1", "--json"])
    states = {finding["name"]: finding["state"] for finding in json.loads(done.stdout)}
    assert states == {
        "here": "ok", "ray": "fail", "source": "ok", "dataset": "ok", "journal": "ok", "teacher sim": "ok"
    }  # fmt: skip
    assert done.exit_code == 1
