"""How long a large reply holds the event loop, from its arrival to its columns: scripts/bench held [MB ...]

Each body goes the way of a worker's replies: cleared of keys, journalled, read, and read again and made into columns as
a seal does, in the same threads and process. Meanwhile the loop wakes every few milliseconds. It was held for as long
as it woke late, or for the CPU that the process used meanwhile, if that is less: other programs may be what delayed it.
The least of three rounds counts; the bar is what the watchdog reports.
"""

import asyncio
import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from benchmark.bars import judged
from benchmark.labels import TOP, entries_of, written
from benchmark.scores import item_of
from stillhouse.gen.clock import SYSTEM
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.frames import Frame, Kind
from stillhouse.gen.process.garbage import collect_rarely
from stillhouse.gen.teachers import reply_threads
from stillhouse.gen.teachers.account import Account
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.reading import read
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.gen.worker.columns import column
from stillhouse.gen.worker.earlier_answers import fingerprint
from stillhouse.gen.worker.score_columns import score_columns
from stillhouse.gen.worker.watchdog import MOST_HELD_S
from stillhouse.schemas.arrow import RAW, columns_of
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.scored import Scored
from stillhouse.schemas.teacher import Teacher
from stillhouse.schemas.version import SCHEMA_VERSION

SIZES_MB, ROUNDS, TICK_S = (3.3, 10.0, 33.0, 60.0), 3, 0.003
KEY = "sk-proj-0123456789abcdefghijklmn"
TERMS = {"license": "MIT", "training_use": "permitted", "url": "https://a.test", "seen_on": "2026-11-22"}
SCORE = {"score": {"prompt_ids": "p", "completion_ids": "c", "top": 64}}
DATA = columns_of(SCHEMA_VERSION, {}).data
_SOME = 300
"""Tokens that differ; they are repeated to the size."""


