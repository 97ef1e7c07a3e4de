"""Rows 10 to 29 of the faults: what comes over the wire instead of an answer, and from where it may not come."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from builders import questions, recipe_of, write_source
from faults.wire import at, rows, served, setup, status
from harness import run_in_process
from integration.test_http import answering, certificate, listening

from stillhouse.gen.errors import Paused, UsageError
from stillhouse.gen.simulator import serve
from stillhouse.gen.worker.worker import Worker
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (status(200, body='{"error": {"message": "oops", "code": "server_error"}}'), "malformed"),
        (status(200, body='{"choices": []}'), "malformed"),
        (status(200, body='{"choices": [{"finish_reason": "stop"}]}'), "malformed"),
        (status(200, body='{"choices": [{"finish_reason": "stop", "message": {"content": null}}]}'), "malformed"),
        (status(200, body='{"choices": [{"message": {"conte'), "ambiguous"),
        ({"kind": "truncate"}, "ambiguous"),
        ({"kind": "reset", "when": "before"}, "ambiguous"),
        ({"kind": "reset", "when": "headers"}, "ambiguous"),
        ({"kind": "reset", "when": "body"}, "ambiguous"),
    ],
    ids=str,
)
async def test_an_unusable_reply_is_retried_a_few_times(tmp_path: Path, fault: dict[str, Any], kind: str) -> None:
    """Rows 11 to 14: an error or nonsense in a 200, a cut body, a reset -> a small cap, a Failure with the raw body.

    What may have been billed is counted.
    """
    recipe = setup(tmp_path, prompts=2, max_attempts=2)
    async with at(recipe, {"faults": [fault]}) as asked:
        summary = await run_in_process(asked)
    assert (summary.records, summary.failed_by_kind, summary.requests) == (0, {kind: 2}, 4)
    assert summary.maybe_billed == 4
    for row in rows(recipe, "failed"):
        assert (row["kind"], row["attempts"], row["maybe_billed"]) == (kind, 2, 2)
        assert (row["body_head"] or "") == fault.get("body", "")


NO_ANSWERS: list[tuple[dict[str, Any], bool]] = [
    (status(200, body="<!doctype html><title>Sign in</title>"), True),
    (status(200, body="{}"), True),
    (status(200, body='{"error": {"message": "oops", "code": "server_error"}}'), True),
    (status(200, body='{"cand'), True),
    (status(503, body="<html>upstream</html>"), False),
    (status(500, body=""), False),
    ({"kind": "truncate"}, True),
    ({"kind": "reset", "when": "before"}, True),
    ({"kind": "reset", "when": "headers"}, True),
    ({"kind": "reset", "when": "body"}, True),
    ({"kind": "trickle", "over_s": 0.2}, False),
]
"""And whether each may be billed, as any 200 may; the last is an answer after all."""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", ["openai-chat", "openai-responses", "anthropic", "gemini", "bedrock"])
async def test_an_unusable_reply_is_recognised_in_every_protocol(
    tmp_path: Path, api: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows 10 to 17: one prompt's first request gets each of these, whole or streamed; the second one is answered."""
    monkeypatch.setenv("T_KEY", "canary-key-4f9d-for-the-tests")
    faults = [
        fault | {"start_request": number, "stop_request": number + 1} for number, (fault, _) in enumerate(NO_ANSWERS)
    ]
    async with await serve(SimulatorSettings.model_validate({"faults": faults})) as server:
        base_url = server.url if api == "openai-chat" else server.url.removesuffix("/v1")
        asked = {"name": "t", "api": api, "base_url": base_url, "model": "m", "api_key": "env:T_KEY", "stream": stream}
        asked |= {"terms": {"training_use": "permitted"}, "limits": {"in_flight": 20}}
        write_source(tmp_path, questions(len(NO_ANSWERS)))
        recipe = recipe_of(tmp_path, teachers=[asked], ask={"max_tokens": 500})
        summary = await run_in_process(recipe)
    assert (summary.records, summary.requests) == (len(NO_ANSWERS), 2 * len(NO_ANSWERS) - 1)
    assert summary.maybe_billed == sum(may_be_billed for _, may_be_billed in NO_ANSWERS)


@pytest.mark.parametrize(
    ("code", "body", "kind"),
    [(413, "<html>413 Request Entity Too Large</html>", "too_long"), (422, "missing field `model`", "bad_request")],
)
async def test_an_error_that_is_not_json_is_classified_by_its_status(
    tmp_path: Path, code: int, body: str, kind: str
) -> None:
    """Row 10: a CDN's HTML, plain text -> classified by status; the start of a long body is stored."""
    recipe = setup(tmp_path, prompts=2)
    async with at(recipe, {"faults": [status(code, body=body + " x" * 100_000)]}) as asked:
        summary = await run_in_process(asked)
    assert (summary.failed_by_kind, summary.requests) == ({kind: 2}, 2)
    for row in rows(recipe, "failed"):
        assert row["status"] == code
        assert row["body_head"].startswith(body)
        assert len(row["body_head"]) <= 10_000


