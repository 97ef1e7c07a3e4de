"""Runs in `mode: batch-then-online`: a sample is in one batch, and what no batch answers is asked online."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from batch_recipes import APIS, batched, crashed, logged, run
from batch_wire import Wire
from builders import questions, write_source
from harness import run_in_process

from stillhouse.gen.dataset.batch_intents import count_batches
from stillhouse.gen.dataset.layout import open_dataset, sealed_chunks
from stillhouse.gen.errors import BudgetSpent, StillhouseError
from stillhouse.gen.simulator.server import Server
from stillhouse.gen.views.preview import preview, render
from stillhouse.schemas.budget import Budget
from stillhouse.schemas.recipe import Recipe

PRICES = {"price": {"input": 1.0, "output": 2.0}, "online_price": {"input": 4.0, "output": 8.0}}


def mixed(root: Path, server: Server, *, api: str = "openai-chat", **changes: Any) -> Recipe:
    """A recipe whose teacher is asked in batches, and then online."""
    teacher = {"mode": "batch-then-online", **PRICES} | changes.pop("teacher", {})
    return batched(root, server, api=api, teacher=teacher, **changes)


def split(lines: list[dict[str, Any]]) -> tuple[Counter[str], Counter[str]]:
    """How often each prompt was asked in batches, and how often online."""
    inside = Counter(line["prompt"] for line in lines if "batch" in line)
    return inside, Counter(line["prompt"] for line in lines if "batch" not in line)


def records(recipe: Recipe) -> list[dict[str, Any]]:
    """The dataset's records."""
    store = open_dataset(recipe)
    found = []
    for chunk in sealed_chunks(store):
        with store.open(chunk.data_key) as file:
            found += pq.read_table(file).to_pylist()
    return found


def modes_of(recipe: Recipe) -> Counter[str]:
    """How many records have the price of a batch, and how many that of online."""
    times = Counter(round(row["cost_usd"] * 1e6 / _batch_usd(row), 6) for row in records(recipe))
    return Counter({{1: "batch", 4: "online"}[each]: count for each, count in times.items()})


def _batch_usd(row: dict[str, Any]) -> float:
    return float(row["input_tokens"] * 1.0 + row["output_tokens"] * 2.0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("api", [each for each in APIS if each != "together"])  # whose simulator has only batches
def test_expired_requests_are_asked_online(tmp_path: Path, api: str) -> None:
    """Each prompt is answered once, at the price of the mode that answered; nothing is in a second batch."""
    write_source(tmp_path, questions(20))
    modes = Counter[str]()

    async def test(server: Server) -> None:
        recipe = mixed(tmp_path, server, api=api)
        summary = await run_in_process(recipe)
        assert (summary.records, summary.failed, summary.maybe_billed) == (20, 0, 0)
        assert summary.batches == {"open": 0, "ended": 2, "expired": 2}
        modes.update(modes_of(recipe))
        assert summary.usd == pytest.approx(sum(row["cost_usd"] for row in records(recipe)))

    inside, outside = split(run(tmp_path, test, faults={"expired": 0.5}))
    assert len(outside) == 20 if api == "gemini" else 0 < len(outside) < 20  # its expired batches deliver nothing
    assert modes == Counter(online=len(outside), batch=20 - len(outside))
    assert api == "gemini" or not inside.keys() & outside.keys()
    assert set(outside.values()) == {1}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("faults", "left"),
    [({"missing": 0.4}, None), ({"lost": 1}, 10), ({"deleted": 1}, 10), ({"lost_replies": 1}, 0)],
)
def test_only_requests_that_no_batch_answered_are_asked_online(
    tmp_path: Path, faults: dict[str, Any], left: int | None
) -> None:
    """Two batches of ten. `left`: how many are asked online, where that is certain; the batch may bill them too."""
    write_source(tmp_path, questions(20))
    maybe_billed = []

    async def test(server: Server) -> None:
        recipe = mixed(tmp_path, server, dataset={"prompts_per_shard": 10})
        summary = await run_in_process(recipe)
        assert (summary.records, summary.failed) == (20, 0)
        assert count_batches(open_dataset(recipe)).ended == 2
        maybe_billed.append(summary.maybe_billed)

    inside, outside = split(run(tmp_path, test, faults=faults))
    assert set(inside.values()) | set(outside.values()) == {1}
    assert len(outside) == left or (left is None and 0 < len(outside) < 20)
    assert maybe_billed == [len(outside)]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("status", "body", "maybe_billed"),
    [
        (500, {"error": {"message": "the server had an error"}}, 0),
        (429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, 0),
        (503, {"error": {"message": "overloaded"}}, 0),
        (200, {"choices": []}, 3),
        (200, None, 3),
    ],
)
def test_requests_with_unusable_replies_are_asked_online(
    tmp_path: Path, status: int, body: Any, maybe_billed: int
) -> None:
    """Three of ten, once each, as online; the others are not asked again."""
    write_source(tmp_path, questions(10))

    async def test(server: Server) -> None:
        recipe, wire = mixed(tmp_path, server, dataset={"prompts_per_shard": 10}), Wire()
        wire.results = lambda lines: [
            orjson.dumps(orjson.loads(each) | {"response": {"status_code": status, "body": body}}) if n < 3 else each
            for n, each in enumerate(lines)
        ]
        summary = await run_in_process(recipe, transport=wire.transport)
        assert (summary.records, summary.failed, summary.maybe_billed) == (10, 0, maybe_billed)
        assert modes_of(recipe) == Counter(batch=7, online=3)

    inside, outside = split(run(tmp_path, test))
    assert (len(inside), len(outside)) == (10, 3)