class _Wire:
    """A transport whose reply is there."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def prepare(self, urls: Iterable[str]) -> None:
        """Nothing is needed."""

    async def send(self, request: HttpRequest, *, timeout_s: float) -> Reply:
        """See `Transport`."""
        return Reply(200, {"content-type": "application/json"}, self._body)

    async def close(self) -> None:
        """Nothing is open."""


def _repeated(size: float, *lists: list[Any], indent: int | None = None) -> list[bytes]:
    """Each list as JSON, repeated as often as brings all of them to the size together."""
    texts = [json.dumps(each, indent=indent, ensure_ascii=False).encode()[1:-1] for each in lists]
    times = max(1, round(size / sum(map(len, texts))))
    return [b",".join([text] * times) for text in texts]


def _chat(size: float, chance: random.Random, *, indent: int | None = None) -> tuple[bytes, Scored | None]:
    (entries,) = _repeated(size, entries_of(chance, _SOME), indent=indent)
    if indent is None:
        entries = entries.replace(b'": ', b'":').replace(b', "', b',"')
    head = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"a"},"logprobs":{"content":['
    return head + entries + b']},"finish_reason":"stop"}]}', None


def _indented(size: float, chance: random.Random) -> tuple[bytes, Scored | None]:
    return _chat(size, chance, indent=1)


def _streamed(size: float, chance: random.Random) -> tuple[bytes, Scored | None]:
    events = [
        {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [entry]}}]}
        for entry in entries_of(chance, _SOME)
    ]
    text = b"".join(b"data: %b\n\n" % orjson.dumps(event) for event in events)
    end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    return text * max(1, round(size / len(text))) + end, None


def _response(size: float, chance: random.Random) -> tuple[bytes, Scored | None]:
    (entries,) = _repeated(size, entries_of(chance, _SOME))
    head = b'{"status":"completed","output":[{"type":"message","content":[{"type":"output_text","logprobs":['
    return head + entries + b'],"text":"a"}]}]}', None


def _streamed_response(size: float, chance: random.Random) -> tuple[bytes, Scored | None]:
    """Its last event contains it whole."""
    whole, _ = _response(size, chance)
    return b'data: {"type":"response.completed","response":' + whole + b"}\n\n", None


def _gemini(size: float, chance: random.Random) -> tuple[bytes, Scored | None]:
    def token() -> dict[str, Any]:
        return {"token": f"t{chance.randrange(500)}", "tokenId": 7, "logProbability": -chance.random()}

    tops = [{"candidates": [token() for _ in range(TOP)]} for _ in range(_SOME)]
    chosen, alternatives = _repeated(size, [token() for _ in range(_SOME)], tops)
    head = b'{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP","logprobsResult":{'
    return head + b'"chosenCandidates":[' + chosen + b'],"topCandidates":[' + alternatives + b"]}}]}", None


def _streamed_gemini(size: float, chance: random.Random) -> tuple[bytes, Scored | None]:
    """In one event."""
    whole, _ = _gemini(size, chance)
    return b"data: " + whole + b"\n\n", None


def _vllm(size: float, chance: random.Random) -> tuple[bytes, Scored | None]:
    ids = [chance.randrange(32_000) for _ in range(_SOME)]
    (items,) = _repeated(size, [item_of(each, chance) for each in ids])
    scored = Scored.of([1], ids * (items.count(b'"rank": 1,') // _SOME))
    return b'{"choices":[{"text":"","prompt_logprobs":[null,' + items + b"]}]}", scored


def _sglang(size: float, chance: random.Random) -> tuple[bytes, Scored | None]:
    ids = [chance.randrange(32_000) for _ in range(_SOME)]
    tops = [[[-chance.random(), 32_000 + chance.randrange(32_000), None] for _ in range(64)] for _ in ids]
    rows, alternatives = _repeated(size, [[-0.5, each, None] for each in ids], tops)
    scored = Scored.of([1], ids * (rows.count(b"-0.5") // _SOME))
    head = b'{"meta_info":{"input_token_logprobs":[[null,1,null],' + rows + b'],"input_top_logprobs":[null,'
    return head + alternatives + b"]}}", scored


def _message(**fields: Any) -> tuple[bytes, Scored | None]:
    choice = {"message": {"role": "assistant", "content": None} | fields, "finish_reason": "stop"}
    return json.dumps({"choices": [choice]}, ensure_ascii=False).encode(), None


def _text(size: float, _: random.Random) -> tuple[bytes, Scored | None]:
    return _message(content='a "quoted"\n\\' * round(size / 17))


def _foreign(size: float, _: random.Random) -> tuple[bytes, Scored | None]:
    return _message(content="wörd 😀 字" * round(size / 14))


def _reasoning(size: float, _: random.Random) -> tuple[bytes, Scored | None]:
    thoughts = "so this is a thought\n" * round(size / 22)
    return _message(content=f"<think>\n{thoughts}</think>\nb")


def _call(size: float, _: random.Random) -> tuple[bytes, Scored | None]:
    arguments = json.dumps({"text": 'y\n"' * round(size / 9)})
    return _message(tool_calls=[{"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}])


def _images(size: float, _: random.Random) -> tuple[bytes, Scored | None]:
    """Fields that nobody reads."""
    return _message(content="a", images=[{"url": "data:image/png;base64," + "QUJD" * round(size / 4)}])


def _unknown(size: float, _: random.Random) -> tuple[bytes, Scored | None]:
    return b'{"a":[' + b",".join([b'{"b":[1]}'] * round(size / 10)) + b"]}", None


SHAPES: list[tuple[str, str, dict[str, Any], Callable[[float, random.Random], tuple[bytes, Scored | None]]]] = [
    ("chat completion", "openai-chat", {"top_logprobs": TOP}, _chat),
    ("with line breaks", "openai-chat", {"top_logprobs": TOP}, _indented),
    ("streamed", "openai-chat", {"top_logprobs": TOP}, _streamed),
    ("response", "openai-responses", {"top_logprobs": TOP}, _response),
    ("response, streamed", "openai-responses", {"top_logprobs": TOP}, _streamed_response),
    ("Gemini", "gemini", {"top_logprobs": TOP}, _gemini),
    ("Gemini, streamed", "gemini", {"top_logprobs": TOP}, _streamed_gemini),
    ("scores, vLLM", "vllm", SCORE, _vllm),
    ("scores, SGLang", "sglang", SCORE, _sglang),
    ("text", "openai-chat", {}, _text),
    ("text, not ASCII", "openai-chat", {}, _foreign),
    ("reasoning in the text", "openai-chat", {}, _reasoning),
    ("tool call", "openai-chat", {}, _call),
    ("image beside the text", "openai-chat", {}, _images),
    ("unknown shape", "openai-chat", {}, _unknown),
]


def main(sizes_mb: list[float]) -> int:
    """Print a table of milliseconds; 1 if the loop was held for longer than the bar."""
    gc.freeze()
    collect_rarely()  # as in a worker
    print("| held, ms |" + "".join(f" {size:g} MB |" for size in sizes_mb) + "\n|---|" + "---|" * len(sizes_mb))
    worst = 0.0
    for name, api, ask, make in SHAPES:
        row = []
        for size in sizes_mb:
            body, scored = make(size * 1e6, random.Random(0))
            row.append(min(asyncio.run(_held_ms(api, ask, body, scored)) for _ in range(ROUNDS)))
        worst = max(worst, *row)
        print(f"| {name} |" + "".join(f" {each:.0f} |" for each in row), flush=True)
    return judged(f"at most {worst:.0f} ms (bar: {MOST_HELD_S * 1e3:g})", met=worst <= MOST_HELD_S * 1e3)


async def _held_ms(api: str, ask: dict[str, Any], body: bytes, scored: Scored | None) -> float:
    teacher = {"name": "t", "api": api, "model": "m", "base_url": "https://a.test", "terms": TERMS}
    reader = Interpreter(Teacher.model_validate(teacher), Ask.model_validate(ask))
    client = TeacherClient(reader, transport=_Wire(body), account=Account(SYSTEM), clock=SYSTEM)
    reader.keys = (KEY,)
    late: list[float] = []
    ticking = asyncio.create_task(_tick(late))
    try:
        with tempfile.TemporaryDirectory() as folder:
            await _taken(client, JournalFile.create(Path(folder) / "a.journal"), scored)
    finally:
        ticking.cancel()
    return max(late) * 1e3


async def _tick(late: list[float]) -> None:
    while True:
        at, used = time.perf_counter(), time.process_time()
        await asyncio.sleep(TICK_S)
        late.append(min(time.perf_counter() - at - TICK_S, time.process_time() - used))


async def _taken(client: TeacherClient, journal: JournalFile, scored: Scored | None) -> None:
    reader = client.interpreter
    reply = await client.send(HttpRequest("POST", "https://a.test", {}))
    frame = Frame(Kind.ANSWERED, 0, 1.0, 1.0, 200, "host", reply.body, (), 0)
    place = await reply_threads.keep(lambda: journal.append(frame))
    await reply_threads.read(lambda: read(reader, Reply(200, {}, reply.body), scored))

    def sealed() -> None:
        body = journal.read(*place).body
        answer = read(reader, Reply(200, {}, body), scored).outcome
        column([body], RAW.field("body"))
        if isinstance(answer, Completion):
            if answer.scores is not None:
                written(pa.table(score_columns([answer.scores])))
            fingerprint(answer.text, answer.tool_calls)
            column([(("assistant", answer.text or ""),)], DATA.field("completion"))
            column([answer.reasoning], DATA.field("reasoning"))
            column([answer.tool_calls], DATA.field("tool_calls"))

    await asyncio.to_thread(sealed)


if __name__ == "__main__":
    sys.exit(main([float(each) for each in sys.argv[1:]] or list(SIZES_MB)))
