"""A teacher as a worker asks it: turns are fair, no slot is leaked, no key gets out, and samples keep their teacher."""

import asyncio
import math
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.gen.clock import SYSTEM, ManualClock
from stillhouse.gen.errors import UsageError
from stillhouse.gen.journal.frames import ERROR_BODY_BYTES
from stillhouse.gen.limits.replies import Replies
from stillhouse.gen.limits.shares import LEASE_S, Ceiling, Cost, Lease
from stillhouse.gen.simulator.dialects.event_stream import frame
from stillhouse.gen.teachers.account import Account
from stillhouse.gen.teachers.assigner import Assigner
from stillhouse.gen.teachers.client import MOST_REFUSAL_BYTES, TeacherClient
from stillhouse.gen.teachers.endpoints import OPENS_AFTER, Endpoint
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.keys import credentials_of, redacted, without_keys
from stillhouse.gen.teachers.outcome import Auth
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.reply_threads import LARGE_BYTES
from stillhouse.gen.teachers.transport import HttpRequest, Lost, NotSent, Reply
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion, Usage
from stillhouse.schemas.teacher import Teacher

CANARY = "canary-4f9d0c7e5a1b-Zq83"
ONE = Cost(10, 10)
MESSAGES = (("user", "x" * 400),)


class Wire:
    """A transport with scripted replies that remembers what it was sent."""

    def __init__(self, answer: Reply | Exception | None = None) -> None:
        self.answer = answer
        self.sent: list[HttpRequest] = []

    def prepare(self, urls: Iterable[str]) -> None:
        """No preparation is needed."""

    async def send(self, request: HttpRequest, *, timeout_s: float) -> Reply:
        """See `gen.teachers.transport.Transport`."""
        self.sent.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        assert self.answer is not None
        return self.answer

    async def close(self) -> None:
        """Nothing is open."""


def teacher(**fields: Any) -> Teacher:
    """A teacher behind a URL."""
    terms = {"training_use": "permitted"}
    return Teacher.model_validate({"name": "t", "base_url": "http://t/v1", "model": "m", "terms": terms} | fields)


def client(wire: Wire | None = None, clock: ManualClock | None = None, **fields: Any) -> TeacherClient:
    """A client of such a teacher."""
    clock = clock or ManualClock(now=100.0)
    interpreter = Interpreter(teacher(**fields), Ask(max_tokens=50))
    return TeacherClient(interpreter, transport=wire or Wire(), account=Account(clock), clock=clock)


def lease(slots: int, *, pause_s: float = 0.0, ttl_s: float = math.inf) -> Lease:
    """A lease of slots alone."""
    return Lease({}, slots, ttl_s, pause_s)


async def settle_down() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


# --- the account


async def test_requests_are_sent_in_order() -> None:
    """First come, first served, whatever the cost."""
    account = Account(ManualClock(now=100.0))
    order: list[int] = []

    async def ask(number: int) -> None:
        await account.reserve(Cost(number % 3, 1))
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(ask(number))
        await settle_down()
        assert order == []
        for _ in range(20):
            account.accept(lease(len(order) + 1))
            await settle_down()
    assert order == list(range(20))


async def test_a_newcomer_does_not_overtake() -> None:
    """A request that comes when a slot is free but others wait has to wait too."""
    account = Account(ManualClock(now=100.0))
    account.accept(lease(1))
    await account.reserve(ONE)
    waiting = [asyncio.create_task(account.reserve(ONE)) for _ in range(2)]
    await settle_down()
    account.settle(ONE, None)
    late = asyncio.create_task(account.reserve(ONE))
    await settle_down()
    assert [task.done() for task in (*waiting, late)] == [True, False, False]
    for task in (*waiting, late):
        task.cancel()


