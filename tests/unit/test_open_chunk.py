"""An open chunk: its state is a fold over its journals, so the next owner after a crash knows as much as the last."""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest
from builders import (
    FIRST,
    answer,
    body_of,
    index,
    left_by_others,
    open_chunk,
    questions,
    recipe_of,
    teachers_of,
    waiting,
    write_source,
)
from first_journals import FIRST_MAGIC, first_journal, first_of, in_first_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from s3_server import S3Server

from stillhouse.gen.dataset.chunk import Chunk
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.journal.file import JournalFile, leftovers
from stillhouse.gen.journal.frames import MAGIC, NOTES, Frame, Kind, frames
from stillhouse.gen.journal.journals import journals_at
from stillhouse.gen.journal.shipping import ShippedJournal
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.assigner import ONLINE
from stillhouse.gen.teachers.outcome import Ambiguous, Auth, Money, NoConnection, Outcome, Overload, Rate, ServerError
from stillhouse.gen.teachers.protocols.openai_errors import OPENAI_ERRORS
from stillhouse.gen.teachers.retry import MAX_DEATHS, Blame, GiveUp, Tries
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.answers import REMEMBERED_BYTES
from stillhouse.gen.worker.open_chunk import OpenChunk
from stillhouse.schemas.arrow import columns_of
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.prompt import Prompt, prompt_key
from stillhouse.schemas.recipe import Recipe

ERROR = '{"error": {"message": "%s", "code": "%s"}}'
REPLIES = {
    "answer": (200, body_of()),
    "no choices": (200, b'{"choices": []}'),
    "cut": (200, b'{"choices": [{"mess'),
    "policy": (400, (ERROR % ("no", "content_filter")).encode()),
    "bad request": (400, (ERROR % ("what?", "invalid")).encode()),
    "too long": (400, (ERROR % ("long", "context_length_exceeded")).encode()),
    "long policy": (400, (ERROR % ("no " * 5000, "content_filter")).encode()),
    "longest": (400, (ERROR % ("no " * 50_000, "content_filter")).encode()),
    "rate": (429, b""),
    "overload": (503, b"<html>"),
    "error": (500, b""),
    "money": (402, b""),
}
CUT = Reply(200, {"content-type": "text/event-stream"}, b'data: {"choices": [{"index": 0, "del', latency_s=0.5)
"""What had come of a stream."""
ENDS = [*REPLIES, "lost", "stream cut", "not sent"]
SAMPLES, PROMPTS = 2, 3


def recipe(route: str = "weighted") -> Recipe:
    """Two teachers with few attempts, one with fewer than the other."""
    teachers = [{"name": name, "api": "simulator", "max_attempts": most} for name, most in (("a", 3), ("b", 2))]
    return recipe_of(Path("/nowhere"), ask={"samples": SAMPLES}, teachers=teachers, route=route)


def chunk_of(count: int = PROMPTS) -> Chunk:
    """A chunk of this many prompts."""
    texts = [(("user", f"what is {n}?"),) for n in range(count)]
    return Chunk(
        FIRST,
        [Prompt(f"q{n}", prompt_key(text), text, ()) for n, text in enumerate(texts)],
        [],
        [],
        [],
        samples=SAMPLES,
        columns=columns_of(1, {}),
    )


def opened(path: Path, route: str = "weighted") -> OpenChunk:
    """The chunk with a new journal."""
    return OpenChunk(chunk_of(), JournalFile.create(path), samples=SAMPLES, teacher_of=teachers_of(recipe(route)))


def blame(outcome: Outcome, on: str | None) -> Blame | None:
    """What others might tell of the outcome, as far as they can."""
    if on == "account" and isinstance(outcome, (ServerError, Money, Auth)):
        return Blame("account")
    if on == "request" and isinstance(outcome, (Rate, Overload, Money, Auth)):
        return Blame("request", words="refused alone")
    if on == "unclear" and isinstance(outcome, (Rate, Money, Auth)):
        return Blame("unclear", wait_s=1.0)
    return None


