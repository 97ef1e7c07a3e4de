"""The simulator in a separate process, on the event loop that it has there."""

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
from processes import runs
from waiting import wait_until

from stillhouse.gen.errors import UsageError
from stillhouse.gen.simulator import SimulatorProcess, start
from stillhouse.schemas.simulator import SimulatorSettings

HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the simulator logs."""
    return tmp_path / "log.jsonl"


@pytest.fixture
def process(log: Path) -> Iterator[SimulatorProcess]:
    """A simulator whose answers are of 400 kB."""
    with start(SimulatorSettings(log=str(log), output_tokens=(100_000, 100_000))) as simulator:
        yield simulator


def log_lines(path: Path) -> list[dict[str, Any]]:
    """The log's lines."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def post(simulator: SimulatorProcess, body: dict[str, Any]) -> httpx.Response:
    """One request on a connection of its own."""
    return httpx.post(f"{simulator.url}/chat/completions", json=body, timeout=30, trust_env=False)


def test_a_slow_reader_gets_all_of_a_large_answer(process: SimulatorProcess, log: Path) -> None:
    """40 MB through a socket's buffer: whole, and logged as delivered."""
    assert post(process, HELLO | {"n": 100}).json()["usage"]["completion_tokens"] == 10_000_000
    process.stop()
    assert [line["delivered"] for line in log_lines(log)] == [True]


def test_an_answer_that_does_not_fit_is_not_delivered(process: SimulatorProcess, log: Path) -> None:
    """A client that reads the head and resets: the kernel never took the whole body."""
    url, body = urlsplit(process.url), orjson.dumps(HELLO | {"n": 100})
    with socket.create_connection((url.hostname, url.port)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        assert sock.recv(1024).startswith(b"HTTP/1.1 200 OK")
    process.stop()
    assert [(line["status"], line["delivered"]) for line in log_lines(log)] == [(200, False)]


def test_a_process_serves_and_completes_its_log(process: SimulatorProcess, log: Path) -> None:
    """`stop` right after an answer loses no line, and the exit code is 0."""
    for _ in range(3):
        post(process, HELLO)
    assert process.stop() == 0
    assert len(log_lines(log)) == 3


def test_sigterm_is_left_to_the_parent(process: SimulatorProcess, log: Path) -> None:
    """Stopping a Ray job signals the driver's children too; the driver still wants answers."""
    os.kill(process.pid, signal.SIGTERM)
    post(process, HELLO)
    assert process.stop() == 0
    assert len(log_lines(log)) == 1


def test_no_simulator_outlives_a_killed_parent() -> None:
    """kill -9 of the parent: the simulator ends too."""
    program = (
        "import sys, time\n"
        "from stillhouse.gen.simulator import start\n"
        "from stillhouse.schemas.simulator import SimulatorSettings\n"
        "print(start(SimulatorSettings()).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    root = str(Path(__file__).parents[2])
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=root, text=True) as parent:
        assert parent.stdout is not None
        simulator = int(parent.stdout.readline())
        assert runs(simulator)
        parent.kill()
    wait_until(lambda: not runs(simulator), what="the simulator has ended", within_s=60)


def test_errors_at_the_start_are_reported(tmp_path: Path) -> None:
    """A file of answers that isn't there, a port that is taken."""
    with pytest.raises(UsageError, match="can't be read"):
        start(SimulatorSettings(answers=str(tmp_path / "none.jsonl")))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="can't be bound"):
            start(SimulatorSettings(), port=taken.getsockname()[1])