async def test_a_priority_request_overtakes() -> None:
    """It overtakes all that wait without the flag, and none that wait with it."""
    account = Account(ManualClock(now=100.0))
    order: list[str] = []

    async def ask(name: str, *, first: bool = False) -> None:
        await account.reserve(ONE, first=first)
        order.append(name)

    account.accept(lease(1))
    await account.reserve(ONE)
    async with asyncio.TaskGroup() as group:
        for name, first in (("a", False), ("b", False), ("judge", True), ("late", False), ("next judge", True)):
            group.create_task(ask(name, first=first))
            await settle_down()
        for _ in range(5):
            account.settle(ONE, None)
            await settle_down()
    assert order == ["judge", "next judge", "a", "b", "late"]


async def test_a_rate_spaces_requests_out() -> None:
    """No renewal is needed: the account wakes up by itself when its share reaches further."""
    account = Account(SYSTEM)
    account.accept(Lease({"requests": 100.0}, 100, 60.0, 0.0))
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(account.reserve(ONE))
    assert account.report(backlog=0).in_flight == 20


async def test_a_wait_stops_all_and_is_reported_until_it_ends() -> None:
    """A report may get lost, so the next one says it again, with what is left."""
    clock = ManualClock(now=100.0)
    account = Account(clock)
    account.accept(lease(5))
    account.refused(pause_s=7.0)
    assert account.urgent.is_set()
    assert account.report(backlog=0).pause_s == 7.0
    assert not account.urgent.is_set()
    clock.now += 3.0
    assert account.report(backlog=0).pause_s == 4.0
    task = asyncio.create_task(account.reserve(ONE))
    await settle_down()
    assert not task.done()
    clock.now += 4.0
    account.accept(lease(5))
    await task
    assert account.report(backlog=0).pause_s == 0.0


async def test_a_wait_of_nothing_is_a_wait() -> None:
    """Each refusal without a wait, with no answer since, waits longer than the last; a burst of them counts once."""
    account = Account(clock := ManualClock(now=100.0))
    waits = []
    for _ in range(8):
        for _ in range(5):
            account.refused(pause_s=0.0)
        waits.append(account.report(backlog=0).pause_s)
        clock.now += waits[-1]
        assert not account.is_paused
    assert waits == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0])
    account.served(latency_s=0.1, tokens=5)
    account.refused(pause_s=0.0)
    assert account.report(backlog=0).pause_s == pytest.approx(0.05)


async def test_limit_headers_are_reported_at_once_if_little_is_left() -> None:
    """With their age; what is about our share can wait for the next renewal."""
    headers = {"x-ratelimit-remaining-requests": "60", "x-ratelimit-reset-requests": "10s"}
    asked = client(Wire(Reply(200, headers, b"{}")), clock=(clock := ManualClock(now=100.0)))
    for share, urgent in ((7.0, False), (100.0, True)):
        asked.account.report(backlog=0)
        asked.account.accept(Lease({"requests": share}, 9, LEASE_S, 0.0))
        await send(asked)
        assert asked.account.urgent.is_set() is urgent
    clock.now += 3.0
    assert asked.account.report(backlog=0).ceilings == {"requests": Ceiling(6.0, 10.0, 3.0)}
    clock.now += 8.0
    assert asked.account.report(backlog=0).ceilings == {}


async def test_a_wait_received_from_elsewhere_is_not_reported_again() -> None:
    """The ledger knows it; reported again, it would grow by the time of the report."""
    account = Account(ManualClock(now=100.0))
    account.accept(lease(5, pause_s=9.0))
    assert account.report(backlog=0).pause_s == 0.0


async def test_a_report_counts_what_happened_since_the_last() -> None:
    """And how many wait, here and in the worker's queue."""
    account = Account(ManualClock(now=100.0))
    account.accept(lease(2))
    tasks = [asyncio.create_task(account.reserve(ONE)) for _ in range(5)]
    await settle_down()
    account.settle(ONE, None)
    account.settle(ONE, None)
    account.served(latency_s=0.1, tokens=5)
    account.refused(ramped=True)
    await settle_down()
    report = account.report(backlog=7)
    assert (report.in_flight, report.waiting, report.ramped) == (2, 8, True)
    assert report.replies == Replies(served=1, refused=1, busy_s=0.1, tokens=5)
    report = account.report(backlog=0)
    assert (report.replies, report.ramped) == (Replies(), False)
    for task in tasks:
        task.cancel()


