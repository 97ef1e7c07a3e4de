"""Whole runs in one process against the simulator: what is received is stored, once, and never asked again."""

import asyncio
import gzip
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from builders import questions, recipe_of, write_source
from faults.history import check
from harness import run_in_process
from s3_server import S3Server

from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import Paused, SourceError, StillhouseError, UsageError
from stillhouse.gen.journal.frames import Kind, frames
from stillhouse.gen.simulator import serve
from stillhouse.gen.teachers.protocols.openai_errors import OPENAI_ERRORS
from stillhouse.gen.views.summary import Summary, summarise
from stillhouse.gen.worker.worker import Worker
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings


@asynccontextmanager
async def teacher(recipe: Recipe, **settings: Any) -> AsyncIterator[Recipe]:
    """The recipe with its teachers at one simulator that lives over several runs."""
    async with await serve(SimulatorSettings.model_validate(settings)) as server:
        teachers = tuple(each.model_copy(update={"endpoints": (server.url,)}) for each in recipe.teachers)
        yield recipe.model_copy(update={"teachers": teachers})


class Crews:
    """The workers of all runs of a test."""

    def __init__(self) -> None:
        self.all: list[Worker] = []

    def __call__(self, workers: Sequence[Worker]) -> None:
        """A run begins."""
        self.all += workers

    @property
    def answers(self) -> int:
        """Received by all of them."""
        return sum(worker.counters.answers for worker in self.all)

    @property
    def requests(self) -> int:
        """Sent by all of them."""
        return sum(worker.counters.requests for worker in self.all)

    async def until(self, answers: int) -> None:
        """Return once this many were received."""
        while self.answers < answers:  # noqa: ASYNC110 - the counters are the workers' own
            await asyncio.sleep(0)


async def cut_off(run: Coroutine[Any, Any, Summary], moment: Awaitable[None]) -> bool:
    """Run until the moment comes, then drop everything as in a crash; returns True if it was still running."""
    running, waiting = asyncio.ensure_future(run), asyncio.ensure_future(moment)
    await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    cut = running.cancel()
    await asyncio.wait((running,))
    assert running.cancelled() or running.exception() is None
    return cut