@pytest.mark.usefixtures("quick")
def test_a_batch_refused_as_a_whole_sends_nothing_online(tmp_path: Path) -> None:
    """The next run therefore puts its samples into another one."""
    write_source(tmp_path, questions(10))

    async def test(server: Server) -> None:
        recipe = mixed(tmp_path, server)
        with pytest.raises(StillhouseError, match="refuses the batch"):
            await run_in_process(recipe)
        assert (await run_in_process(recipe)).records == 10

    inside, outside = split(run(tmp_path, test, faults={"failed": 1}))
    assert (set(inside.values()), len(inside), len(outside)) == ({1}, 10, 0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("max_open", [1, 20])
def test_under_accept_only_the_first_round_is_in_batches(tmp_path: Path, max_open: int) -> None:
    """Two of each prompt, also where not all of the batches may be open at once; all later rounds are online."""
    rows = [{"id": str(n), "question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(20)]
    write_source(tmp_path, rows)

    async def test(server: Server) -> None:
        recipe = mixed(
            tmp_path,
            server,
            teacher={"batch": {"max_requests": 10, "max_open": max_open}},
            ask={"accept": 2, "at_most": 10},
            source={"keep": ["answer"]},
            checks=[{"math": {"answer": "answer"}}],
        )
        summary = await run_in_process(recipe)
        assert (summary.records, summary.failed) == (40, 0)
        assert summary.rejected > 0
        assert summary.batches["ended"] == 4

    inside, outside = split(run(tmp_path, test, accuracy=0.6))
    assert set(inside.values()) == {2}
    assert len(inside) == 20
    assert outside


@pytest.mark.usefixtures("parks")
@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_keeps_crashing_pays_for_nothing_twice(tmp_path: Path, seed: int) -> None:
    """No prompt is in two batches; online, only what was in flight at a crash is asked again, and is counted."""
    write_source(tmp_path, questions(20))
    counts = []

    async def test(server: Server) -> None:
        recipe = mixed(tmp_path, server, teacher={"batch": {"max_requests": 7}})
        crashes, after_s = 0, 0.03
        while (summary := await crashed(recipe, after_s=after_s)) is None:
            crashes += 1
            after_s += 0.05
        assert crashes > 3
        assert (summary.records, summary.failed) == (20, 0)
        counts.append(summary.maybe_billed)
        assert modes_of(recipe)["online"] > 0

    lines = run(tmp_path, test, faults={"latency_s": 0.3, "expired": 0.4}, latency_s=0.1, seed=seed)
    inside, outside = split(lines)
    assert set(inside.values()) == {1}
    assert inside.total() + outside.total() - 20 <= counts[0]


@pytest.mark.usefixtures("parks")
def test_a_budget_covers_batches_and_the_online_requests_after_them(tmp_path: Path) -> None:
    """Requests that expire cost nothing, and are asked online with the money that comes back."""
    write_source(tmp_path, questions(20))

    async def test(server: Server) -> None:
        small, shards = {"batch": {"max_requests": 3}}, {"prompts_per_shard": 5}
        recipe = mixed(tmp_path, server, budget={"requests": 12}, teacher=small, dataset=shards)
        with pytest.raises(BudgetSpent, match="12 of 12 requests used"):
            await run_in_process(recipe)
        await asyncio.sleep(0.3)  # the log is complete a fifth of a second later
        assert len(logged(tmp_path)) == 12
        summary = await run_in_process(recipe.model_copy(update={"budget": Budget(requests=100)}))
        assert (summary.records, summary.failed) == (20, 0)

    inside, outside = split(run(tmp_path, test, faults={"expired": 0.4}))
    assert inside.total() + outside.total() == 20


@pytest.mark.usefixtures("quick")
def test_an_answer_judged_later_has_the_price_of_its_lane(tmp_path: Path) -> None:
    """Its judge gave no verdict at first; twice, so that it is known over several retries."""
    write_source(tmp_path, questions(20))
    modes = Counter[str]()

    async def test(server: Server) -> None:
        recipe = mixed(tmp_path, server)
        nonsense = {"kind": "status", "status": 200, "body": '{"choices": [{"message": {"content": "Four!"}}]}'}
        mute = {"name": "j", "api": "simulator", "role": "judge", "simulator": {"faults": [nonsense]}}
        check = {"judge": {"teacher": "j", "template": "Score it.\n", "accept_if": ">= 1"}}
        document = recipe.model_dump(exclude_none=True) | {"checks": [check]}
        first, second = [
            Recipe.model_validate(document | {"teachers": [*document["teachers"], judge]})
            for judge in (mute, mute | {"simulator": {}})
        ]
        assert (await run_in_process(first)).failed_by_kind == {"unchecked": 20}
        assert (await run_in_process(first, retry=["unchecked"])).failed_by_kind == {"unchecked": 20}
        summary = await run_in_process(second, retry=["unchecked"])
        assert (summary.records, summary.failed) == (20, 0)
        modes.update(modes_of(second))
        assert summary.usd == pytest.approx(sum(row["cost_usd"] for row in records(second)))

    inside, outside = split(run(tmp_path, test, faults={"expired": 0.5}))
    assert modes == Counter(online=len(outside), batch=len(inside))
    assert len(modes) == 2


@pytest.mark.usefixtures("quick")
def test_a_projection_prices_requests_by_their_lane(tmp_path: Path) -> None:
    """The rest is expected to go online in the same proportion as before."""
    write_source(tmp_path, questions(40))

    async def test(server: Server) -> None:
        recipe = mixed(tmp_path, server)
        await run_in_process(recipe, limit=20)
        shown = await asyncio.to_thread(preview, recipe)
        assert shown.projection is not None
        assert shown.projection.usd is not None
        assert shown.projection.usd.likely == pytest.approx(sum(row["cost_usd"] for row in records(recipe)))
        assert " if batches answer everything" in render(shown)
        assert len(modes_of(recipe)) == 2
        assert shown.projection.seconds is None

    run(tmp_path, test, faults={"expired": 0.5})
