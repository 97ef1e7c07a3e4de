"""Servers that are not ours: llama.cpp's and LiteLLM's proxy, with every reply recorded on its way to us.

They live in an environment of their own, `.venv-servers`, which `scripts/setup --all` makes.
"""

import asyncio
import json
import os
import re
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ports import reserved_ports

ROOT = Path(__file__).resolve().parents[1]
PYTHON = Path(os.environ.get("STILLHOUSE_SERVERS_PYTHON", ROOT / ".venv-servers" / "bin" / "python"))
KEY = "sk-made-up"

_MOCK = {"api_key": "none", "input_cost_per_token": 0.01, "output_cost_per_token": 0.01}
GATEWAY: dict[str, Any] = {
    "model_list": [
        {"model_name": "noon", "litellm_params": _MOCK | {"model": "openai/m-8b", "mock_response": "It is noon."}},
        {
            "model_name": "limited",
            "litellm_params": _MOCK | {"model": "openai/m-9b", "mock_response": "It is one.", "rpm": 3},
        },
        {"model_name": "dead", "litellm_params": _MOCK | {"model": "openai/m-7b", "api_base": "http://127.0.0.1:9/v1"}},
        {
            "model_name": "poor",
            "litellm_params": _MOCK
            | {"model": "mistral/m", "mock_response": "It is two.", "max_budget": 1e-7, "budget_duration": "1d"},
        },
    ],
    "router_settings": {
        "num_retries": 0,
        "disable_cooldowns": True,
        "optional_pre_call_checks": ["enforce_model_rate_limits"],
    },
    "general_settings": {"master_key": KEY},
}
"""`limited` takes three requests in a minute, `poor` has the money for one answer."""


def why_missing(module: str) -> str | None:
    """Why a server can't be started; None if it can."""
    if PYTHON.exists() and subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True).returncode == 0:
        return None
    return f"{PYTHON} has no {module}; `scripts/setup --all` installs it where the package index has it"


@contextmanager
def llama_cpp(folder: Path) -> Iterator[str]:
    """llama.cpp's server with a tiny random model; its base URL."""
    command = [PYTHON, Path(__file__).parent / "llama_cpp_server.py", folder]
    with _running([str(part) for part in command], folder / "llama.log") as process:
        _waited((folder / "url").exists, process)
        yield f"{(folder / 'url').read_text()}/v1"


@contextmanager
def litellm(folder: Path, *, upstream: str) -> Iterator[str]:
    """LiteLLM's proxy in front of `GATEWAY`, and of `chat` and `claude` at a simulator; its base URL."""
    config = folder / "gateway.json"
    chat = {"model": "openai/m", "api_base": upstream, "api_key": "none"}
    claude = {"model": "anthropic/claude-opus-4-8", "api_base": upstream.removesuffix("/v1"), "api_key": "none"}
    passed_on = [{"model_name": name, "litellm_params": each} for name, each in (("chat", chat), ("claude", claude))]
    config.write_text(json.dumps(GATEWAY | {"model_list": [*GATEWAY["model_list"], *passed_on]}))  # JSON is YAML
    with reserved_ports(1) as (port,):
        command = [
            str(PYTHON.with_name("litellm")),
            "--config",
            str(config),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        with _running([str(part) for part in command], folder / "litellm.log") as process:
            log = folder / "litellm.log"
            _waited(lambda: "running on http" in log.read_text().lower(), process)
            yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def _running(command: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    # Without the network: the prices that LiteLLM brings, and no reports of use.
    env = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=log.parent, env=env)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _waited(listens: Callable[[], bool], process: "subprocess.Popen[bytes]", *, deadline_s: float = 120.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not listens():
        assert process.poll() is None, "the server ended before it listened; its log is beside the test's files"
        assert time.monotonic() < deadline, "the server does not listen"
        time.sleep(0.2)


@dataclass(frozen=True)
class Exchange:
    """A request and its reply as they passed by."""

    asked: dict[str, Any]
    status: int
    body: bytes

    @property
    def prompt(self) -> str:
        """The last message."""
        return str(self.asked["messages"][-1]["content"])


@dataclass
class Recorder:
    """A man in the middle that changes nothing."""

    upstream: str
    url: str = ""
    exchanges: list[Exchange] = field(default_factory=list)

    def statuses(self) -> list[int]:
        """Of all replies, in order."""
        return [exchange.status for exchange in self.exchanges]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request; both connections are closed after it."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            sent = await reader.readexactly(int(length[1]) if length else 0)
            reply = await self._passed_on(re.sub(rb"\r\n\r\n\Z", b"\r\nconnection: close\r\n\r\n", head) + sent)
            top, _, body = reply.partition(b"\r\n\r\n")
            self.exchanges.append(Exchange(json.loads(sent), int(top.split(b" ", 2)[1]), body))
            writer.write(top + b"\r\nconnection: close\r\n\r\n" + body)
            await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def _passed_on(self, request: bytes) -> bytes:
        where = urlsplit(self.upstream)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        try:
            writer.write(request)
            return await reader.read(-1)
        finally:
            writer.close()


@asynccontextmanager
async def recording(upstream: str) -> AsyncIterator[Recorder]:
    """A recorder in front of a server."""
    recorder = Recorder(upstream)
    listening = await asyncio.start_server(recorder.serve, "127.0.0.1", 0)
    async with listening:
        recorder.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
        yield recorder
