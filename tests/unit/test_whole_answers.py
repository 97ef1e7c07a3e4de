"""No reply or header of any shape loses a whole readable answer or changes it; no dataset without a record is done.

The answer is wrapped in whatever servers, proxies and gateways put round it, and goes the way of the real client: out
of its content encoding, into UTF-8, through the journal's frame, and to the reader.
"""

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.gen.clock import ManualClock
from stillhouse.gen.journal.frames import Frame, Kind, decode, encode
from stillhouse.gen.teachers.account import Account
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.decoding import decoded, in_utf8
from stillhouse.gen.teachers.durations import MAX_WAIT_S
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.outcome import Trouble
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.protocols.openai_errors import OPENAI_ERRORS
from stillhouse.gen.teachers.thinking import has_markup, split_thoughts
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.gen.views.summary import Summary
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.teacher import Teacher

TEACHER = Teacher.model_validate(
    {"name": "t", "base_url": "http://t/v1", "model": "m", "terms": {"training_use": "permitted"}}
)
READER = Interpreter(TEACHER, Ask())

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda text: split_thoughts(text).thoughts is None and not has_markup(text)
)


def _parts(text: str) -> list[Any]:
    half = len(text) // 2
    return [
        text,
        [{"type": "text", "text": text}],
        [{"text": text[:half]}, {"type": "text", "text": text[half:]}],
        [text[:half], text[half:]],
        {"type": "text", "text": {"value": text}},
        [{"type": "text", "text": text}, {"type": "citation", "url": "x"}],
        [{"type": "text", "text": None}, {"type": "output_text", "text": text}],
    ]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
"""For fields that stand beside the answer; NaN and Infinity too."""

ENVELOPES: list[Callable[[dict[str, Any]], Any]] = [
    lambda answer: answer,
    lambda answer: [answer],
    lambda answer: {"code": 0, "data": answer},
    lambda answer: {"result": {"response": answer}, "error": None},
]
WRAPPINGS: list[Callable[[bytes], bytes]] = [
    lambda body: body,
    lambda body: b"\n\n\n" + body,
    lambda body: b"\xef\xbb\xbf" + body,
    lambda body: body + b"\n\ndata: [DONE]\n\n",
    lambda body: b"data: " + body + b"\n\ndata: [DONE]\n\n",
    lambda body: b"\0\0\0\0" + body + b"\0\0",
    lambda body: body[:-1] + b', "x_cost": 1e999, "x_id": ' + b"7" * 400 + b"}",
    lambda body: body[:-1] + b', "x_tree": ' + b"[" * 3000 + b"]" * 3000 + b"}",
]
ENCODINGS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("identity", bytes),
    ("", bytes),
    ("none", bytes),
    ("UTF-8", bytes),
    ("gzip", bytes),
    ("GZIP", gzip.compress),
    ("gzip, gzip", lambda body: gzip.compress(gzip.compress(body))),
    ("deflate", zlib.compress),
    ("br", lambda body: bytes(pa.Codec("brotli").compress(body, asbytes=True))),
    ("zstd", lambda body: bytes(pa.Codec("zstd").compress(body, asbytes=True))),
]
CHARSETS = [("application/json", "utf-8"), ("text/plain; charset=UTF-16", "utf-16"), ("a/b; charset=latin-1", "utf-8")]


@settings(max_examples=300)
@given(
    text=TEXTS, data=st.data(), usage=JUNK, logprobs=JUNK, junk=st.dictionaries(st.text(max_size=5), JUNK, max_size=3)
)
def test_a_complete_answer_is_read_unchanged(
    text: str, data: st.DataObject, usage: Any, logprobs: Any, junk: dict[str, Any]
) -> None:
    """Whatever surrounds it, the text is the text, live and from a journal."""
    content = data.draw(st.sampled_from(_parts(text)))
    name = data.draw(st.sampled_from(["message", "delta"]))
    choice = {"finish_reason": "stop", name: {"role": "assistant", "content": content}, "logprobs": logprobs}
    beside = {key: value for key, value in junk.items() if key not in ("choices", "error")}
    answer = beside | {"choices": [choice], "usage": usage, "model": data.draw(JUNK), "id": data.draw(JUNK)}
    kind, charset = data.draw(st.sampled_from(CHARSETS))
    body = json.dumps(data.draw(st.sampled_from(ENVELOPES))(answer), ensure_ascii=data.draw(st.booleans()))
    raw = body.encode(charset, "surrogatepass")
    if charset == "utf-8" and raw.startswith(b"{"):
        raw = data.draw(st.sampled_from(WRAPPINGS))(raw)
    encoding, encode_body = data.draw(st.sampled_from(ENCODINGS))
    arrived = in_utf8(decoded(encode_body(raw), encoding, max_bytes=2**24), kind)
    live = READER.read(Reply(200, {"content-type": kind}, arrived))
    assert isinstance(live, Completion), live
    assert live.text == text
    frame = decode(b"".join(encode(Frame(Kind.ANSWERED, 0, 1.0, 0.5, 200, "h", arrived, (("content-type", kind),)))))
    assert frame is not None
    assert READER.read(Reply(200, dict(frame.headers), frame.body)).__class__ is Completion


