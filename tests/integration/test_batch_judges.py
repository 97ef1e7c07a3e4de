"""Runs whose judge is asked in batches, beside teachers that are asked online or in batches too."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pyarrow.dataset as ds
import pytest
from batch_recipes import TERMS, crashed, crashed_at_provider, logged, run, teacher_of
from batch_wire import WatchedStore, Wire
from builders import questions, recipe_of, write_source
from harness import run_in_process
from integration.test_batch_steps import Killed, Step, shared

from stillhouse.gen.checks.judge import MAX_NONSENSE
from stillhouse.gen.clock import SYSTEM
from stillhouse.gen.dataset.batch_intents import count_batches
from stillhouse.gen.dataset.budget import BudgetLedger, SpendReport
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.parked_chunks import stored_batches
from stillhouse.gen.errors import BudgetSpent, UsageError
from stillhouse.gen.simulator.judge import score_of
from stillhouse.gen.simulator.server import Server
from stillhouse.gen.teachers.expense import NOTHING
from stillhouse.gen.teachers.http import HttpTransport
from stillhouse.gen.views.summary import Summary
from stillhouse.gen.views.verify import verify
from stillhouse.gen.worker.batch_cancelling import cancel_batches
from stillhouse.schemas.budget import Budget
from stillhouse.schemas.recipe import Recipe

RUBRIC = "Score how well the answer helps.\nQuestion: {{ prompt }}\n"
PRICE = {"input": 1.0, "output": 2.0}
CALLS = [(when, what) for what in ("upload", "create", "poll", "download") for when in ("before", "after")]
WRITES = ["-c1-0.json", "-c1-0.submitted.json", "-c1-0.ended.json", "-parked.json", "data/part-"]
"""Objects of the store, by a part of their keys."""


def judged(
    root: Path, server: Server, *, mode: str = "online", judge: Any = None, check: Any = None, **changes: Any
) -> Recipe:
    """A recipe with a judge in batch mode, at the server of its teacher; `judge` and `check`: what differs."""
    same = {key: value for key, value in teacher_of("openai-chat", server.url).items() if key not in ("name", "mode")}
    teachers = [
        same | {"name": "t", "mode": mode, "price": PRICE, "terms": TERMS},
        same
        | {"name": "judge", "role": "judge", "model": "judge", "mode": "batch", "price": PRICE}
        | {"ask": {"max_tokens": 100}}
        | (judge or {}),
        *({**same, **other} for other in changes.pop("others", ())),
    ]
    checks = [{"judge": {"teacher": "judge", "template": RUBRIC, "accept_if": ">= 3"} | (check or {})}]
    changes["ask"] = {"max_tokens": 200} | changes.get("ask", {})
    return recipe_of(root, **({"teachers": teachers, "checks": checks} | changes))


def rows(root: Path, kind: str) -> list[dict[str, Any]]:
    """The stored rows of a kind."""
    folder = root / "out" / kind
    return ds.dataset(folder, format="parquet").to_table().to_pylist() if folder.is_dir() else []


def split(lines: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the teacher was asked, and what the judge."""
    return [each for each in lines if each["model"] != "judge"], [each for each in lines if each["model"] == "judge"]


def each_is_judged_once(root: Path, lines: list[dict[str, Any]], count: int) -> None:
    """All of so many answers are kept by the judge's score, and none of them was paid for twice."""
    asked, verdicts = split(lines)
    for paid in (asked, verdicts):
        assert set(Counter(line["prompt"] for line in paid).values()) == {1}
        assert len(paid) == count
    assert all("batch" in line for line in verdicts)
    kept, rejected = rows(root, "data"), rows(root, "rejected")
    assert len(kept) + len(rejected) == count
    for row in (*kept, *rejected):
        verdict = row["checks"]["judge"]
        assert verdict["score"] == score_of(row["completion"][0]["content"])
        assert verdict["accepted"] == (verdict["score"] >= 3) == (row in kept)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("mode", ["online", "batch", "batch-then-online"])
