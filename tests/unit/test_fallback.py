"""`route: fallback`: the next teacher answers where one can't; what was paid for and decided survives its owner."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import orjson
import pyarrow.dataset as ds
import pytest
from builders import FIRST, body_of, chunk_of, left_by_others, open_chunk, questions, recipe_of, sealed, write_source
from harness import run_in_process

from stillhouse.gen.clock import ManualClock
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import DatasetError, Paused, StillhouseError
from stillhouse.gen.journal.frames import Frame, Kind
from stillhouse.gen.journal.journals import journal_root, journals_at
from stillhouse.gen.simulator import serve
from stillhouse.gen.simulator.server import Server
from stillhouse.gen.teachers import standing as standing_module
from stillhouse.gen.teachers.account import Account
from stillhouse.gen.teachers.client import TeacherClient
from stillhouse.gen.teachers.endpoints import OPENS_AFTER
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.outcome import Money, NoConnection, Outcome, Overload, Rate
from stillhouse.gen.teachers.retry import MoveOn
from stillhouse.gen.teachers.standing import DOWN_AFTER_S, PROBE_EVERY_S, Standing
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.views.card import card_of
from stillhouse.gen.views.preview import preview, render
from stillhouse.gen.views.report import report
from stillhouse.gen.views.summary import Summary
from stillhouse.gen.views.verify import verify
from stillhouse.gen.worker import chain as chain_module
from stillhouse.gen.worker.chain import Chain
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.gen.worker.open_chunk import OpenChunk
from stillhouse.gen.worker.tasks import Tasks
from stillhouse.gen.worker.worker import Worker
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.failure import RETRYABLE
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.record import RecordIds
from stillhouse.schemas.simulator import SimulatorSettings

ANSWER = Completion("yes", "stop", "stop")
AWAY, BUSY = NoConnection("refused"), Rate("slow down", 429)
LOADING = Overload("loading the model", 503, loading=True)
BROKE = {"kind": "status", "status": 402}
TOO_LONG = '{"error": {"message": "long", "code": "context_length_exceeded"}}'


def chain_of(tmp_path: Path, *names: str, prompts: int = 20, **changes: Any) -> Recipe:
    """This many prompts, and a chain of teachers with these names."""
    write_source(tmp_path, questions(prompts))
    teachers = [
        {
            "name": name,
            "api": "simulator",
            "max_attempts": 2,
            "limits": {"in_flight": 4},
            "price": {"input": 1, "output": n},
        }
        for n, name in enumerate(names, 1)
    ]
    return recipe_of(tmp_path, **({"route": "fallback", "teachers": teachers} | changes))


def rows(recipe: Recipe, folder: str = "data") -> list[dict[str, Any]]:
    """All rows of data/, rejected/ or failed/."""
    path = Path(recipe.dataset.path) / folder
    return ds.dataset(path, format="parquet").to_table().to_pylist() if path.exists() else []


def by_teacher(recipe: Recipe) -> Counter[str]:
    """How many records each teacher has."""
    return Counter(row["teacher"] for row in rows(recipe))


def sound(recipe: Recipe, summary: Summary) -> Summary:
    """The summary of a sound dataset."""
    assert [finding.message for finding in verify(open_dataset(recipe)).findings] == []
    return summary


@asynccontextmanager
async def served(recipe: Recipe, **faults: list[dict[str, Any]]) -> AsyncIterator[Recipe]:
    """The recipe with a simulator for each of its teachers, with these faults by its name."""
    async with AsyncExitStack() as stack:
        teachers = []
        for place, teacher in enumerate(recipe.teachers):
            given = {"seed": place, "faults": faults.get(teacher.name, [])}
            server = await stack.enter_async_context(await serve(SimulatorSettings.model_validate(given)))
            teachers.append(teacher.model_copy(update={"endpoints": (server.url,)}))
        yield recipe.model_copy(update={"teachers": tuple(teachers)})


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a minute takes a fraction of a second."""
    for module in (standing_module, chain_module):
        monkeypatch.setattr(module, "DOWN_AFTER_S", 0.4, raising=False)
        monkeypatch.setattr(module, "PROBE_EVERY_S", 0.2, raising=False)
    monkeypatch.setattr(chain_module, "LOOK_S", 0.05)