def end(held: OpenChunk, ordinal: int, how: str, *, at: float, place: int | None = None, on: str | None = None) -> None:
    """The attempt ends so; `place`: the teacher that was asked, where it is not the one assigned; `on`: the blame."""
    if how == "lost":
        held.unanswered(ordinal, Kind.LOST, Ambiguous("lost"), at=at, place=place)
    elif how == "stream cut":
        lost = Ambiguous("cut")
        held.unanswered(ordinal, Kind.LOST, lost, at=at, place=place, endpoint="host", cut=CUT)
    elif how == "not sent":
        held.unanswered(ordinal, Kind.NOT_SENT, NoConnection("away"), at=at, place=place)
    else:
        status, body = REPLIES[how]
        reply = Reply(status, {"content-type": "application/json", "retry-after": "1"}, body)
        received = held.received(ordinal, reply, at=at, latency_s=0.5, endpoint="host", place=place)
        held.answered(received, blame=blame(received.outcome, on))


_State: TypeAlias = list[tuple[bool, Tries, GiveUp | None, Frame | None, int | None]]


def state(held: OpenChunk) -> _State:
    """Everything known about each sample: settled, tries, failure, last answer, and whose turn it is in a chain."""
    todo = set(waiting(held))
    assert held.left == len(todo)
    known = []
    for ordinal in range(len(held.state)):
        place = held.state.answers.places[ordinal]
        frame = held.journal.read(*place) if place else None
        reason = held.state.given_up.get(ordinal) or held.state.spent.get(ordinal)
        # What went unanswered says another thing when it is read back: that alone is not kept.
        is_read_back = frame is not None and frame.kind is Kind.ANSWERED
        reason = replace(reason, message="") if reason and not is_read_back else reason
        tries, turn = replace(held.state.tries(ordinal)), held.state.place_of(ordinal)
        known.append((ordinal not in todo, tries, reason, frame, turn))
    return known


def after_crash(held: OpenChunk, under_way: set[int], *, died: bool) -> _State:
    """What the next owner must know: the same, and that requests in flight may have been billed."""
    wanted: _State = []
    for ordinal, (settled, tries, reason, frame, turn) in enumerate(state(held)):
        if ordinal in under_way:
            tries = replace(tries, maybe_billed=tries.maybe_billed + 1, deaths=tries.deaths + died)
            if died and tries.deaths >= MAX_DEATHS:
                settled, reason, frame = True, GiveUp("poison", "", None), None
        wanted.append((settled, tries, reason, frame, turn))
    return wanted


PLACES = st.sampled_from([None, 0, 1])
STEPS = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, SAMPLES * PROMPTS - 1), PLACES),
    st.tuples(
        st.just("end"),
        st.integers(0, SAMPLES * PROMPTS - 1),
        st.sampled_from(ENDS),
        st.sampled_from([None, "account", "request", "unclear"]),
    ),
    st.tuples(st.just("reopen")),
    st.tuples(st.just("crash"), st.booleans(), st.booleans(), st.integers(0, 30)),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=60), st.sampled_from(["weighted", "fallback"]))
def test_a_recovered_chunk_has_the_state_its_owner_left(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]], route: str
) -> None:
    """Any events, a crash at any point, a second one in the middle of the recovery, old journals left or removed."""
    folder = tmp_path_factory.mktemp("journal") / str(FIRST)
    store = open_dataset(recipe_of(folder))
    names = (folder / f"{number:03d}-w.journal" for number in itertools.count())
    held, clock = opened(next(names), route), itertools.count(1000)
    under_way: dict[int, tuple[float, int | None]] = {}
    for step in steps:
        match step:
            case ("ask", int(ordinal), int() | None as place) if ordinal in set(waiting(held)) - under_way.keys():
                at = float(next(clock))
                under_way[ordinal] = at, place
                held.sent(ordinal, at=at, endpoint="host", place=place)
            case ("reopen",):
                for name in ("a", "b"):
                    held.reopen_unpaid(teacher=name, at=float(next(clock)))
            case ("end", int(ordinal), str(how), str() | None as on) if ordinal in under_way:
                at, place = under_way.pop(ordinal)
                end(held, ordinal, how, at=at, place=place, on=on)
            case ("crash", bool(died), bool(twice), int(copied)):
                wanted = after_crash(held, set(under_way), died=died)
                held.journal.close()
                if twice:
                    crash_in_recovery(store, next(names), copied, route)
                old = leftovers(folder)
                held, under_way = opened(next(names), route), {}
                held.recover(left_by_others(store, held), died=died)
                assert state(held) == wanted
                for path in old if not twice else ():
                    path.unlink()
    held.journal.remove()