def test_a_chunks_answers_are_judged_in_one_batch(tmp_path: Path, mode: str) -> None:
    """Once all of them are there, at the judge's price."""
    write_source(tmp_path, questions(20))
    usd = []

    async def test(server: Server) -> None:
        recipe = judged(tmp_path, server, mode=mode)
        summary = await run_in_process(recipe)
        assert (summary.records + summary.rejected, summary.failed, summary.maybe_billed) == (20, 0, 0)
        assert summary.batches == {"open": 0, "ended": 2 if mode == "online" else 4, "expired": 0}
        assert not verify(open_dataset(recipe)).findings
        usd.append(summary.checks_usd)

    lines = run(tmp_path, test)
    each_is_judged_once(tmp_path, lines, 20)
    _, verdicts = split(lines)
    assert set(Counter(line["batch"] for line in verdicts).values()) == {10}
    assert usd == [pytest.approx(sum(line["prompt_tokens"] + 2 * line["completion_tokens"] for line in verdicts) / 1e6)]


@pytest.mark.usefixtures("parks")
@pytest.mark.parametrize("mode", ["online", "batch"])
def test_rounds_under_accept_alternate_answers_and_verdicts(tmp_path: Path, mode: str) -> None:
    """What the judge rejects is asked again, with chunks parked meanwhile; no answer is judged twice."""
    write_source(tmp_path, questions(20))

    async def test(server: Server) -> None:
        recipe = judged(tmp_path, server, mode=mode, ask={"accept": 1, "at_most": 6})
        summary = await run_in_process(recipe, workers=2)
        assert summary.records >= 15
        assert summary.rejected > 0
        assert (summary.failed, summary.batches["open"]) == (0, 0)

    asked, verdicts = split(run(tmp_path, test, faults={"latency_s": 0.2}))
    assert set(Counter(line["prompt"] for line in verdicts).values()) == {1}
    answers = {row["record_id"] for kind in ("data", "rejected") for row in rows(tmp_path, kind)}
    assert len(asked) == len(answers)
    assert len(verdicts) <= len(answers)  # equal answers to a prompt share a verdict


@pytest.mark.usefixtures("parks")
@pytest.mark.parametrize("first", ["online", "batch"])
def test_several_judges_are_asked_in_turn(tmp_path: Path, first: str) -> None:
    """The second one, in batches, is asked of what the first one accepts; each batch is of one check."""
    write_source(tmp_path, questions(20))

    async def test(server: Server) -> None:
        recipe = judged(
            tmp_path,
            server,
            others=[{"name": "first", "role": "judge", "model": "first", "mode": first}],
            checks=[
                {"judge": {"name": name, "teacher": teacher, "template": "{{ prompt }}", "accept_if": f">= {least}"}}
                for least, (name, teacher) in enumerate([("one", "first"), ("two", "judge"), ("three", "judge")], 2)
            ],
        )
        summary = await run_in_process(recipe)
        assert (summary.records + summary.rejected, summary.failed) == (20, 0)
        assert not verify(open_dataset(recipe)).findings

    lines = run(tmp_path, test, faults={"latency_s": 0.2})
    kept, rejected = rows(tmp_path, "data"), rows(tmp_path, "rejected")
    scores = [score_of(row["completion"][0]["content"]) for row in (*kept, *rejected)]
    assert len(kept) == sum(score >= 4 for score in scores)
    _, verdicts = split(lines)
    assert len(verdicts) == sum(score >= 2 for score in scores) + sum(score >= 3 for score in scores)
    assert len([line for line in lines if line["model"] == "first"]) == 20
    assert len({line["batch"] for line in verdicts}) == 4


@pytest.mark.usefixtures("parks")
@pytest.mark.parametrize("mode", ["online", "batch"])
def test_answers_are_compared_once_both_exist(tmp_path: Path, mode: str) -> None:
    """The teacher that others are compared with is slower; its own answers need no verdict."""
    write_source(tmp_path, questions(10))

    async def test(server: Server) -> None:
        recipe = judged(
            tmp_path,
            server,
            route="each",
            mode=mode,
            check={"against": "base", "accept_if": None},
            others=[{"name": "base", "model": "base", "mode": "batch", "terms": TERMS}],
        )
        summary = await run_in_process(recipe)
        assert (summary.records + summary.rejected, summary.failed) == (20, 0)

    _, verdicts = split(run(tmp_path, test, faults={"latency_s": 0.2}))
    assert len(verdicts) == 10
    found = [*rows(tmp_path, "data"), *rows(tmp_path, "rejected")]
    texts = {(row["prompt_id"], row["teacher"]): row["completion"][0]["content"] for row in found}
    for row in found:
        mine, other = (score_of(texts[row["prompt_id"], name]) for name in ("t", "base"))
        expected = None if row["teacher"] == "base" else 1.0 if mine > other else 0.5 if mine == other else 0.0
        assert row["checks"]["judge"]["score"] == expected