def served(log: Path) -> list[dict[str, Any]]:
    """The teacher's log."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def rows(recipe: Recipe, folder: str) -> list[dict[str, Any]]:
    """All rows of data/, rejected/ or failed/."""
    path = Path(recipe.dataset.path) / folder
    found: list[dict[str, Any]] = ds.dataset(path, format="parquet").to_table().to_pylist() if path.exists() else []
    return found


def assert_adds_up(summary: Summary, *, samples: int) -> None:
    """Every sample is a record, rejected, failed or still to ask."""
    assert None not in (summary.prompts, summary.duplicates, summary.bad, summary.remaining)
    asked = (summary.prompts or 0) - (summary.duplicates or 0) - (summary.bad or 0)
    assert asked * samples == summary.records + summary.rejected + summary.failed + (summary.remaining or 0)


def listing(recipe: Recipe) -> list[tuple[str, int, str]]:
    """Every object of the dataset with its etag, except the record of the last run."""
    store = open_dataset(recipe)
    return [(stat.key, stat.size, stat.etag) for stat in store.list() if not stat.key.endswith("run.json")]


FAULTS: list[dict[str, Any]] = [
    {"kind": "status", "status": 429, "share": 0.05, "headers": {"retry-after-ms": "20"}},
    {"kind": "status", "status": 500, "share": 0.05},
    {"kind": "status", "status": 503, "share": 0.03},
    {"kind": "status", "status": 200, "share": 0.03, "body": '{"choices": []}'},
    {"kind": "reset", "share": 0.02},
    {"kind": "reset", "share": 0.02, "when": "body"},
    {"kind": "truncate", "share": 0.02},
]


async def test_a_run_under_faults_stores_every_answer_once(tmp_path: Path) -> None:
    """Refusals, errors, cut connections, duplicates and bad rows: all are accounted for."""
    source = [*questions(40), "{", *questions(5), *questions(20, start=40)]
    write_source(tmp_path, source)
    recipe = recipe_of(tmp_path, ask={"samples": 3}, teachers=[{"name": "sim", "api": "simulator", "max_attempts": 3}])
    log, crews = tmp_path / "log", Crews()
    async with teacher(recipe, log=str(log), faults=FAULTS, distinct=2, seed=4) as asked:
        summary = await run_in_process(asked, workers=2, crew=crews)
    assert (summary.state, summary.prompts, summary.duplicates, summary.bad) == ("done", 66, 5, 1)
    assert_adds_up(summary, samples=3)
    assert summary.remaining == 0
    assert summary.records == len(rows(recipe, "data"))
    assert summary.failed == sum(row["kind"] != "bad_row" for row in rows(recipe, "failed"))
    assert summary.rejected_by_reason.keys() == {"duplicate_answer"}
    lines = served(log)
    answered = [line["id"] for line in lines if line["status"] == 200 and not line["fault"]]
    stored = [row["response_id"] for folder in ("data", "rejected") for row in rows(recipe, folder)]
    assert sorted(answered) == sorted(filter(None, stored))
    assert crews.answers == len(answered)
    assert crews.requests == summary.requests == len(lines)
    told = sum(
        row["attempts"] for folder in ("data", "rejected", "failed") for row in rows(recipe, folder) if row["attempts"]
    )
    assert told == len(lines)
    assert summary.maybe_billed > 0


async def test_journalled_answers_count_as_settled(tmp_path: Path) -> None:
    """A resumed run shows it before it has an answer of its own."""
    write_source(tmp_path, questions(100))
    recipe = recipe_of(tmp_path, dataset={"prompts_per_shard": 100})
    first, second = Crews(), Crews()
    async with teacher(recipe, latency_s=0.05) as quick:
        assert await cut_off(run_in_process(quick, crew=first), first.until(30))

    async def counted() -> None:
        while not any(worker.counters.open_settled for worker in second.all):  # noqa: ASYNC110 - as in Crews.until
            await asyncio.sleep(0.05)

    async with teacher(recipe, latency_s=100.0) as slow:
        assert await cut_off(run_in_process(slow, crew=second), counted())
    assert (second.answers, second.all[0].counters.open_settled >= 30) == (0, True)


async def test_a_journal_names_the_endpoint_and_keeps_the_reply_headers(tmp_path: Path) -> None:
    """Each attempt's teacher, by its position in the recipe, its endpoint, and the headers that are kept."""
    write_source(tmp_path, questions(100))
    teachers = [{"name": name, "api": "simulator", "model": name} for name in ("a", "b")]
    recipe = recipe_of(tmp_path, dataset={"prompts_per_shard": 100}, teachers=teachers)
    crews = Crews()
    async with teacher(recipe, latency_s=0.05) as asked:
        assert await cut_off(run_in_process(asked, crew=crews), crews.until(30))
    (path,) = (tmp_path / "out" / "_stillhouse" / "journal").rglob("*.journal")
    with path.open("rb") as file:
        found = list(frames(file, origin=path.name))
    host = asked.teachers[0].endpoints[0].partition("://")[2].partition("/")[0]
    assert {frame.kind for frame in found} == {Kind.SENT, Kind.ANSWERED}
    assert {(frame.endpoint, frame.stage, frame.flags) for frame in found} == {(host, 0, 0)}
    assert {frame.teacher for frame in found} == {0, 1}
    for frame in found:
        if frame.kind is Kind.ANSWERED:
            assert frame.teacher == ("a", "b").index(json.loads(frame.body)["model"])
            assert dict(frame.headers)["content-type"] == "application/json"
            assert set(dict(frame.headers)) <= {*OPENAI_ERRORS.kept_headers}


async def test_a_finished_run_sends_nothing_and_changes_nothing(tmp_path: Path) -> None:
    """The same call again, with more workers and other limits."""
    write_source(tmp_path, questions(25))
    recipe = recipe_of(tmp_path)
    first = await run_in_process(recipe)
    before = listing(recipe)
    again = await run_in_process(recipe, workers=3)
    assert first.requests == 25
    assert again.requests == 0
    assert again.model_copy(update={"requests": 25, "seconds": first.seconds}) == first
    assert listing(recipe) == before
    assert not list((tmp_path / "out" / "_stillhouse").glob("journal/*"))