async def test_a_lease_counts_from_the_report_it_answers() -> None:
    """However long the answer took."""
    clock = ManualClock(now=100.0)
    account = Account(clock)
    account.report(backlog=0)
    clock.now += LEASE_S - 0.5
    account.accept(lease(5, ttl_s=LEASE_S))
    await account.reserve(ONE)
    clock.now += 1.0
    late = asyncio.create_task(account.reserve(ONE))
    await settle_down()
    assert not late.done()
    late.cancel()


@settings(max_examples=100, deadline=None)
@given(
    slots=st.integers(1, 4),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("ask"), st.integers(0, 0)),
            st.tuples(st.just("cancel"), st.integers(0, 30)),
            st.tuples(st.just("finish"), st.integers(0, 30)),
            st.tuples(st.just("finish and cancel"), st.integers(0, 30)),
            st.tuples(st.just("run"), st.integers(0, 0)),
        ),
        max_size=60,
    ),
)
def test_no_slot_is_leaked(slots: int, steps: list[tuple[str, int]]) -> None:
    """Whichever tasks are cancelled, waiting, just granted or in flight: in the end all slots are free."""

    async def play() -> None:
        account = Account(ManualClock(now=100.0))
        account.accept(lease(slots))
        ends: list[asyncio.Event] = []
        tasks: list[asyncio.Task[None]] = []
        under_way = 0

        async def ask(end: asyncio.Event) -> None:
            nonlocal under_way
            await account.reserve(ONE)
            under_way += 1
            try:
                await end.wait()
            finally:
                under_way -= 1
                account.settle(ONE, None)

        for verb, index in steps:
            if verb == "ask":
                ends.append(asyncio.Event())
                tasks.append(asyncio.create_task(ask(ends[-1])))
            elif verb == "run":
                await settle_down()
            elif tasks:
                if "finish" in verb:
                    ends[index % len(ends)].set()
                if verb == "finish and cancel":
                    await asyncio.sleep(0)  # a slot is given on, and its new owner is cancelled before it runs
                    tasks[(index + 1) % len(tasks)].cancel()
                if verb == "cancel":
                    tasks[index % len(tasks)].cancel()
            assert under_way <= slots
        for end in ends:
            end.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert under_way == 0
        account.report(backlog=0)
        report = account.report(backlog=0)
        assert (report.in_flight, report.waiting) == (0, 0)
        async with asyncio.timeout(60):
            for _ in range(slots):
                await account.reserve(ONE)

    asyncio.run(play())


# --- the client


async def taken(asked: TeacherClient) -> Endpoint:
    """An endpoint to send to, as a slot gets it."""
    while True:
        await asked.usable()
        if (endpoint := asked.endpoint(again=False)) is not None:
            return endpoint


async def send(asked: TeacherClient) -> Reply:
    """One attempt at any endpoint."""
    return await asked.send(asked.request(Request(MESSAGES), await taken(asked), now=0.0))


async def test_a_request_goes_to_the_endpoint_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol's path behind the base URL; the key in its header alone."""
    monkeypatch.setenv("T_KEY", CANARY)
    wire = Wire(Reply(200, {}, b"{}"))
    asked = client(wire, api_key="env:T_KEY")
    await send(asked)
    request = wire.sent[0]
    assert (request.method, request.url) == ("POST", "http://t/v1/chat/completions")
    assert request.headers["authorization"] == f"Bearer {CANARY}"
    assert CANARY not in repr(request)