# --- when a teacher may be left


def stood(*events: tuple[float, Outcome], give_up_after_s: float = 600.0) -> Standing:
    """A teacher whose attempts ended so, each at its time; one without a connection has all endpoints closed."""
    standing = Standing(give_up_after_s=give_up_after_s)
    for at, outcome in events:
        standing.waited_for(now=at)
        standing.ended(outcome, sent_at=at, all_closed=isinstance(outcome, (NoConnection, Overload)), now=at)
    return standing


@pytest.mark.parametrize(
    ("events", "at", "left", "down"),
    [
        ([(0, AWAY)], 599, False, False),
        ([(0, AWAY)], 600, True, True),
        ([(0, ANSWER), (10, AWAY)], 69, True, False),
        ([(0, ANSWER), (10, AWAY)], 70, True, True),
        ([(0, ANSWER), (10, AWAY), (40, BUSY), (50, AWAY)], 100, True, False),
        ([(0, ANSWER), (10, AWAY), (60, LOADING)], 659, False, False),
        ([(0, ANSWER), (10, AWAY), (60, LOADING)], 660, True, True),
        ([(0, ANSWER), (10, AWAY), (60, LOADING), (659, LOADING)], 1258, False, False),
        ([(0, ANSWER), (10, AWAY), (60, replace(LOADING, retry_after_s=3600.0))], 4259, False, False),
        ([(0, LOADING)], 599, False, False),
        ([(0, LOADING)], 600, True, True),
        ([(0, ANSWER), (10, AWAY), (60, LOADING), (70, AWAY)], 119, True, False),
        ([(0, AWAY), (500, LOADING), (501, AWAY)], 1099, False, False),
        ([(0, ANSWER), (1, BUSY)], 10_000, True, False),
        ([(0, BUSY)], 10_000, True, False),
    ],
)
def test_a_teacher_is_left_when_it_goes_down_or_is_given_up(
    events: list[tuple[float, Outcome]], at: float, left: bool, down: bool
) -> None:
    """An outage of a minute; limits never; while it loads, neither runs."""
    standing = stood(*events)
    assert (standing.may_be_left(now=at), standing.is_down(now=at)) == (left, down)


def test_a_short_wait_is_not_shorter_than_what_is_between_two_requests_to_a_loading_teacher() -> None:
    """Its samples ask it every few seconds at most: until then it loads."""
    standing = stood((0, ANSWER), (10, LOADING), give_up_after_s=1.0)
    assert [standing.may_be_left(now=at) for at in (69, 70)] == [False, True]


def test_a_teacher_without_money_is_back_with_its_next_answer() -> None:
    """Not with another refusal, or an answer to what was in flight; and probes are a while apart."""
    standing = stood((0, ANSWER), (1, Money("no credit", 402)))
    standing.ran_dry("no credit", now=1)
    assert standing.is_down(now=1)
    due = [at for at in range(1, 100) if standing.takes_probe(now=at)]
    assert due == [1 + PROBE_EVERY_S, 1 + 2 * PROBE_EVERY_S, 1 + 3 * PROBE_EVERY_S]
    standing.ended(BUSY, sent_at=49, all_closed=False, now=50)
    standing.ended(ANSWER, sent_at=0.5, all_closed=False, now=50)
    assert standing.is_down(now=50)
    standing.ended(ANSWER, sent_at=59, all_closed=False, now=60)
    assert not standing.is_down(now=60)
    assert DOWN_AFTER_S == 60


# --- where a sample waits


class _Wire:
    """A transport that is never used."""

    def prepare(self, urls: object) -> None:
        """Nothing to do."""

    async def send(self, request: object, *, timeout_s: float) -> Reply:
        """Nothing is sent here."""
        raise AssertionError

    async def close(self) -> None:
        """Nothing is open."""


def sent_to(tmp_path: Path, recipe: Recipe, *places: int) -> OpenChunk:
    """A chunk whose only sample these teachers were asked in turn, each with a useless reply."""
    _, opened = chunk_of(
        tmp_path,
        questions(1),
        route="fallback",
        teachers=[t.model_dump(mode="json", exclude_none=True) for t in recipe.teachers],
    )
    for n, place in enumerate(places):
        ask(opened, place, b"[]", at=1000.0 + n)
    return opened