def killed_and_resumed(tmp_path: Path, step: Step) -> None:
    """Kill a run at a step of the judge's batch, and resume it on another node; nothing is paid for twice."""
    write_source(tmp_path, questions(12))

    async def test(server: Server) -> None:
        first, second = [
            judged(
                tmp_path,
                server,
                dataset={"prompts_per_shard": 100},
                judge={"batch": {"max_requests": 7, "max_open": 1}},
                run={"journal_dir": str(tmp_path / node)},
            )
            for node in ("one", "two")
        ]
        await Killed(step, first).ends()
        summary = await run_in_process(second, stored=shared)
        assert (summary.records + summary.rejected, summary.failed, summary.maybe_billed) == (12, 0, 0)
        assert summary.batches["open"] == 0

    latency_s = 0.5 if step.what == "-parked.json" else 0.0  # what has ended at once is not parked
    each_is_judged_once(tmp_path, run(tmp_path, test, faults={"latency_s": latency_s}), 12)


@pytest.mark.usefixtures("parks")
@pytest.mark.parametrize("step", [*(Step(*each) for each in CALLS), Step("during", "download")], ids="-".join)
def test_a_process_killed_at_a_call_pays_for_no_verdict_twice(tmp_path: Path, step: Step) -> None:
    """Whatever the provider did, and whatever of it was known."""
    killed_and_resumed(tmp_path, step)