@pytest.mark.parametrize(
    "echo",
    [
        CANARY,
        f"Incorrect API key provided: {CANARY}. You can find yours at",
        f"key {CANARY[:8]}****{CANARY[-4:]}",
        f"key ****{CANARY[-8:]}",
        f"cut off: {CANARY[:15]}",
        "/v1?key=canary%2B4f9d",
    ],
)
async def test_no_key_appears_in_messages(monkeypatch: pytest.MonkeyPatch, echo: str) -> None:
    """Not in an outcome's message, nor in an error's, nor in any repr, however the teacher echoes it."""
    monkeypatch.setenv("T_KEY", CANARY)
    wire = Wire()
    asked = client(wire, api_key="env:T_KEY")
    outcome = asked.interpreter.read(Reply(401, {}, b'{"error": {"message": "%b"}}' % echo.encode()))
    assert isinstance(outcome, Auth)
    said = [str(outcome), repr(asked), repr(asked.account), repr(asked.teacher), asked.interpreter.redact(echo)]
    for error in (Lost(echo), NotSent(echo)):
        wire.answer = error
        with pytest.raises((Lost, NotSent)) as caught:
            await send(asked)
        said += [str(caught.value), repr(caught.value)]
    for text in said:
        assert all(CANARY[n : n + 8] not in text for n in range(len(CANARY) - 7)), text


@pytest.mark.parametrize("status", [200, 429])
async def test_only_headers_that_affect_an_outcome_are_kept(status: int) -> None:
    """The journal keeps what is returned here."""
    headers = {"content-type": "application/json", "retry-after": "7", "x-should-retry": "false"}
    asked = client(Wire(Reply(status, headers | {"server": "nginx", "set-cookie": "id=1"}, b"{}")))
    assert await send(asked) == Reply(status, headers, b"{}")