def unnamed(done: bool, tries: Tries, *rest: object) -> tuple[object, ...]:
    """A sample's state without the names of the endpoints that refused it."""
    return (done, replace(tries, refused_by=("",) * len(tries.refused_by)), *rest)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=40), st.lists(st.booleans(), min_size=1, max_size=3))
def test_a_chunk_of_an_older_version_is_recovered_too(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]], olds: list[bool]
) -> None:
    """Journals of both formats, perhaps a frame in each, one owner after another: nothing that was known is lost."""
    folder = tmp_path_factory.mktemp("journal") / str(FIRST)
    store = open_dataset(recipe_of(folder))
    held, clock = opened(folder / "0.journal"), itertools.count(1000)
    under_way: dict[int, float] = {}
    for number, old in enumerate(olds, start=1):
        for step in steps:
            match step:
                case ("ask", int(ordinal), _) if ordinal in set(waiting(held)) - under_way.keys():
                    under_way[ordinal] = float(next(clock))
                    held.sent(ordinal, at=under_way[ordinal], endpoint="host")
                case ("end", int(ordinal), str(how), _) if ordinal in under_way:
                    end(held, ordinal, how, at=under_way.pop(ordinal))
        wanted, under_way = after_crash(held, set(under_way), died=False), {}
        held.journal.close()
        path = held.journal.path
        if old:
            path.write_bytes(in_first_format(path.read_bytes()))
            wanted = [(done, tries, why, frame and first_of(frame), turn) for done, tries, why, frame, turn in wanted]
        held = opened(folder / f"{number}.journal")
        held.recover(left_by_others(store, held), died=False)
        found = state(held)
        assert [unnamed(*each) for each in found] == [unnamed(*each) for each in wanted]
        for (_, tries, *_), (_, before, *_) in zip(found, wanted, strict=True):
            lost = ("",) if old else ()  # the first format names endpoints only in some frames
            assert all(name in (left, *lost) for name, left in zip(tries.refused_by, before.refused_by, strict=True))
        assert held.journal.path.read_bytes().startswith(MAGIC)
        path.unlink()
    held.journal.remove()


def crash_in_recovery(store: Store, path: Path, copied: int, route: str) -> None:
    """An owner that dies after it copied some frames."""
    held = opened(path, route)

    def some() -> Iterator[Frame]:
        yield from itertools.islice(left_by_others(store, held), copied)
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        held.recover(some(), died=False)
    held.journal.close()


def test_a_sample_in_flight_at_three_workers_deaths_is_poison(tmp_path: Path) -> None:
    """Only that: a sample that was not sent again by a worker that died is not blamed for its death."""
    held = opened(tmp_path / "0.journal")
    for death in range(MAX_DEATHS):
        held.sent(0, at=float(death))
        if death == 0:
            held.sent(1, at=float(death))
        held = reopened(held, tmp_path / f"{death + 1}.journal", died=True)
    assert held.state.given_up[0].kind == "poison"
    assert held.state.tries(0) == Tries(attempts=3, maybe_billed=3, deaths=3)
    assert held.state.tries(1) == Tries(attempts=1, maybe_billed=1, deaths=1)
    assert 1 in waiting(held)
    again = reopened(held, tmp_path / "9.journal", died=True)
    assert state(again) == state(held)


def reopened(held: OpenChunk, path: Path, *, died: bool) -> OpenChunk:
    """The next owner's chunk, after a crash of `held`'s."""
    held.journal.close()
    again = opened(path)
    with held.journal.path.open("rb") as file:
        again.recover(frames(file, origin="here"), died=died)
    return again


def test_killed_runs_do_not_make_poison(tmp_path: Path) -> None:
    """They say nothing of a single prompt."""
    held = opened(tmp_path / "0.journal")
    for kill in range(5):
        held.sent(0, at=float(kill))
        held = reopened(held, tmp_path / f"{kill + 1}.journal", died=False)
    assert held.state.tries(0) == Tries(attempts=5, maybe_billed=5)
    assert not held.state.given_up