async def test_a_hang_ends_at_its_deadline(tmp_path: Path) -> None:
    """Row 15: the server never answers -> the total deadline fires, the slot is free, the sample is asked again."""
    recipe = setup(tmp_path, prompts=12, timeout_s=1.0, limits={"in_flight": 2})
    async with at(recipe, {"faults": [{"kind": "hang", "stop_request": 4}]}) as asked:
        summary = await run_in_process(asked)
    assert (summary.records, summary.failed) == (12, 0)
    assert summary.maybe_billed > 0


async def test_a_trickling_reply_is_read(tmp_path: Path) -> None:
    """Row 17: an answer in small pieces -> parsed."""
    recipe = setup(tmp_path, prompts=8)
    async with at(recipe, {"faults": [{"kind": "trickle", "over_s": 0.5}]}) as asked:
        assert (await run_in_process(asked)).records == 8


async def test_a_reply_received_twice_is_one_answer(tmp_path: Path) -> None:
    """Row 29: a proxy replays responses -> one row per request, and no sample gets another's answer."""
    recipe = setup(tmp_path, prompts=30, limits={"in_flight": 2})

    async def replaying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line[15:]) for line in head.splitlines() if line.lower().startswith(b"content-length")
                )
                question = json.loads(await reader.readexactly(length))["messages"][-1]["content"]
                choice = {"finish_reason": "stop", "message": {"content": f"to: {question}"}}
                body = json.dumps({"choices": [choice]}).encode()
                answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
                writer.write(answer)
                await writer.drain()
                await asyncio.sleep(0)  # so that the second one comes apart from the first
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(replaying, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with at(recipe, extra=[f"http://127.0.0.1:{port}/v1"]) as asked:
            summary = await run_in_process(asked)
    assert (summary.records, summary.failed) == (30, 0)
    for row in rows(recipe, "data"):
        assert row["completion"][0]["content"] == f"to: {row['prompt'][0]['content']}"


def keyed(recipe: Recipe, url: str, file: Path) -> Recipe:
    """The recipe with a teacher that wants the key in the file."""
    teacher = {"name": "sim", "base_url": url, "model": "m", "api_key": f"file:{file}", "limits": {"in_flight": 4}}
    document = recipe.model_dump(mode="json", exclude={"teachers"}, exclude_unset=True)
    return Recipe.model_validate(document | {"teachers": [teacher | {"terms": {"training_use": "permitted"}}]})


@pytest.mark.parametrize("rotated", [True, False])
async def test_a_refused_key_is_reread_once(tmp_path: Path, rotated: bool) -> None:
    """Row 25: 401 after a rotation -> the secret is read again and the run continues; otherwise exit 3. No storm of
    401s.
    """
    recipe, file, log = setup(tmp_path, prompts=30), tmp_path / "key", tmp_path / "log"
    file.write_text("sk-the-old-key-0123")

    def rotate(workers: Sequence[Worker]) -> None:
        if rotated:
            file.write_text("sk-the-new-key-4567")

    settings = SimulatorSettings(api_key="sk-the-new-key-4567", log=str(log), latency_s=0.02)
    async with await serve(settings) as server:
        run = run_in_process(keyed(recipe, server.url, file), crew=rotate)
        if rotated:
            assert (await run).records == 30
        else:
            with pytest.raises(Paused, match="401") as raised:
                await run
            assert raised.value.exit_code == 3
            assert "sk-the" not in str(raised.value)
    assert 1 <= sum(line["status"] == 401 for line in served(log)) <= 4


@pytest.mark.parametrize("code", [307, 308])
async def test_a_redirect_is_not_followed(tmp_path: Path, code: int) -> None:
    """Row 26: a redirect, be it to another host -> not followed, nothing is sent there; paused with the cause."""
    recipe, log, file = setup(tmp_path, prompts=10), tmp_path / "log", tmp_path / "key"
    file.write_text("sk-the-key-0123456")
    async with await serve(SimulatorSettings(log=str(log))) as other:
        away = status(code, body="", headers={"location": f"{other.url}/chat/completions"})
        async with await serve(SimulatorSettings.model_validate({"faults": [away]})) as server:
            with pytest.raises(Paused, match="redirected to another address"):
                await run_in_process(keyed(recipe, server.url, file))
    assert served(log) == []


async def test_an_invalid_certificate_stops_the_run(tmp_path: Path) -> None:
    """Row 27: a self-signed certificate -> exit 2 with the host, before anything is sent."""
    recipe, file = setup(tmp_path, prompts=10), tmp_path / "key"
    file.write_text("sk-the-key-0123456")
    context, _ = certificate(tmp_path)
    async with listening(answering(b""), tls=context) as url:
        with pytest.raises(UsageError, match=r"TLS to 127\.0\.0\.1:\d+ failed") as raised:
            await run_in_process(keyed(recipe, url, file))
    assert raised.value.exit_code == 2