@pytest.mark.parametrize("kind", ["application/vnd.amazon.eventstream", "application/octet-stream", ""])
async def test_no_key_stays_in_a_binary_stream(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Its frames are cut again, so that the answer is not lost; of one that is cut, the rest is searched too."""
    monkeypatch.setenv("T_KEY", CANARY)
    text = f'the key is {CANARY}, or "{CANARY}"'
    whole = b"".join(
        [
            frame("messageStart", {"role": "assistant"}),
            frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}}),
            frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": f" {CANARY[:9]}"}}),
            frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": f"{CANARY[9:]}."}}),
            frame("messageStop", {"stopReason": "end_turn"}),
        ]
    )
    refused = frame(CANARY, {"message": CANARY}, kind="exception")
    fields: dict[str, Any] = {
        "api": "bedrock",
        "base_url": "http://t",
        "api_key": "env:T_KEY",
        "aws": {"region": "us-east-1"},
    }
    for body, said in [(whole, 'the key is [key], or "[key]" [key].'), (refused, "[key]"), (whole[:400], None)]:
        assert CANARY.encode() in body
        asked = client(Wire(Reply(200, {"content-type": kind}, body)), **fields)
        endpoint = asked.endpoint(again=False)
        assert endpoint is not None
        reply = await asked.send(asked.request(Request(MESSAGES), endpoint, now=0.0))
        assert CANARY.encode() not in reply.body
        outcome = asked.interpreter.read(reply)
        if body is whole:
            assert isinstance(outcome, Completion)
            assert outcome.text == said
        else:
            assert not isinstance(outcome, Completion)
            assert outcome.message == (said or "the stream ended before the answer was complete")


@pytest.mark.parametrize("escape", [False, True])
@pytest.mark.parametrize("size", [100, LARGE_BYTES])
async def test_no_key_in_a_body_of_any_size(monkeypatch: pytest.MonkeyPatch, size: int, *, escape: bool) -> None:
    """A large one is searched beside the event loop, in pieces; a key may lie across two of them."""
    monkeypatch.setenv("T_KEY", CANARY)
    threads: list[bool] = []

    def watched(body: bytes, *, keys: tuple[str, ...]) -> bytes:
        threads.append(threading.current_thread() is not threading.main_thread())
        return without_keys(body, keys=keys)

    monkeypatch.setattr("stillhouse.gen.teachers.client.without_keys", watched)
    key = CANARY.replace("-", "\\u002d") if escape else CANARY
    fill = "x" * (size - len(key) // 2)
    asked = client(Wire(Reply(200, {}, f'{{"{fill}{key}": "{key}"}}'.encode())), api_key="env:T_KEY")
    reply = await send(asked)
    assert reply.body == f'{{"{fill}[key]": "[key]"}}'.encode()
    assert threads == [size == LARGE_BYTES]


async def test_of_a_long_refusal_only_the_beginning_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far more than the journal keeps, and without keys."""
    monkeypatch.setenv("T_KEY", CANARY)
    asked = client(Wire(Reply(400, {}, f"{CANARY} ".encode() + b"x" * 2**20)), api_key="env:T_KEY")
    body = (await send(asked)).body
    assert body.startswith(b"[key] xxx")
    assert ERROR_BODY_BYTES < len(body) <= MOST_REFUSAL_BYTES


@pytest.mark.parametrize(
    ("status", "value"), [(200, CANARY), (200, f"x; key={CANARY}"), (401, CANARY), (401, f"key {CANARY[:8]}****")]
)
async def test_no_key_stays_in_a_kept_header(monkeypatch: pytest.MonkeyPatch, status: int, value: str) -> None:
    """As in a body: whole in an answer, and in any part in a refusal."""
    monkeypatch.setenv("T_KEY", CANARY)
    headers = {"content-type": value, "retry-after": "7"}
    asked = client(Wire(Reply(status, headers, b"{}")), api_key="env:T_KEY")
    reply = await send(asked)
    assert "[key]" in reply.headers["content-type"]
    assert CANARY[:8] not in reply.headers["content-type"]
    assert reply.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    "text",
    [
        "sk-proj-abcd1234",
        "sk-...abcd",
        "sk-sim*****lator",
        "Bearer abc.def",
        "AIzaSyA-123456",
        "hf_abcdefgh",
        "gsk_abcdefgh",
    ],
)
def test_text_that_looks_like_a_key_is_hidden(text: str) -> None:
    """Whatever provider it belongs to."""
    assert redacted(f"provided: {text}") == "provided: [key]"


@pytest.mark.parametrize("text", ["", "a risk-averse disk-full task", "the bearer of news", "42"])
def test_other_text_stays(text: str) -> None:
    """A message is still a message."""
    assert redacted(text, keys=(CANARY,)) == text


def test_keys_in_urls_and_base64_are_hidden() -> None:
    """As proxies and gateways write them."""
    key = "a+b/c=d"
    assert redacted("?key=a%2Bb%2Fc%3Dd&x YStiL2M9ZA== a+b/c=d", keys=(key,)) == "?key=[key]&x [key] [key]"


def test_a_key_comes_from_the_environment_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """White space around it is not part of it."""
    monkeypatch.setenv("T_KEY", " k1\n")
    (tmp_path / "key").write_text("k2\n")
    assert credentials_of(teacher(api_key="env:T_KEY")).key == "k1"
    assert credentials_of(teacher(api_key=f"file:{tmp_path}/key")).key == "k2"
    assert credentials_of(teacher()).key is None


