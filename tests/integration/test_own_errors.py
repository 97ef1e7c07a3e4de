"""What goes wrong on our side of the wire costs no sample a try: bugs are reported, slots bounded by descriptors."""

import asyncio
import logging
import os
import resource
import socket
from pathlib import Path
from typing import Any

import pytest
from builders import questions, recipe_of, write_source
from case_server import CaseServer, serving
from harness import run_in_process

from stillhouse.gen.errors import StillhouseError
from stillhouse.gen.teachers.http import PROBE_AFTER_S, HttpTransport
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.transport import HttpRequest, Lost, NotSent, Reply
from stillhouse.gen.worker.descriptors import RESERVED, free_for_connections
from stillhouse.gen.worker.worker import Worker
from stillhouse.schemas.recipe import Recipe

TERMS = {"license": "MIT", "training_use": "permitted", "url": "http://x.local/y"}
CHAT = b'{"model": "m", "messages": [{"role": "user", "content": "hello"}]}'


def recipe_at(tmp_path: Path, url: str, *, prompts: int, in_flight: int = 4) -> Recipe:
    """A recipe over this many prompts with one teacher at the URL."""
    write_source(tmp_path, questions(prompts))
    asked = {"name": "t", "api": "openai-chat", "base_url": url, "model": "m", "terms": TERMS}
    return recipe_of(tmp_path, teachers=[asked | {"limits": {"in_flight": in_flight}}])


async def test_an_internal_bug_is_reported_in_full_and_costs_no_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Exit 1 with the cause, its traceback in the log; nothing is sealed as poison, and the next run continues."""

    def broken(self: Interpreter, reply: Reply) -> Any:
        raise RuntimeError("no such luck")

    async with serving(CaseServer()) as server:
        recipe = recipe_at(tmp_path, server.url, prompts=20)
        with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, logger="stillhouse"):
            patch.setattr(Interpreter, "read_folded", broken)
            with pytest.raises(StillhouseError, match=r"RuntimeError: no such luck \(test_own_errors.py") as raised:
                await run_in_process(recipe)
        assert raised.value.exit_code == 1
        assert "Traceback" in caplog.text
        summary = await run_in_process(recipe)
    assert (summary.records, summary.failed) == (20, 0)


@pytest.mark.parametrize("url", ["http://a..b/v1", "http://" + "a" * 70 + "/v1", "http://127.0.0.1:9/v1"])
async def test_every_connection_error_belongs_to_its_request(url: str) -> None:
    """Names that don't resolve, addresses where nobody listens: not sent, whatever the libraries raise."""
    transport = HttpTransport()
    with pytest.raises((NotSent, Lost)):
        await transport.send(HttpRequest("POST", url, {}, CHAT), timeout_s=5)
    await transport.close()


async def test_running_out_of_descriptors_counts_as_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample waits as for any overload."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    transport = HttpTransport()
    async with serving(CaseServer(latency_s=0.2)) as server:
        taken = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a Path's would be async's to wait for
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 8, hard))
        try:
            url = server.url + "/chat/completions"
            posts = [transport.send(HttpRequest("POST", url, {}, CHAT), timeout_s=5) for _ in range(40)]
            ends = await asyncio.gather(*posts, return_exceptions=True)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert any(isinstance(end, NotSent) for end in ends)
        assert not [end for end in ends if not isinstance(end, (Reply, NotSent, Lost))]
    await transport.close()


def test_the_descriptor_limit_bounds_requests_in_flight() -> None:
    """The soft limit is raised to the hard one; the descriptors that are left are for connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = min(512, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lower, hard))
    try:
        free = free_for_connections()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
        assert lower - RESERVED < free or hard == lower
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_few_descriptors_mean_fewer_slots_and_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 32: no sample fails, no connection is refused, and a note reports it."""
    monkeypatch.setattr("stillhouse.gen.worker.parts.free_for_connections", lambda: 7)
    crew: list[Worker] = []
    async with serving(CaseServer(latency_s=0.02)) as server:
        recipe = recipe_at(tmp_path, server.url, prompts=60, in_flight=1000)
        summary = await run_in_process(recipe, crew=crew.extend)
    assert (summary.records, summary.requests) == (60, 60)
    assert any("limited to 7 requests in flight" in note for note in crew[0].counters.notes)


async def test_connections_use_tcp_keepalive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 04: routers forget a connection that carries nothing while an answer is awaited."""
    made: list[socket.socket] = []

    class Watched(socket.socket):
        def __init__(self, *args: Any, **fields: Any) -> None:
            super().__init__(*args, **fields)
            made.append(self)

    transport = HttpTransport()
    async with serving(CaseServer()) as server:
        monkeypatch.setattr(socket, "socket", Watched)
        await transport.send(HttpRequest("POST", server.url + "/chat/completions", {}, CHAT), timeout_s=5)
        (used,) = [each for each in made if each.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
        assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == PROBE_AFTER_S <= 60
        await transport.close()