async def test_a_new_file_is_a_new_generation(tmp_path: Path) -> None:
    """Only its new prompts are asked; a changed file is refused before anything is."""
    path = write_source(tmp_path, questions(12))
    recipe = recipe_of(tmp_path)
    await run_in_process(recipe)
    write_source(tmp_path, questions(12, start=6), name="b.jsonl")
    summary = await run_in_process(recipe)
    assert (summary.prompts, summary.duplicates, summary.records, summary.requests) == (24, 6, 18, 6)
    names = sorted(each.name for each in (tmp_path / "out" / "data").iterdir())
    assert names == [f"part-000-00000{n}.parquet" for n in (0, 1)] + ["part-001-000000.parquet"]
    path.write_text(path.read_text() + "\n")
    with pytest.raises(SourceError, match="changed after it was planned"):
        await run_in_process(recipe)


async def test_a_pilot_is_continued_where_it_ended(tmp_path: Path) -> None:
    """Seven rows, seven more, the rest: each is asked once."""
    write_source(tmp_path, questions(30))
    recipe = recipe_of(tmp_path)
    runs = [await run_in_process(recipe, limit=limit) for limit in (7, 7, None, None)]
    assert [run.requests for run in runs] == [7, 7, 16, 0]
    assert [run.prompts for run in runs] == [7, 14, 30, 30]
    assert sorted(row["prompt_id"] for row in rows(recipe, "data")) == sorted(f"q{n}" for n in range(30))


@pytest.mark.parametrize("seed", range(4))
async def test_an_interrupted_run_resumes_with_only_what_is_missing(tmp_path: Path, seed: int) -> None:
    """At any moment, again and again: each answer received is stored once, whichever run received it."""
    rng = random.Random(seed)
    write_source(tmp_path, [*questions(90), *questions(10)])
    recipe = recipe_of(
        tmp_path,
        ask={"samples": 2},
        dataset={"prompts_per_shard": rng.choice([1, 7, 40])},
        teachers=[{"name": "sim", "api": "simulator", "limits": {"in_flight": 8}}],
    )
    log, crews, cuts = tmp_path / "log", Crews(), 0
    faults = [{"kind": "status", "status": 500, "share": 0.05}, {"kind": "truncate", "share": 0.02}]
    settings = {"log": str(log), "latency_s": 0.01, "latency_spread": 0.5, "faults": faults, "seed": seed}
    async with teacher(recipe, **settings) as asked:
        for _ in range(6):
            answers = crews.answers + rng.choice([1, 2, 10, 25])
            moment = crews.until(answers) if rng.random() < 0.5 else asyncio.sleep(rng.uniform(0, 0.1))
            run = run_in_process(asked, workers=rng.choice([1, 2]), crew=crews)
            cuts += await cut_off(run, moment)
        summary = await run_in_process(asked, crew=crews)
        assert (await run_in_process(asked, crew=crews)).requests == 0
    assert_adds_up(summary, samples=2)
    assert (summary.state, summary.prompts, summary.duplicates, summary.remaining) == ("done", 100, 10, 0)
    assert crews.answers == summary.records + summary.rejected
    check(Path(recipe.dataset.path), log, samples=2, in_flight=8, kills=cuts)
    attempts = sum(
        row["attempts"] for folder in ("data", "rejected", "failed") for row in rows(recipe, folder) if row["attempts"]
    )
    assert len(served(log)) <= attempts <= crews.requests
    assert not list((tmp_path / "out" / "_stillhouse").glob("journal/*/*"))


async def test_an_interrupted_run_on_s3_resumes_from_its_node_and_from_the_store(tmp_path: Path, s3: S3Server) -> None:
    """First the node's folder is there, then it is lost too: what was shipped is not asked again."""
    write_source(tmp_path, questions(60))
    recipe = recipe_of(
        tmp_path,
        dataset={"path": "s3://lake/out", "endpoint_url": s3.endpoint_url, "prompts_per_shard": 50},
        teachers=[{"name": "sim", "api": "simulator", "limits": {"in_flight": 4}}],
        run={"journal_dir": str(tmp_path / "node"), "ship_every_s": 0.1},
    )
    crews = Crews()
    async with teacher(recipe, latency_s=0.05, log=str(tmp_path / "log")) as asked:
        assert await cut_off(run_in_process(asked, crew=crews), crews.until(15))
        assert await cut_off(run_in_process(asked, crew=crews), crews.until(30))
        summary = await run_in_process(asked, crew=crews)
    assert (summary.state, summary.records) == ("done", 60)
    assert crews.answers == 60
    store = open_dataset(recipe)
    assert [stat.key for stat in store.list("_stillhouse/journal/")] == []
    assert not list((tmp_path / "node").glob("*/*"))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet"])
