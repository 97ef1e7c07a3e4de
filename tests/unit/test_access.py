"""Access to a dashboard, and the messages where it is denied: against servers that answer as Ray and gateways do."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from dashboard_proxy import Reply, Request, dashboard_proxy

from stillhouse.cluster.cli import main
from stillhouse.cluster.jobs.access import Access, access
from stillhouse.cluster.tokens import Token, kept_token, named_token
from stillhouse.gen.errors import UsageError

VERSION = Reply(200, json.dumps({"version": "4", "ray_version": "2.60.0", "ray_commit": ""}).encode())
NO_JOBS = Reply(200, b"[]", {"Content-Type": "application/json"})
MISSING = Reply(401, b"Unauthorized: Missing authentication token", {"Content-Type": "text/plain"})
INVALID = Reply(403, b"Forbidden: Invalid authentication token", {"Content-Type": "text/plain"})
PAGE = b"<!DOCTYPE html><html><head><title>Sign in to\n Example</title></head><body><form></form></body></html>"
HTML = {"Content-Type": "text/html; charset=utf-8"}
LOGIN = Reply(200, PAGE, HTML)
REDIRECT = Reply(302, b"", {"Location": "https://login.example/oauth?state=secret-state"})
SECRET = "secret-value"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token, and an environment that sets none."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_HEADERS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def keep_token(home: Path, token: str) -> None:
    """As Ray does."""
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(f"{token}\n")


def guarded(token: str, seen: list[str | None]) -> Callable[[Request, object], Reply]:
    """A dashboard with this token and no job; it notes what it is sent."""

    def answer(request: Request, _: object) -> Reply:
        sent = request.headers.get("Authorization") or request.headers.get("X-Ray-Authorization")
        seen.append(sent)
        if sent is None:
            return MISSING
        if sent != f"Bearer {token}":
            return INVALID
        return VERSION if request.path == "/api/version" else NO_JOBS

    return answer


def said(*args: str) -> str:
    """What the command ends with, exit code 2."""
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 2, done.output
    assert SECRET not in done.output
    return done.output.splitlines()[-1]


def test_the_stored_token_is_sent_only_if_one_is_required(home: Path) -> None:
    """First without it, then with it, and from then on always with it."""
    keep_token(home, SECRET)
    seen: list[str | None] = []
    with dashboard_proxy("", guarded(SECRET, seen)) as address:
        assert "has no job x" in said("stop", "x", "--address", address)
    assert seen[0] is None
    assert set(seen[1:]) == {f"Bearer {SECRET}"}


@pytest.mark.parametrize("mode", [None, "token"])
def test_a_missing_token_is_distinguished_from_a_wrong_one(
    home: Path, monkeypatch: pytest.MonkeyPatch, mode: str | None
) -> None:
    """The first says where one is looked for, the second where the wrong one came from."""
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with dashboard_proxy("", guarded("the cluster's", [])) as address:
        line = said("stop", "x", "--address", address)
        assert "no token given" in line
        assert "RAY_AUTH_TOKEN_PATH" in line
        keep_token(home, SECRET)
        assert "does not accept ~/.ray/auth_token" in said("stop", "x", "--address", address)
        monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET[::-1])
        line = said("stop", "x", "--address", address)
    assert line.startswith("stillhouse: token refused")
    assert "does not accept RAY_AUTH_TOKEN;" in line


@pytest.mark.parametrize("command", [["submit", "quickstart"], ["logs", "x"], ["stop", "x"]])
@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (LOGIN, "answers with a web page (HTTP 200, 'Sign in to Example')"),
        (REDIRECT, "redirects (HTTP 302) to https://login.example/oauth,"),
        (Reply(401, PAGE, HTML), "refuses access ('Sign in to Example')"),
        (Reply(403, b"denied", {"Content-Type": "text/plain"}), "refuses access ('denied')"),
    ],
    ids=["page", "redirect", "401", "403"],
)
def test_36_a_login_in_front_is_named(command: list[str], reply: Reply, words: str, home: Path) -> None:
    """Whatever request the dashboard gets; the user's token is not sent to a stranger's login."""
    keep_token(home, SECRET)
    seen: list[str] = []

    def answer(request: Request, _: object) -> Reply:
        seen.extend(request.headers.values())
        return reply

    with dashboard_proxy("", answer) as address:
        line = said(*command, "--address", address)
    assert words in line
    assert "RAY_JOB_HEADERS is not set" in line
    assert "secret-state" not in line
    assert not any(SECRET in value for value in seen)


def test_36_headers_that_the_gateway_rejects_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says that they were sent, not what they are."""
    monkeypatch.setenv("RAY_JOB_HEADERS", json.dumps({"X-Made-Up-Auth": SECRET}))
    with dashboard_proxy("", lambda _request, _forward: LOGIN) as address:
        assert "the contents of RAY_JOB_HEADERS were not sufficient" in said("stop", "x", "--address", address)


def test_the_token_leaves_room_for_the_gateways_authorization() -> None:
    """Ray reads its own from a second header."""
    gateway = {"authorization": "Basic eDp5", "X-Made-Up": "x"}
    assert Access(gateway, Token("t", "RAY_AUTH_TOKEN")).headers == gateway | {"X-Ray-Authorization": "Bearer t"}
    assert Access({}, Token("t", "RAY_AUTH_TOKEN")).headers == {"Authorization": "Bearer t"}


@pytest.mark.parametrize(
    "text",
    ["x", "[1]", '{"X A": ""}', '{"": ""}', '{"X": 1}', f'{{"X-A": "{SECRET}\\nB: y"}}', '{"X-A": " x"}', '{"X": "☃"}'],
)  # fmt: skip
def test_unsendable_headers_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """By the variable's name, and without their values."""
    monkeypatch.setenv("RAY_JOB_HEADERS", text)
    with pytest.raises(UsageError, match=r"^RAY_JOB_HEADERS: expected") as error:
        access()
    assert SECRET not in str(error.value)


def test_tokens_are_found_where_ray_looks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable before the file that one names; the file in the home if a token is required; none if disabled."""
    keep_token(home, "kept")
    (home / "file").write_text("from the file\n")
    assert named_token() is None
    assert kept_token() == Token("kept", "~/.ray/auth_token")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert named_token() == kept_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "file"))
    assert named_token() == Token("from the file", f"RAY_AUTH_TOKEN_PATH={home}/file")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "direct")
    assert named_token() == Token("direct", "RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert (named_token(), kept_token()) == (None, None)


@pytest.mark.parametrize("content", [None, b"two\nlines", b"\xff"])
def test_a_file_without_a_token_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    """The message names the variable."""
    if content is not None:
        (home / "file").write_bytes(content)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "file"))
    with pytest.raises(UsageError, match=r"^RAY_AUTH_TOKEN_PATH=.*: expected a"):
        access()