def leased(tmp_path: Path, recipe: Recipe, opened: OpenChunk) -> LeasedChunk:
    """The chunk, in a worker's hands."""
    journal = journals_at(open_dataset(recipe), tmp_path / "j").live(FIRST, opened.journal)
    return LeasedChunk(opened, journal, shipped_at=0.0)


def chain_at(
    recipe: Recipe, clock: ManualClock, *, answered_before: Callable[[str], bool] = lambda _: False
) -> tuple[Chain, list[TeacherClient]]:
    """The recipe's chain, which waits 600 s for a teacher's first answer, and its clients."""
    clients = [
        TeacherClient(Interpreter(t, recipe.ask), transport=_Wire(), account=Account(clock), clock=clock)
        for t in (each.model_copy(update={"endpoints": ("http://127.0.0.1:9/v1",)}) for each in recipe.teachers)
    ]
    chain = Chain(
        Tasks("w"),
        clients,
        given_up_on=lambda _: None,
        give_up_after_s=600.0,
        answered_before=answered_before,
        clock=clock,
    )
    return chain, clients


async def test_no_sample_waits_for_a_teacher_that_was_left(tmp_path: Path) -> None:
    """While the first one answers others, what it gave up on waits at the second one's circuit, or would spin there."""
    recipe = chain_of(tmp_path, "a", "b", prompts=1)
    held = leased(tmp_path, recipe, sent_to(tmp_path, recipe, 0, 0))
    clock = ManualClock(now=100.0)
    chain, (first, second) = chain_at(recipe, clock)
    chain.ended(held, 0, ANSWER, place=0, sent_at=100.0)
    chain.ended(held, 0, ANSWER, place=1, sent_at=100.0)
    for _ in range(OPENS_AFTER):
        endpoint = second.endpoint(again=False)
        assert endpoint is not None
        second.done(endpoint, served=False)
        chain.ended(held, 0, AWAY, place=1, sent_at=clock.now)
    clock.now += DOWN_AFTER_S + 1
    chain.look()
    assert not chain.leaves(held, 0, place=1)
    assert (first.is_left, second.is_left) == (False, False)


class _Taken:
    """A lane that only records the samples handed to it."""

    waiting = 0

    def __init__(self) -> None:
        self.ordinals: list[int] = []

    def take(self, held: LeasedChunk, ordinals: Iterable[int]) -> None:
        """Record these samples."""
        self.ordinals += ordinals


def waiting_for_second(
    tmp_path: Path, clock: ManualClock, *, answered_before: Callable[[str], bool] = lambda _: False
) -> tuple[Chain, list[_Taken]]:
    """A chain of three, and its lanes, to which a sample was handed that an earlier owner asked of the first two; they
    gave up on it, and this owner has asked nobody anything."""
    recipe = chain_of(tmp_path, "a", "b", "c", prompts=1)
    opened = sent_to(tmp_path, recipe, 0, 0, 1, 1)
    again = recovered_chunk(recipe, opened)
    chain, _ = chain_at(recipe, clock, answered_before=answered_before)
    lanes = [_Taken(), _Taken(), _Taken()]
    chain.use(cast("Any", lanes), counters=Counters())
    (ordinal,) = again.take()
    chain.take(leased(tmp_path, recipe, again), ordinal)
    return chain, lanes


def test_a_teacher_that_only_an_earlier_owner_asked_is_not_waited_for_forever(tmp_path: Path) -> None:
    """Its time runs although nothing is sent to it: after `give_up_after_s` the next one is asked."""
    clock = ManualClock(now=100.0)
    chain, lanes = waiting_for_second(tmp_path, clock)
    clock.now += 599.0
    chain.look()
    assert [lane.ordinals for lane in lanes] == [[], [], []]
    clock.now += 1.0
    chain.look()
    assert [lane.ordinals for lane in lanes] == [[], [], [0]]