HEADER_NAMES = [
    *sorted(OPENAI_ERRORS.kept_headers | OPENAI_ERRORS.remaining_headers),
    *[each.reset for each in OPENAI_ERRORS.limits],
    *["content-type", "content-encoding", "content-length", "date", "location", "retry-after", "x-anything"],
]
HEADER_VALUES = (
    st.text(max_size=20)
    | st.integers(-(10**25), 10**25).map(str)
    | st.floats().map(str)
    | st.sampled_from(["true", "0", "-1", "1s", "6m0s", "1e999", "Thu, 01 Jan 1970 00:00:00 GMT", "a/b; charset=x"])
)


class _Wire:
    """A transport that has one reply."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def prepare(self, urls: Iterable[str]) -> None:
        """No preparation is needed."""

    async def send(self, request: HttpRequest, *, timeout_s: float) -> Reply:
        """See `gen.teachers.transport.Transport`."""
        return self._reply

    async def close(self) -> None:
        """Nothing is open."""


@settings(max_examples=200)
@given(text=TEXTS, headers=st.dictionaries(st.sampled_from(HEADER_NAMES), HEADER_VALUES, max_size=12))
def test_no_header_discards_a_complete_answer(text: str, headers: dict[str, str]) -> None:
    """Whatever it says, the answer is read, live and from its journal, and no limit stops the account forever."""
    clock = ManualClock(now=100.0)
    answer = {"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": text}}]}
    body = json.dumps(answer).encode()

    async def sent() -> tuple[TeacherClient, Reply]:
        client = TeacherClient(READER, transport=_Wire(Reply(200, headers, body)), account=Account(clock), clock=clock)
        endpoint = client.endpoint(again=False)
        assert endpoint is not None
        return client, await client.send(client.request(Request((("user", "hi"),)), endpoint, now=0.0))

    client, live = asyncio.run(sent())
    kept = decode(b"".join(encode(Frame(Kind.ANSWERED, 0, 1.0, 0.5, 200, "h", live.body, tuple(live.headers.items())))))
    assert kept is not None
    for reply in (live, Reply(200, dict(kept.headers), kept.body)):
        read = READER.read(reply)
        assert isinstance(read, Completion), read
        assert read.text == text
    for ceiling in client.account.report(backlog=1).ceilings.values():
        assert ceiling.rate > 0.0
        assert ceiling.for_s <= MAX_WAIT_S


@settings(max_examples=200)
@given(
    status=st.integers(100, 999),
    body=st.binary(max_size=200) | JUNK.map(lambda value: json.dumps(value).encode()),
    encoding=st.sampled_from([name for name, _ in ENCODINGS]) | st.text(max_size=20),
    kind=st.text(max_size=30) | st.sampled_from([kind for kind, _ in CHARSETS]),
    latency_s=st.floats(0, 1e6),
)
def test_any_reply_becomes_an_outcome(status: int, body: bytes, encoding: str, kind: str, latency_s: float) -> None:
    """Nothing a server sends raises on its way."""
    arrived = in_utf8(decoded(body, encoding, max_bytes=2**24), kind)
    assert isinstance(READER.read(Reply(status, {"content-type": kind}, arrived, latency_s)), (Completion, *_TROUBLES))


_TROUBLES = Trouble.__args__


@given(
    records=st.integers(0, 3),
    rejected=st.integers(0, 3),
    failed=st.integers(0, 3),
    state=st.sampled_from(["done", "unfinished"]),
)
def test_a_finished_dataset_without_records_is_not_a_success(
    records: int, rejected: int, failed: int, state: str
) -> None:
    """Whatever the reasons for rejecting or failing; an empty source is another case."""
    summary = Summary(state=state, dataset="d", records=records, rejected=rejected, failed=failed)
    useless = state == "done" and not records and rejected + failed > 0
    assert (summary.why_useless() is not None) == useless