def test_a_sample_answered_by_two_owners_is_settled_by_the_first(tmp_path: Path) -> None:
    """A worker that hung answered late: one answer counts, and it is the same one for every reader."""
    first, second = opened(tmp_path / str(FIRST) / "0.journal"), opened(tmp_path / str(FIRST) / "1.journal")
    answer(first, 0, body_of("first"), at=1.0)
    answer(second, 0, body_of("second"), at=2.0)
    first.journal.close()
    second.journal.close()
    held = opened(tmp_path / str(FIRST) / "2.journal")
    store = open_dataset(recipe_of(tmp_path))
    held.recover(left_by_others(store, held), died=False)
    place = held.state.answers.places[0]
    assert place is not None
    assert b"first" in held.journal.read(*place).body
    assert held.state.tries(0) == Tries(attempts=1)


def test_an_answer_whose_sent_frame_is_damaged_counts(tmp_path: Path) -> None:
    """The frame that is left says that it was sent."""
    held = opened(tmp_path / "0.journal")
    held.recover([Frame(Kind.ANSWERED, 0, 1.0, 0.5, 200, "host", body_of())], died=False)
    assert held.state.tries(0) == Tries(attempts=1)
    assert 0 not in waiting(held)


def test_frames_of_a_differently_shaped_chunk_are_skipped(tmp_path: Path) -> None:
    """An ordinal that the chunk does not have."""
    held = opened(tmp_path / "0.journal")
    held.recover([Frame(Kind.SENT, SAMPLES * PROMPTS, 1.0)], died=False)
    assert held.left == SAMPLES * PROMPTS
    assert held.had_owners


def test_a_frame_of_the_first_format_is_copied_to_the_current_one(tmp_path: Path) -> None:
    """With all that the first release knew of it."""
    old = tmp_path / str(FIRST) / "0.journal"
    old.parent.mkdir()
    answered = Frame(Kind.ANSWERED, 0, 1.0, 0.5, 200, "host", body_of())
    old.write_bytes(first_journal([Frame(Kind.SENT, 0, 1.0), answered, Frame(Kind.SENT, 1, 2.0)]))
    held = opened(tmp_path / str(FIRST) / "1.journal")
    held.recover(left_by_others(open_dataset(recipe_of(tmp_path)), held), died=False)
    data = held.journal.path.read_bytes()
    assert data.startswith(MAGIC)
    assert FIRST_MAGIC not in data
    with held.journal.path.open("rb") as file:
        assert list(frames(file, origin="here")) == [
            Frame(Kind.SENT, 0, 1.0), answered, Frame(Kind.SENT, 1, 2.0), Frame(Kind.CUT, 1, 2.0),
        ]  # fmt: skip


def test_an_interrupted_attempt_names_its_endpoint(tmp_path: Path) -> None:
    """As its SENT frame did."""
    held = opened(tmp_path / "0.journal")
    held.sent(0, at=1.0, endpoint="host:8000", place=1)
    again = reopened(held, tmp_path / "1.journal", died=True)
    with again.journal.path.open("rb") as file:
        sent, died = frames(file, origin="here")
    assert sent == Frame(Kind.SENT, 0, 1.0, endpoint="host:8000", teacher=1)
    assert died == sent._replace(kind=Kind.DIED)


NOTE = Frame(Kind.VERDICT, 0, 5.0, body=b'{"accepted": true, "a later key": [1]}', stage=1)
JUDGED = Frame(Kind.ANSWERED, 0, 4.0, 0.5, 200, "judge", body_of("5"), teacher=1, stage=1)
LATER = [
    NOTE,
    Frame(Kind.SENT, 0, 4.0, endpoint="judge", teacher=1, stage=1),
    JUDGED,
    Frame(Kind.DECIDED, 1, 6.0, body=b'{"not_needed": true}'),
    Frame(Kind.DECIDED, 1, 6.5, body=b'["another", "form"]'),
    Frame(Kind.INTENT, 2**32 - 1, 7.0, body=b'{"intent": "0123"}', teacher=99),
    Frame(Kind.SUBMITTED, 2**32 - 1, 8.0, body=b'{"batch": "b"}', teacher=1),
    NOTE._replace(at=5.5),
]
"""What this version writes nowhere and must not lose."""