def test_a_teacher_that_was_loading_when_it_was_last_asked_is_not_waited_for_forever(tmp_path: Path) -> None:
    """The sample that heard so is another owner's by now, and the one that waits here may not be sent to it again."""
    clock = ManualClock(now=100.0)
    chain, lanes = waiting_for_second(tmp_path, clock)
    lost = leased(tmp_path, chain_of(tmp_path, "a", "b", "c", prompts=1), chunk_of(tmp_path / "lost", questions(1))[1])
    clock.now += 500.0
    chain.ended(lost, 0, LOADING, place=1, sent_at=clock.now)
    clock.now += 599.0
    chain.look()
    assert [lane.ordinals for lane in lanes] == [[], [], []]
    clock.now += 1.0
    chain.look()
    assert [lane.ordinals for lane in lanes] == [[], [], [0]]


async def test_a_teacher_that_only_an_earlier_owner_asked_is_left_at_once_if_the_dataset_has_an_answer_of_it(
    tmp_path: Path,
) -> None:
    """It is looked for although the teacher said nothing to this owner."""
    chain, lanes = waiting_for_second(tmp_path, ManualClock(now=100.0), answered_before=lambda name: name == "b")
    watching = asyncio.create_task(chain.watch())
    async with asyncio.timeout(30):
        while not lanes[2].ordinals:  # noqa: ASYNC110 - the dataset is searched in a thread
            await asyncio.sleep(0.01)
    watching.cancel()
    assert [lane.ordinals for lane in lanes] == [[], [], [0]]


# --- what a chunk knows


def recovered_chunk(recipe: Recipe, held: OpenChunk) -> OpenChunk:
    """The chunk as its next owner opens it."""
    store = open_dataset(recipe)
    held.journal.close()
    again = open_chunk(recipe, worker="w1")
    again.recover(left_by_others(store, again), died=False)
    return again


def ask(held: OpenChunk, place: int, body: bytes, *, status: int = 200, at: float = 1000.0) -> object:
    """Have sample 0 asked of the teacher with this place; what follows."""
    held.sent(0, at=at, endpoint="host", place=place)
    return held.answered(held.received(0, Reply(status, {}, body), at=at, latency_s=0.5, endpoint="host", place=place))


def test_tries_count_per_teacher_and_costs_add_up(tmp_path: Path) -> None:
    """Two failures at each of two teachers; the third one's answer has its own record id, and counts all requests."""
    recipe = chain_of(tmp_path, "a", "b", "c", prompts=1)
    _, held = chunk_of(
        tmp_path,
        questions(1),
        route="fallback",
        teachers=[t.model_dump(mode="json", exclude_none=True) for t in recipe.teachers],
    )
    decisions = [ask(held, place, b"[]", at=1000.0 + n) for n, place in enumerate((0, 0, 1, 1))]
    assert [isinstance(each, MoveOn) for each in decisions] == [False, True, False, True]
    again = recovered_chunk(recipe, held)
    assert (again.state.place_of(0), list(again.state.spent), again.state.is_settled(0)) == (1, [0], False)
    ask(again, 2, body_of(), at=1010.0)
    meta, files = sealed(recipe, again)
    (row,) = files["data"]
    model, parameters = recipe.teachers[2].model_name, recipe.ask.parameters()
    key = bytes.fromhex(row["prompt_key"])
    assert (row["teacher"], row["attempts"]) == ("c", 5)
    assert row["record_id"] == RecordIds(teacher="c", model=model, parameters=parameters).of(key, 0)
    assert meta.counts.maybe_billed == 4


@pytest.mark.parametrize("lost", ["nothing", "decision"])
def test_a_recovered_chunk_asks_the_teacher_already_chosen(tmp_path: Path, lost: str) -> None:
    """The decision is a separate frame before the request; if it is damaged, the request itself shows it."""
    recipe = chain_of(tmp_path, "a", "b", prompts=1)
    _, held = chunk_of(
        tmp_path,
        questions(1),
        route="fallback",
        teachers=[t.model_dump(mode="json", exclude_none=True) for t in recipe.teachers],
    )
    held.sent(0, at=1.0, endpoint="host", place=1)
    held.journal.close()
    store = open_dataset(recipe)
    found = list(journals_at(store, journal_root(store, recipe.run)).recovered(FIRST))
    assert [(frame.kind, frame.teacher) for frame in found] == [(Kind.DECIDED, 1), (Kind.SENT, 1)]
    assert orjson.loads(found[0].body) == {"move_on": "the teacher before it is down"}
    again = open_chunk(recipe, worker="w1")
    kept: list[Frame] = found if lost == "nothing" else found[1:]
    again.recover(kept, died=False)
    assert (again.state.place_of(0), again.state.tries(0).attempts, again.state.tries(0).maybe_billed) == (1, 1, 1)