async def test_a_source_that_is_damaged_behind_answered_rows_can_be_replaced(tmp_path: Path, name: str) -> None:
    """Finishing ends its generation where it can be read; a good copy then asks the rest, and nothing twice."""
    noise = random.Random(7)  # rows so long that many can be read before the damage is met
    rows = [row | {"question": f"{row['question']} {noise.randbytes(3000).hex()}"} for row in questions(600)]
    plain = write_source(tmp_path, rows)
    file = plain.with_name(name)
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=100)
    else:
        file.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    whole = file.read_bytes()
    there = len(whole) * 4 // 5
    damaged = whole[:there] + bytes(9999) + whole[there + 9999 :] if name == "a.parquet" else whole[:there]
    file.write_bytes(damaged)
    recipe = recipe_of(tmp_path, dataset={"prompts_per_shard": 2})
    crews = Crews()
    assert (await run_in_process(recipe, crew=crews, limit=10)).records == 10
    with pytest.raises(UsageError, match=rf"{name} can't be read: .* needs another name: .* --finish"):
        await run_in_process(recipe, crew=crews)
    finished = await run_in_process(recipe, crew=crews, finish=True)
    assert finished.state == "done"
    assert (finished.prompts or 0) in range(100, 500)
    file.unlink()
    file.with_name(f"good-{name}").write_bytes(whole)
    summary = await run_in_process(recipe, crew=crews)
    assert (summary.state, summary.duplicates) == ("done", finished.prompts)
    assert summary.records + summary.failed == 600
    assert crews.answers == summary.records
    with pytest.raises(SourceError, match=rf"{name} is gone"):
        await run_in_process(recipe, retry=["stopped"])
    file.write_bytes(damaged)
    assert (await run_in_process(recipe, crew=crews, retry=["stopped"])).records == crews.answers == 600


async def test_a_node_keeps_the_journals_of_datasets_with_the_same_url_apart(tmp_path: Path, s3: S3Server) -> None:
    """One that was deleted, or is at another endpoint: its answers are to other prompts."""
    write_source(tmp_path, questions(40))
    changes: dict[str, Any] = {
        "dataset": {"path": "s3://lake/out", "endpoint_url": s3.endpoint_url},
        "teachers": [{"name": "sim", "api": "simulator", "limits": {"in_flight": 4}}],
        "run": {"journal_dir": str(tmp_path / "node"), "ship_every_s": 60},
    }
    crews = Crews()
    async with teacher(recipe_of(tmp_path, **changes), latency_s=0.05) as asked:
        assert await cut_off(run_in_process(asked, crew=crews), crews.until(15))
    left = sorted((tmp_path / "node").glob("*/*/*"))
    assert left
    store = open_dataset(asked)
    for stat in list(store.list("")):
        store.delete(stat.key)
    write_source(tmp_path, questions(30, start=100))
    crews = Crews()
    async with teacher(recipe_of(tmp_path, ask={"temperature": 0.3}, **changes)) as asked:
        summary = await run_in_process(asked, crew=crews)
    assert (summary.state, summary.records, crews.answers) == ("done", 30, 30)
    assert sorted((tmp_path / "node").glob("*/*/*")) == left


async def test_a_stopped_run_finishes_its_requests_in_flight(tmp_path: Path) -> None:
    """Nothing is billed in vain, and the next run asks the rest."""
    write_source(tmp_path, questions(60))
    recipe = recipe_of(tmp_path, teachers=[{"name": "sim", "api": "simulator", "limits": {"in_flight": 8}}])
    crews = Crews()
    async with teacher(recipe, latency_s=0.05) as asked:
        run = asyncio.create_task(run_in_process(asked, crew=crews))
        await crews.until(20)
        crews.all[0].stop()
        with pytest.raises(Paused):
            await run
        before = crews.answers
        assert 20 <= before < 60
        assert crews.requests == before
        summary = await run_in_process(asked, crew=crews)
    assert summary.requests == 60 - before
    assert (summary.records, summary.maybe_billed) == (60, 0)