@pytest.mark.parametrize("value", [None, "", "  ", "two\nlines", "caf\xe9", "nul\x01"])
def test_an_unusable_key_is_named_and_not_shown(
    value: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the field, the reference and what to do."""
    monkeypatch.delenv("T_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("T_KEY", value)
    with pytest.raises(UsageError, match=r"teachers\.t\.api_key.*T_KEY.*set the environment variable") as caught:
        credentials_of(teacher(api_key="env:T_KEY"))
    assert not (value or "").strip() or (value or "") not in str(caught.value)
    with pytest.raises(UsageError, match="can't be read: FileNotFoundError"):
        credentials_of(teacher(api_key=f"file:{tmp_path}/none"))


@pytest.mark.parametrize(
    ("key", "host", "why"),
    [
        ("sk-ant-api03-CANARY", "api.openai.com", "a key of Anthropic .*api.openai.com takes a key of OpenAI"),
        ("AIzaCANARY", "api.openai.com", "a key of Google"),
        ("sk-proj-CANARY", "generativelanguage.googleapis.com", "takes a key of Google"),
        ("Bearer CANARY", "gateway.local", "give the key alone"),
    ],
)
def test_a_key_of_another_kind_is_explained(monkeypatch: pytest.MonkeyPatch, key: str, host: str, why: str) -> None:
    """Before a request, with the field and without the key; a gateway takes any."""
    monkeypatch.setenv("T_KEY", key)
    asked = {"api_key": "env:T_KEY", "terms": {"training_use": "by-authorisation", "authorisation": "x"}}
    with pytest.raises(UsageError, match=rf"teachers\.t\.api_key: env:T_KEY .*{why}") as caught:
        credentials_of(teacher(base_url=f"https://{host}/v1", **asked))
    assert "CANARY" not in str(caught.value)
    if not key.startswith("Bearer"):
        assert credentials_of(teacher(base_url="https://gateway.local/v1", **asked)).key == key


async def test_headers_and_query_of_a_teacher_go_with_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets in them are looked up on the node, encoded in the URL, and hidden like keys."""
    monkeypatch.setenv("T_KEY", "k1")
    monkeypatch.setenv("T_TOKEN", CANARY)
    wire = Wire(Reply(200, {}, b"{}"))
    ours: dict[str, Any] = {"headers": {"X-Team": "blue", "X-Token": "env:T_TOKEN"}}
    asked = client(wire, api_key="env:T_KEY", query={"api-version": "2026-10-01", "sig": "env:T_TOKEN"}, **ours)
    await send(asked)
    request = wire.sent[0]
    assert request.headers["x-team"] == "blue"
    assert request.headers["x-token"] == CANARY
    assert request.url.startswith("http://t/v1/chat/completions?api-version=2026-10-01&sig=canary")
    assert "canary" not in repr(request) + repr(asked.interpreter.redact(f"{CANARY} {request.url}"))


def test_a_rotated_key_is_picked_up(tmp_path: Path) -> None:
    """Once for all the requests that carried the old one; one that carried the new one and is refused is final."""
    file, clock = tmp_path / "key", ManualClock(now=100.0)
    file.write_text(CANARY)
    asked = client(clock=clock, api_key=f"file:{file}")
    assert not asked.reload_key()
    assert not asked.reload_key(sent_at=clock.now)
    clock.now += 10
    file.write_text("another-key-0123456789")
    assert asked.reload_key(sent_at=105.0)
    assert asked.reload_key(sent_at=106.0)
    assert not asked.reload_key(sent_at=111.0)
    assert CANARY[-8:] not in asked.interpreter.redact(f"late echo of {CANARY}")


async def test_one_request_waits_for_an_open_circuit() -> None:
    """A thousand slots do not poll; each gets its endpoint once it serves again."""
    asked = client(clock=(clock := ManualClock(now=100.0)))
    for _ in range(OPENS_AFTER):
        asked.done(await taken(asked), served=False)
    waiting = [asyncio.create_task(taken(asked)) for _ in range(1000)]
    await settle_down()
    assert not any(task.done() for task in waiting)
    clock.now += 10
    async with asyncio.timeout(60):
        probe = await waiting[0]
        await settle_down()
        assert not any(task.done() for task in waiting[1:])
        asked.done(probe, served=True)
        assert {(await task).url for task in waiting} == {"http://t/v1"}


async def test_a_cancelled_wait_for_an_endpoint_delays_no_other() -> None:
    """Cancelled while it waits, in front or behind."""
    asked = client(clock=(clock := ManualClock(now=100.0)))
    for _ in range(OPENS_AFTER):
        asked.done(await taken(asked), served=False)
    waiting = [asyncio.create_task(taken(asked)) for _ in range(4)]
    await settle_down()
    waiting[0].cancel()
    waiting[2].cancel()
    clock.now += 10
    async with asyncio.timeout(60):
        asked.done(await waiting[1], served=True)
        await waiting[3]


# --- what is learnt, and what it costs


def test_usage_teaches_the_estimate() -> None:
    """What an answer used is returned for its settlement, and remembered."""
    asked = client()
    before = asked.estimator.estimate(20)
    used = asked.learn(20, Completion("a", "stop", "stop", usage=Usage(200, None, 20)))
    assert used == Cost(200, 20)
    assert asked.estimator.estimate(20).input > before.input
    assert asked.estimator.estimate(20).output == 20


def test_an_answer_without_usage_teaches_nothing() -> None:
    """The estimate stays the same, and the price is unknown."""
    asked = client(price={"input": 1, "output": 1})
    silent = Completion("a", "stop", "stop", usage=Usage(None, None, 20))
    assert asked.learn(20, silent) is None
    assert asked.interpreter.cost_usd(silent) is None


@pytest.mark.parametrize(
    ("price", "usage", "usd"),
    [
        ({"input": 2, "output": 10}, Usage(1_000_000, None, 100_000), 3.0),
        ({"input": 2, "output": 10}, Usage(1_000_000, 500_000, 0), 2.0),
        ({"input": 2, "output": 10, "cached_input": 0.2}, Usage(1_000_000, 500_000, 0), 1.1),
        ({"input": 2, "output": 10, "cached_input": 0.2}, Usage(10, 1_000_000, 0), 0.2),
        (None, Usage(1, None, 1), None),
    ],
)
def test_usage_is_priced(price: Any, usage: Usage, usd: float | None) -> None:
    """Per million tokens, cached ones at their own price."""
    found = client(price=price).interpreter.cost_usd(Completion("a", "stop", "stop", usage=usage))
    assert found == (usd if usd is None else pytest.approx(usd))


# --- who is asked


def samples(assigned: Assigner, count: int) -> list[str]:
    """The teachers of this many samples."""
    return [assigned(n.to_bytes(16, "big"), n % 4).teacher.name for n in range(count)]


def assigner(weights: dict[str, float]) -> Assigner:
    """Teachers of these names and weights."""
    return Assigner([Interpreter(teacher(name=name, weight=weight), Ask()) for name, weight in weights.items()])


def test_samples_are_assigned_permanently_and_by_weight() -> None:
    """By weight, the same for every worker and every run; the order of the draw is frozen by these names."""
    names = {"a": 1.0, "b": 3.0, "c": 4.0}
    assigned = assigner(names)
    drawn = samples(assigned, 8000)
    assert drawn == samples(assigner(names), 8000)
    counted = Counter(drawn)
    assert {name: pytest.approx(counted[name], rel=0.1) for name in names} == {"a": 1000, "b": 3000, "c": 4000}
    assert "".join(drawn[:12]) == "bccbcbcbccca"


def test_a_lone_teacher_is_asked_everything() -> None:
    """Without a draw."""
    assert set(samples(assigner({"a": 0.1}), 50)) == {"a"}


@pytest.mark.parametrize("said", ["sk-0123456789/abcdef", r"sk-0123456789\/abcdef", r"\u0073k-0123456789\u002Fabcdef"])
def test_a_key_in_an_answer_is_removed_in_any_json_spelling(said: str) -> None:
    """Everything else stays as it came."""
    body = without_keys(rf'{{"a": "\u00e9 {said} \\ é"}}'.encode(), keys=("sk-0123456789/abcdef",))
    assert body == r'{"a": "\u00e9 [key] \\ é"}'.encode()
