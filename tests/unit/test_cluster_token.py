"""When Ray sends a token: the cluster's requirement decides, not a file on this machine."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from stillhouse.cluster.runtime import token_agreed
from stillhouse.gen.errors import UsageError


@contextmanager
def gcs(token: str | None) -> Iterator[str]:
    """A server that lets callers in as a GCS does; its address."""

    def reply(_: bytes, context: grpc.ServicerContext) -> bytes:
        if token and ("authorization", f"Bearer {token}") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: missing or incorrect")
        return b""

    class Any(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc has no types
        def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(reply)

    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads, handlers=(Any(),))
        port = server.add_insecure_port("[::]:0")  # Ray makes this machine's own address of 127.0.0.1
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home in which Ray keeps a token, and an environment that sets none."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("kept")


@pytest.mark.parametrize(("asked", "mode"), [("kept", "token"), (None, "disabled")])
def test_the_cluster_decides_if_a_token_is_needed(asked: str | None, mode: str) -> None:
    """While it is joined; afterwards the setting is as before."""
    with gcs(asked) as address, token_agreed(address):
        assert os.environ["RAY_AUTH_MODE"] == mode
    assert "RAY_AUTH_MODE" not in os.environ


def test_a_named_token_is_not_sent_if_none_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray starts no actors for a client that sends one to a cluster without."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "named")
    with gcs(None) as address, token_agreed(address):
        assert os.environ["RAY_AUTH_MODE"] == "disabled"


def test_a_wrong_token_is_distinguished_from_a_missing_one(tmp_path: Path) -> None:
    """At once, while Ray tries for twenty seconds and then reports that it can't connect."""
    with gcs("another") as address:
        with (
            pytest.raises(UsageError, match=r"^token refused: .* does not accept ~/.ray/auth_token"),
            token_agreed(address),
        ):
            pass
        (tmp_path / ".ray" / "auth_token").unlink()
        with pytest.raises(UsageError, match=r"^no token given: "), token_agreed(address):
            pass