def test_frames_of_later_features_are_kept_and_ignored(tmp_path: Path) -> None:
    """Once each, through recovery after recovery, also of a settled sample; a judge's reply is not an answer."""
    held = opened(tmp_path / str(FIRST) / "0.journal")
    held.sent(0, at=1.0)
    end(held, 0, "answer", at=1.0)
    for frame in LATER:
        held.journal.append(frame)
    wanted = state(held)
    store = open_dataset(recipe_of(tmp_path))
    for number in range(1, 4):  # no old journal goes: each owner finds all copies
        held.journal.close()
        held = opened(tmp_path / str(FIRST) / f"{number}.journal")
        held.recover(left_by_others(store, held), died=True)
        assert state(held) == wanted
        with held.journal.path.open("rb") as file:
            found = [frame for frame in frames(file, origin="here") if frame.kind in NOTES or frame.stage]
        assert found == LATER


def test_a_reply_is_read_with_the_teacher_named_in_its_frame(tmp_path: Path) -> None:
    """Another than the one assigned may have answered; one that the recipe does not have is passed over."""
    held = opened(tmp_path / "0.journal")
    ordinal = next(n for n in range(SAMPLES * PROMPTS) if held.samples.teacher(n).teacher.name == "a")
    failed = Frame(Kind.ANSWERED, ordinal, 1.0, 0.5, 500, "host", b"", teacher=1)
    held.recover([failed, failed._replace(at=2.0, teacher=7)], died=False)
    assert held.state.tries(ordinal) == Tries(attempts=1, failures=1)
    assert ordinal in waiting(held)
    again = opened(tmp_path / "1.journal")
    again.recover([failed, failed._replace(at=2.0)], died=False)
    assert again.state.given_up[ordinal].kind == "overload", "b has two attempts, a would have three"


HEADERS = st.dictionaries(
    st.sampled_from([*OPENAI_ERRORS.kept_headers]),
    st.sampled_from(["0", "7", "soon", "Wed, 21 Oct 2026 07:28:30 GMT", "é"]),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([*REPLIES]), HEADERS)
def test_a_reply_means_the_same_live_and_in_a_journal(
    tmp_path_factory: pytest.TempPathFactory, how: str, headers: dict[str, str]
) -> None:
    """The wait that it orders included, which no state holds."""
    held = opened(tmp_path_factory.mktemp("journal") / "0.journal")
    held.sent(0, at=1.0)
    status, body = REPLIES[how]
    live = held.received(0, Reply(status, headers, body), at=1.0, latency_s=0.5, endpoint="h")
    with held.journal.path.open("rb") as file:
        _, frame = frames(file, origin="here")
    kept = Reply(frame.status, dict(frame.headers), frame.body, frame.latency_s)
    assert frame == live.frame
    assert held.samples.teacher(0).read(kept) == live.outcome
    held.journal.remove()


def test_every_reply_reads_the_same_from_the_journal(tmp_path: Path) -> None:
    """Also one whose body is cut for the journal: a policy refusal must not become a bad request on the way."""
    for number, how in enumerate(REPLIES):
        held = opened(tmp_path / f"{number}-0.journal")
        held.sent(0, at=1.0)
        end(held, 0, how, at=1.0)
        wanted = state(held)
        again = reopened(held, tmp_path / f"{number}-1.journal", died=False)
        assert state(again) == wanted, how
        if (place := again.state.answers.places[0]) is not None:
            frame = again.journal.read(*place)
            outcome = again.samples.teacher(0).read(Reply(frame.status, {}, frame.body))
            assert isinstance(outcome, Completion) == (how == "answer")