async def test_a_chunk_is_sealed_although_its_last_answer_comes_at_the_very_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopping worker that checks all the time sees that nothing is in flight before the chunk's task does."""
    monkeypatch.setattr("stillhouse.gen.worker.worker.DRAIN_POLL_S", 0.0)
    write_source(tmp_path, questions(10))
    recipe = recipe_of(tmp_path)
    crews = Crews()
    async with teacher(recipe, latency_s=0.2) as asked:
        run = asyncio.create_task(run_in_process(asked, crew=crews))
        while crews.requests < 10:  # noqa: ASYNC110 - the worker's own count
            await asyncio.sleep(0)
        crews.all[0].stop()
        with pytest.raises(Paused):
            await run
    assert crews.answers == 10
    assert summarise(open_dataset(recipe)).records == 10


async def test_a_teacher_without_money_pauses_the_run(tmp_path: Path) -> None:
    """What came before is kept; once there is money, the same call resumes, and no sample was given up."""
    write_source(tmp_path, questions(40))
    recipe = recipe_of(tmp_path, teachers=[{"name": "sim", "api": "simulator", "limits": {"in_flight": 4}}])
    crews = Crews()
    broke = [{"kind": "status", "status": 402, "start_s": 0.3}]
    async with teacher(recipe, latency_s=0.05, faults=broke) as asked:
        with pytest.raises(Paused, match=r"teacher sim answered HTTP 402 .*no money or quota left"):
            await run_in_process(asked, crew=crews)
    async with teacher(recipe, first_serial=1000) as asked:
        summary = await run_in_process(asked, crew=crews)
    assert (summary.records, summary.failed, summary.maybe_billed) == (40, 0, 0)
    assert crews.answers == 40


async def test_a_recipe_refused_by_the_teacher_fails_and_can_be_fixed(tmp_path: Path) -> None:
    """If a whole first chunk fails in the same way, it is not sealed."""
    write_source(tmp_path, questions(30))
    recipe = recipe_of(tmp_path)
    async with teacher(recipe, faults=[{"kind": "status", "status": 400}]) as asked:
        with pytest.raises(
            StillhouseError, match="none of the first 10 requests yielded a record; 10 of them are bad_request"
        ) as raised:
            await run_in_process(asked)
        assert raised.value.exit_code == 1
    summary = await run_in_process(recipe)
    assert (summary.records, summary.failed) == (30, 0)


async def test_bad_prompts_alone_do_not_fail_a_run(tmp_path: Path) -> None:
    """A chunk of a single prompt proves nothing about the recipe, and no run is stuck at its last chunk."""
    write_source(tmp_path, questions(3))
    recipe = recipe_of(tmp_path, dataset={"prompts_per_shard": 1})
    async with teacher(recipe, faults=[{"kind": "status", "status": 400}]) as asked:
        summary = await run_in_process(asked)
    assert (summary.state, summary.failed, summary.failed_by_kind) == ("done", 3, {"bad_request": 3})
    write_source(tmp_path, questions(5, start=3), name="b.jsonl")
    async with teacher(recipe, faults=[{"kind": "status", "status": 400}]) as asked:
        summary = await run_in_process(asked)
    assert (summary.state, summary.failed) == ("done", 8)


@pytest.mark.parametrize(
    ("source", "counts"), [([*["{"] * 3, *questions(1)], (4, 0, 3)), (questions(1) * 3, (3, 2, 0))]
)
async def test_a_nearly_empty_source_finishes(tmp_path: Path, source: list[Any], counts: tuple[int, ...]) -> None:
    """All rows but one are bad, in the same way: a shard is written, and the next run has nothing to do."""
    write_source(tmp_path, source)
    recipe = recipe_of(tmp_path)
    summary = await run_in_process(recipe)
    assert (summary.state, summary.prompts, summary.duplicates, summary.bad) == ("done", *counts)
    assert_adds_up(summary, samples=1)
    assert (await run_in_process(recipe)).requests == 0
    assert len(list((tmp_path / "out" / "data").iterdir())) == 1


async def test_samples_of_several_teachers_are_divided_among_them(tmp_path: Path) -> None:
    """By weight; each sample is asked of one of them, and a prompt's record ids differ."""
    write_source(tmp_path, questions(50))
    teachers = [{"name": "a", "api": "simulator", "weight": 3}, {"name": "b", "api": "simulator"}]
    recipe = recipe_of(tmp_path, ask={"samples": 4}, teachers=teachers, dedup={"answers": False})
    summary = await run_in_process(recipe)
    assert summary.records == 200
    found = rows(recipe, "data")
    assert len({row["record_id"] for row in found}) == 200
    asked = Counter(row["teacher"] for row in found)
    assert 120 <= asked["a"] <= 180
    assert asked["a"] + asked["b"] == 200