@pytest.mark.usefixtures("parks")
@pytest.mark.parametrize("key", WRITES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_killed_at_a_write_pays_for_no_verdict_twice(tmp_path: Path, when: str, key: str) -> None:
    """Of the intent, the batch's name, its end, the parked chunk, the shard."""
    killed_and_resumed(tmp_path, Step(when, key))


@pytest.mark.usefixtures("parks")
@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_keeps_crashing_pays_for_no_verdict_twice(tmp_path: Path, seed: int) -> None:
    """Both are asked in batches; every process finds what the ones before it asked."""
    write_source(tmp_path, questions(20))

    async def test(server: Server) -> None:
        recipe = judged(tmp_path, server, mode="batch", judge={"batch": {"max_requests": 7}})
        crashes, after_s = 0, 0.03
        while (summary := await crashed(recipe, after_s=after_s)) is None:
            crashes += 1
            after_s += 0.05
        assert crashes > 3
        assert (summary.records + summary.rejected, summary.failed) == (20, 0)

    lines = run(tmp_path, test, faults={"latency_s": 0.3}, seed=seed)
    asked, verdicts = split(lines)
    assert set(Counter(line["prompt"] for line in (*asked, *verdicts)).values()) == {1}
    assert (len(asked), len(verdicts)) == (20, 20)


@pytest.mark.usefixtures("parks")
def test_expired_verdicts_are_asked_for_twice_more(tmp_path: Path) -> None:
    """Then their answers are unchecked, and a retry has them judged."""
    write_source(tmp_path, questions(20))

    async def test(server: Server) -> None:
        recipe = judged(tmp_path, server)
        summary = await run_in_process(recipe)
        assert summary.records + summary.rejected + summary.failed == 20
        assert summary.failed_by_kind == {"unchecked": summary.failed}
        assert summary.failed > 0
        assert summary.batches["open"] == 0
        assert all("did not reach it (3 batches)" in row["message"] for row in rows(tmp_path, "failed"))
        while summary.failed:
            summary = await run_in_process(recipe, retry=["unchecked"])
        assert summary.records + summary.rejected == 20

    each_is_judged_once(tmp_path, run(tmp_path, test, faults={"expired": 0.6}), 20)


@pytest.mark.usefixtures("parks")
def test_missing_verdicts_are_asked_for_again(tmp_path: Path) -> None:
    """They may have been billed."""
    write_source(tmp_path, questions(20))

    async def test(server: Server) -> None:
        summary = await run_in_process(judged(tmp_path, server))
        assert (summary.records + summary.rejected, summary.failed) == (20, 0)
        assert summary.maybe_usd is not None
        assert summary.maybe_usd > 0

    asked, _ = split(run(tmp_path, test, faults={"missing": 0.3}))
    assert len(asked) == 20


@pytest.mark.usefixtures("parks")
def test_nonsense_verdicts_are_retried_a_few_times_across_owners(tmp_path: Path) -> None:
    """Every batch makes another owner of the chunk, which counts what came before."""
    write_source(tmp_path, questions(5))

    async def test(server: Server) -> None:
        recipe, wire = judged(tmp_path, server), Wire()
        nonsense = {"choices": [{"message": {"content": "Four!"}, "finish_reason": "stop"}], "usage": {}}
        said = 0

        def results(lines: list[bytes]) -> list[bytes]:
            nonlocal said
            said += 1
            body = nonsense | {"id": str(said)}
            return [
                orjson.dumps(orjson.loads(each) | {"response": {"status_code": 200, "body": body}}) for each in lines
            ]

        wire.results = results
        summary = await run_in_process(recipe, transport=wire.transport)
        assert summary.failed_by_kind == {"unchecked": 5}
        assert all("expected a verdict as JSON" in row["message"] for row in rows(tmp_path, "failed"))

    asked, verdicts = split(run(tmp_path, test, faults={"latency_s": 0.2}))
    assert (len(asked), len(verdicts)) == (5, 5 * MAX_NONSENSE)


@pytest.mark.usefixtures("parks")
@pytest.mark.parametrize("mode", ["online", "batch"])
def test_a_budget_covers_verdicts_in_batches(tmp_path: Path, mode: str) -> None:
    """It is never exceeded, over crashes too; a retry has the answers judged that it left unchecked."""
    write_source(tmp_path, questions(20))

    async def test(server: Server) -> None:
        recipe = judged(tmp_path, server, mode=mode, budget={"requests": 25}, dataset={"prompts_per_shard": 5})

        async def again_and_again() -> Summary:
            after_s = 0.1
            while (summary := await crashed(recipe, after_s=after_s)) is None:
                after_s *= 2
            return summary

        (end,) = await asyncio.gather(again_and_again(), return_exceptions=True)
        if isinstance(end, Summary):  # the last kill came after the last seal, so nothing is left to ask
            assert (end.state, set(end.failed_by_kind)) == ("done", {"unchecked"})
        else:
            assert isinstance(end, BudgetSpent)
            assert "25 of 25 requests used" in str(end)
        await asyncio.sleep(0.3)  # the log is complete a fifth of a second later
        assert len(logged(tmp_path)) <= 25
        raised = recipe.model_copy(update={"budget": Budget(requests=100)})
        summary = await run_in_process(raised)
        assert summary.failed_by_kind.keys() <= {"unchecked"}
        summary = await run_in_process(raised, retry=["unchecked"])
        assert (summary.records + summary.rejected, summary.failed) == (20, 0)

    _, verdicts = split(run(tmp_path, test, faults={"latency_s": 0.1}))
    assert set(Counter(line["prompt"] for line in verdicts).values()) == {1}


@pytest.mark.usefixtures("quick")
def test_other_checks_do_not_judge_again_what_waits_for_its_verdict(tmp_path: Path) -> None:
    """A check's verdict is in the journal before the judge's batch is created; the next owner of the chunk reads it."""
    write_source(tmp_path, questions(20))
    calls = tmp_path / "calls"
    code = tmp_path / "counted.py"
    code.write_text(f"def counted(answer):\n    open({str(calls)!r}, 'a').write('x')\n    return True\n")

    async def test(server: Server) -> None:
        judge = {"judge": {"teacher": "judge", "template": RUBRIC, "accept_if": ">= 3"}}
        checks = [{"function": {"name": f"{code}:counted"}}, judge]
        recipe = judged(tmp_path, server, checks=checks, dataset={"prompts_per_shard": 20})
        await crashed_at_provider(recipe)
        assert len(calls.read_text()) == 20
        summary = await run_in_process(recipe)
        assert (summary.records + summary.rejected, summary.failed) == (20, 0)

    each_is_judged_once(tmp_path, run(tmp_path, test, faults={"latency_s": 0.5}), 20)
    assert len(calls.read_text()) == 20
    assert all(row["checks"]["counted"]["accepted"] for row in [*rows(tmp_path, "data"), *rows(tmp_path, "rejected")])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("mode", ["online", "batch"])
def test_verdicts_are_paid_from_the_money_set_aside_once_their_chunk_is_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Not from the money that other requests in flight rely on, although the last verdict leaves no time to say so."""
    write_source(tmp_path, questions(10))
    reports: list[SpendReport] = []
    reported = BudgetLedger.reported

    def listened(self: BudgetLedger, worker: str, report: SpendReport) -> None:
        reports.append(report)
        reported(self, worker, report)

    monkeypatch.setattr(BudgetLedger, "reported", listened)

    async def test(server: Server) -> None:
        recipe = judged(tmp_path, server, mode=mode, budget={"requests": 100}, dataset={"prompts_per_shard": 5})
        summary = await run_in_process(recipe)
        assert summary.records + summary.rejected == 10

    run(tmp_path, test, faults={"latency_s": 0.1})
    assert (reports[-1].ended, reports[-1].moved, reports[-1].spent.requests) == (True, NOTHING, 20)


@pytest.mark.usefixtures("parks")
def test_parked_batches_are_collected_before_a_full_judge_gets_more(tmp_path: Path) -> None:
    """Two batches at a time, and twelve chunks, for one worker."""
    write_source(tmp_path, questions(24))

    async def test(server: Server) -> None:
        small = {"batch": {"max_open": 2}}
        recipe = judged(tmp_path, server, judge=small, dataset={"prompts_per_shard": 2})
        summary = await run_in_process(recipe)
        assert (summary.records + summary.rejected, summary.failed, summary.batches["ended"]) == (24, 0, 12)

    each_is_judged_once(tmp_path, run(tmp_path, test, faults={"latency_s": 0.2}), 24)


@pytest.mark.usefixtures("parks")
def test_pending_verdicts_keep_a_dataset_open_until_collected_or_cancelled(tmp_path: Path) -> None:
    """The chunk is parked, and held by nobody; the judge can't be asked online, and the dataset can't be finished."""
    write_source(tmp_path, questions(10))

    async def test(server: Server) -> None:
        recipe = judged(tmp_path, server)
        store = open_dataset(recipe)
        running = asyncio.create_task(run_in_process(recipe))
        while not (parked := (await asyncio.to_thread(stored_batches, store)).parked):
            assert not running.done()
            await asyncio.sleep(0.02)
        assert [[each.who for each in one.batches] for one in parked.values()] == [["c1"]]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert count_batches(store).open == 1
        with pytest.raises(UsageError, match="1 batch is at the provider"):
            await run_in_process(recipe, finish=True)
        online = [each.model_copy(update={"mode": "online"}) for each in recipe.teachers]
        with pytest.raises(UsageError, match=r"teachers.judge: 1 batch is at the provider .* set `mode: batch` until"):
            await run_in_process(recipe.model_copy(update={"teachers": tuple(online)}))
        transport = HttpTransport()
        assert await cancel_batches(recipe, store, transport=transport, clock=SYSTEM) == (1, 0)
        await transport.close()
        summary = await run_in_process(recipe)
        assert (summary.records + summary.rejected, summary.failed) == (10, 0)

    each_is_judged_once(tmp_path, run(tmp_path, test, faults={"latency_s": 4.0}), 10)


@pytest.mark.usefixtures("quick")
def test_no_verdict_is_bought_for_an_answer_that_could_be_lost(tmp_path: Path) -> None:
    """All answers are in the store before the intent of the batch that judges them."""
    write_source(tmp_path, questions(10))
    kept: list[str] = []

    async def test(server: Server) -> None:
        recipe = judged(tmp_path, server)

        def written(when: str, key: str) -> None:
            if when == "before" and key.endswith("-c1-0.json"):
                kept.extend(path.name for path in (tmp_path / "out" / "_stillhouse" / "journal").rglob("*.*"))

        await run_in_process(recipe, stored=lambda store: WatchedStore(Path(store.url), written))

    run(tmp_path, test)
    assert kept