def test_replies_that_are_not_cached_are_read_again(tmp_path: Path) -> None:
    """Replies beyond the memory limit are read from the journal at the seal, with the same result."""
    held = opened(tmp_path / "a.journal")
    long = body_of("x" * (REMEMBERED_BYTES - 2000))
    for ordinal, body in enumerate([long, long, body_of("short")]):
        held.sent(ordinal, at=float(ordinal))
        held.answered(held.received(ordinal, Reply(200, {}, body), at=float(ordinal), latency_s=0.5, endpoint="host"))
    texts = []
    answers = held.state.answers
    for ordinal in range(3):
        place = answers.places[ordinal]
        assert place is not None
        frame = held.journal.read(*place)
        outcome = answers.outcome(ordinal, frame)
        assert isinstance(outcome, Completion)
        assert answers.outcome(ordinal, frame) == outcome
        assert held.samples.teacher(ordinal).read(Reply(200, {}, frame.body)) == outcome
        texts.append(len(outcome.text or ""))
    assert texts == [REMEMBERED_BYTES - 2000, REMEMBERED_BYTES - 2000, 5]
    assert [answers.outcome(n, Frame(Kind.ANSWERED, n, 0.0, 0.0, 402, "", b"")) == Money("HTTP 402 without a body", 402)
            for n in range(3)] == [False, True, False]  # fmt: skip


def test_teachers_are_always_drawn_the_same(tmp_path: Path) -> None:
    """By prompt and sample, in whatever worker opens the chunk; both are asked."""
    one, other = opened(tmp_path / "0.journal"), opened(tmp_path / "1.journal")
    names = [one.samples.teacher(ordinal).teacher.name for ordinal in range(SAMPLES * PROMPTS)]
    assert names == [other.samples.teacher(ordinal).teacher.name for ordinal in range(SAMPLES * PROMPTS)]
    assert set(names) == {"a", "b"}


def test_a_journal_both_here_and_in_the_store_counts_once(tmp_path: Path, s3: S3Server) -> None:
    """Shipped segments, the rest a sweep shipped, a copy by an owner that died too: each attempt is counted once."""
    write_source(tmp_path, questions(3))
    root = tmp_path / "node"
    changes = {"path": "s3://lake/out", "endpoint_url": s3.endpoint_url}
    made = recipe_of(tmp_path, dataset=changes, run={"journal_dir": str(root)})
    index(made)
    store = open_dataset(made)
    held = open_chunk(made)
    folder = held.journal.path.parent
    shipper = ShippedJournal(store, FIRST, held.journal)
    answer(held, 0, b"", status=500, at=1.0)
    shipper.ship()
    answer(held, 0, b"", status=500, at=2.0)
    held.sent(1, at=3.0)
    shipper.ship()
    held.sent(2, at=4.0)
    held.journal.close()
    wanted = [Tries(attempts=2, failures=2), Tries(1, maybe_billed=1), Tries(1, maybe_billed=1)]

    here = open_chunk(made, worker="w1")  # on the same node, before anyone swept
    here.recover(left_by_others(store, here), died=False)
    assert [here.state.tries(ordinal) for ordinal in range(3)] == wanted
    ShippedJournal(store, FIRST, here.journal).ship()
    here.journal.close()
    journals_at(store, folder.parent).sweep()
    assert not folder.exists()

    there = open_chunk(made, worker="w2")
    there.recover(left_by_others(store, there), died=False)
    assert [there.state.tries(ordinal) for ordinal in range(3)] == wanted
    there.journal.remove()


@pytest.mark.parametrize("mode", ["batch-then-online", "batch", "online"])
def test_answers_asked_online_after_a_batch_count_in_any_mode(tmp_path: Path, mode: str) -> None:
    """Its frames name the teacher's position and more; whoever recovers them may run the recipe in another mode."""
    write_source(tmp_path, questions(2))
    recipe = recipe_of(tmp_path, teachers=[{"name": "sim", "api": "simulator", "mode": mode}])
    index(recipe)
    held = open_chunk(recipe)
    held.sent(0, at=1000.0, place=ONLINE)
    reply = Reply(200, {}, body_of())
    held.answered(held.received(0, reply, at=1000.0, latency_s=0.5, endpoint="127.0.0.1:9", place=ONLINE))
    held.journal.close()
    again = open_chunk(recipe, worker="w1")
    again.recover(left_by_others(open_dataset(recipe), again), died=False)
    assert waiting(again) == [1]
    assert again.state.tries(0).attempts == 1
    again.journal.close()