def test_an_answer_of_a_teacher_that_was_left_still_counts(tmp_path: Path) -> None:
    """Two owners: a paid answer is kept, and a failure there does not count against the next teacher."""
    recipe = chain_of(tmp_path, "a", "b", prompts=1)
    _, held = chunk_of(
        tmp_path,
        questions(1),
        route="fallback",
        teachers=[t.model_dump(mode="json", exclude_none=True) for t in recipe.teachers],
    )
    held.sent(0, at=1.0, endpoint="host", place=1)
    ask(held, 0, b"[]", at=2.0)
    assert (held.state.tries(0).failures, held.state.tries(0).maybe_billed) == (0, 1)
    ask(held, 0, body_of(), at=3.0)
    _, files = sealed(recipe, held)
    assert [row["teacher"] for row in files["data"]] == ["a"]


# --- whole runs


async def test_the_next_teacher_answers_what_one_refuses_or_fails(tmp_path: Path) -> None:
    """Real failures, prompts that are too long and the teacher's own refusals move on; limits are waited for."""
    faults = [
        {"kind": "status", "status": 200, "body": '{"choices": []}', "share": 0.2, "start_request": 2},
        {"kind": "status", "status": 400, "body": TOO_LONG, "share": 0.2, "start_request": 2},
        {"kind": "status", "status": 400, "share": 0.2, "start_request": 2},
        {"kind": "status", "status": 429, "headers": {"retry-after-ms": "10"}, "share": 0.2, "start_request": 2},
    ]
    recipe = chain_of(tmp_path, "a", "b", prompts=40)
    async with served(recipe, a=faults) as ready:
        summary = sound(recipe, await run_in_process(ready))
    assert (summary.state, summary.records, summary.failed) == ("done", 40, 0)
    assert 5 < by_teacher(recipe)["b"] < 40


async def test_limits_alone_never_make_a_sample_move_on(tmp_path: Path) -> None:
    """Many requests are refused because of a limit; refusals by policy stay refusals."""
    policy = '{"error": {"message": "no", "code": "content_filter"}}'
    faults = [
        {"kind": "status", "status": 429, "headers": {"retry-after-ms": "1"}, "share": 0.5, "stop_request": 10},
        {"kind": "status", "status": 400, "body": policy, "share": 0.2},
    ]
    recipe = chain_of(tmp_path, "a", "b", prompts=20)
    async with served(recipe, a=faults) as ready:
        summary = sound(recipe, await run_in_process(ready))
    assert summary.state == "done"
    assert summary.rejected_by_reason["refused"] == 20 - summary.records
    assert by_teacher(recipe) == {"a": summary.records}


async def test_a_teacher_that_never_answered_is_waited_for_first(tmp_path: Path, hasty: None) -> None:
    """Before `give_up_after_s` nothing moves on: with a wrong address, fifty samples stop the run."""
    refusing = [{"kind": "status", "status": 404}]
    few = chain_of(tmp_path, "a", "b", prompts=12, run={"give_up_after_s": 1.0})
    async with served(few, a=refusing) as ready:
        summary = sound(few, await run_in_process(ready))
    assert (summary.records, by_teacher(few)) == (12, {"b": 12})
    many = chain_of(tmp_path / "many", "a", "b", prompts=80, dataset={"prompts_per_shard": 80})
    async with served(many, a=refusing) as ready:
        with pytest.raises(StillhouseError, match="none of the first 50 requests yielded a record") as stopped:
            await run_in_process(ready)
    assert not isinstance(stopped.value, Paused)
    async with served(many) as ready:  # with the address corrected it is asked, for nothing was paid
        summary = sound(many, await run_in_process(ready))
    assert by_teacher(many) == {"a": 80}


async def test_a_loading_teacher_is_never_left(tmp_path: Path, hasty: None) -> None:
    """It may take longer than an outage, and longer than a teacher that never answered is waited for."""
    body = '{"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}'
    loading = {"kind": "status", "status": 503, "body": body, "stop_s": 2.0}
    recipe = chain_of(tmp_path, "a", "b", prompts=10, run={"give_up_after_s": 0.5})
    async with served(recipe, a=[loading]) as ready:
        sound(recipe, await run_in_process(ready))
    assert by_teacher(recipe) == {"a": 10}


async def test_a_chain_whose_teachers_are_all_down_pauses(tmp_path: Path, hasty: None) -> None:
    """With each teacher's message; the same command resumes when one of them is back."""
    recipe = chain_of(tmp_path, "a", "b", run={"give_up_after_s": 1.0})
    away = tuple(t.model_copy(update={"endpoints": ("http://127.0.0.1:9/v1",)}) for t in recipe.teachers)
    with pytest.raises(Paused, match=r"no teacher of the chain can be asked \(a said last: .*; b said last: "):
        await run_in_process(recipe.model_copy(update={"teachers": away}))
    async with served(recipe, a=[BROKE], b=[BROKE]) as ready:
        with pytest.raises(
            Paused, match=r"no teacher of the chain can be asked .*a answered HTTP 402.*b answered HTTP 402"
        ):
            await run_in_process(ready)
    async with served(recipe, a=[BROKE]) as ready:
        sound(recipe, await run_in_process(ready))
    assert by_teacher(recipe) == {"b": 20}


class _First:
    """A teacher's server that a test stops, starts and leaves without money."""

    def __init__(self) -> None:
        self.server: Server | None = None
        self._port = 0
        self._serial = 0

    async def start(self, *faults: dict[str, Any]) -> str:
        """Serve at the same address as before; its URL."""
        await self.stop()
        self._serial += 10_000
        given = {"latency_s": 0.02, "faults": faults, "first_serial": self._serial}
        self.server = await serve(SimulatorSettings.model_validate(given), port=self._port)
        self._port = int(self.server.url.rpartition(":")[2].partition("/")[0])
        return self.server.url

    async def stop(self) -> None:
        """Let all connections fall."""
        if self.server is not None:
            await self.server.close()
            self.server = None


async def test_a_first_teacher_dies_comes_back_and_runs_out_of_money(tmp_path: Path, hasty: None) -> None:
    """Each time the second one takes over, and new samples go back; every sample is answered, and once."""
    recipe = chain_of(tmp_path, "a", "b", prompts=1200, dataset={"prompts_per_shard": 200})
    first = _First()
    workers: list[Worker] = []
    async with await serve(SimulatorSettings(latency_s=0.02)) as second:
        urls = (await first.start(), second.url)
        ready = recipe.model_copy(
            update={
                "teachers": tuple(
                    t.model_copy(update={"endpoints": (u,)}) for t, u in zip(recipe.teachers, urls, strict=True)
                )
            }
        )
        run = asyncio.ensure_future(run_in_process(ready, crew=lambda crew: workers.extend(crew)))

        async def until(holds: Callable[[Worker], bool]) -> None:
            while not (run.done() or (workers and holds(workers[0]))):  # noqa: ASYNC110 - the counters are the worker's own
                await asyncio.sleep(0.005)

        def answers(name: str) -> int:
            return int(workers[0].counters.of(name).answers)

        await until(lambda worker: answers("a") >= 40)
        await first.stop()
        await until(lambda worker: answers("b") >= 40)
        await first.start()
        back = answers("a")
        await until(lambda worker: answers("a") >= back + 40)
        await first.start(BROKE)
        taken = answers("b")
        await until(lambda worker: answers("b") >= taken + 40)
        assert not run.done()
        await first.start()  # somebody paid
        summary = sound(recipe, await run)
    await first.stop()
    assert (summary.state, summary.records, summary.failed) == ("done", 1200, 0)
    assert summary.requests < 1200 + 400
    said = "\n".join(workers[0].counters.notes)
    assert "teacher a has been out of reach for" in said
    assert "teacher a answers again" in said
    assert "teacher a answered HTTP 402" in said


async def test_teachers_may_be_added_at_the_end_of_a_chain(tmp_path: Path) -> None:
    """The dataset continues with them; one that is gone or elsewhere in the chain is refused by its field."""
    recipe = chain_of(tmp_path, "a")
    async with served(recipe) as ready:
        await run_in_process(ready, limit=10)
    longer = chain_of(tmp_path, "a", "b")
    async with served(longer, a=[{"kind": "status", "status": 400, "start_request": 1}]) as ready:
        summary = sound(longer, await run_in_process(ready))
    assert (summary.records, by_teacher(longer)["b"] > 0) == (20, True)
    for names in (("a",), ("b", "a"), ("a", "c", "b")):
        with pytest.raises(DatasetError, match=r"differ in teachers.*added at the end of the chain"):
            preview(chain_of(tmp_path, *names))


def test_a_plan_says_what_the_whole_run_would_cost_at_each_teacher(tmp_path: Path) -> None:
    """And `usd` is at most that of the dearest."""
    planned = preview(chain_of(tmp_path, "a", "b", ask={"max_tokens": 1000}))
    assert planned.to_ask == 20
    costs = {name: (planned.input_tokens + price * 20_000) / 1e6 for name, price in (("a", 1), ("b", 2))}
    assert planned.usd_at == pytest.approx(costs)
    assert planned.usd == pytest.approx(costs["b"])
    assert "a: simulator, asked first; if it answers everything: at most $0.02" in render(planned)
    assert "b: simulator, next in the chain; if it answers everything: at most $0.04" in render(planned)


REFUSED = {"kind": "status", "status": 400, "share": 0.3, "start_request": 2}
VOTE = {"source": {"keep": ["answer"]}, "select": {"majority": {"answer": "math"}}}


@pytest.mark.parametrize(
    ("changes", "samples", "retried"),
    [
        ({}, 1, False),
        ({}, 1, True),
        ({"ask": {"accept": 2, "at_most": 4}}, 4, False),
        ({"ask": {"accept": 2, "at_most": 4}}, 4, True),
        ({"ask": {"samples": 3}} | VOTE, 3, False),
        ({"ask": {"samples": 3}} | VOTE, 3, True),
    ],
    ids=["alone", "retry", "accept", "accept and retry", "select", "select and retry"],
)
async def test_a_fallback_chain_works_with_other_features(
    tmp_path: Path, changes: dict[str, Any], samples: int, retried: bool
) -> None:
    """Retry, accept and select over a chain: sound, counts that add up, and card and report name both teachers.

    Where samples are retried, both teachers refused some of them at first, and the first one answers them then.
    """
    recipe = chain_of(tmp_path, "a", "b", prompts=20, **changes)
    write_source(tmp_path, [row | {"answer": str(n + 1)} for n, row in enumerate(questions(20))])
    async with served(recipe, a=[REFUSED], b=[REFUSED] if retried else []) as ready:
        summary = sound(recipe, await run_in_process(ready))
    assert (summary.failed > 0) is retried
    assert {each["teacher"] for each in [*rows(recipe), *rows(recipe, "rejected")]} == {"a", "b"}
    if retried:
        async with served(recipe, b=[{"kind": "status", "status": 400}]) as ready:
            summary = sound(recipe, await run_in_process(ready, retry=RETRYABLE))
        # Failures of prompts with enough accepted answers are not asked again.
        assert summary.failed == 0 or recipe.ask.accept
    assert (summary.state, summary.short) == ("done", 0)
    assert summary.records + summary.rejected + summary.failed + summary.not_needed == 20 * samples
    if recipe.ask.accept:
        assert set(Counter(row["prompt_id"] for row in rows(recipe)).values()) == {2}
    if recipe.select is not None:
        assert {row["reject_reason"] for row in rows(recipe, "rejected")} <= {"not_selected", "duplicate_answer"}
        assert {row["prompt_id"] for row in rows(recipe)} == {f"q{n}" for n in range(20)}
    card, page = card_of(open_dataset(recipe)), report(open_dataset(recipe))
    assert "route: fallback" in card
    assert all(f">{name}<" in page for name in "ab")
