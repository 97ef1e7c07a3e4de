"""A dataset takes another recipe until something was paid for, or may have been."""

import gzip
import re
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from builders import FIRST, answer, index, open_chunk, questions, recipe_of, sealed, write_source
from harness import run_in_process
from s3_server import S3Server

from stillhouse.gen.dataset.binding import bind, read_binding
from stillhouse.gen.dataset.layout import RUN_KEY, open_dataset
from stillhouse.gen.dataset.run_lock import read_holder
from stillhouse.gen.errors import DatasetError, SourceError, StillhouseError
from stillhouse.gen.journal.begun import why_begun
from stillhouse.gen.journal.frames import Kind
from stillhouse.gen.journal.journals import journal_root
from stillhouse.gen.journal.shipping import ShippedJournal
from stillhouse.gen.store.lock import Holder
from stillhouse.gen.teachers.outcome import Ambiguous, NoConnection
from stillhouse.gen.views.preview import preview
from stillhouse.gen.worker.open_chunk import OpenChunk
from stillhouse.schemas.recipe import Recipe

Act = Callable[[OpenChunk], None]


def rebind(recipe: Recipe) -> Recipe:
    """Bind the dataset as a run does."""
    store = open_dataset(recipe)
    return bind(store, recipe, begun=partial(why_begun, store, recipe.run, last=read_holder(store)))


def stored(recipe: Recipe) -> set[str]:
    """The keys of the dataset, less who ran last."""
    return {stat.key for stat in open_dataset(recipe).list()} - {RUN_KEY}


def sent(held: OpenChunk) -> None:
    """A request whose outcome nobody saw."""
    held.sent(0, at=1.0)


def refused(held: OpenChunk) -> None:
    """No connection, then refusals."""
    held.sent(0, at=1.0)
    held.unanswered(0, Kind.NOT_SENT, NoConnection("refused"), at=1.0)
    for number, status in enumerate((404, 429, 500, 503)):
        answer(held, number, b"{}", status=status, at=2.0 + number)


def lost(held: OpenChunk) -> None:
    """A cut connection."""
    held.sent(0, at=1.0)
    held.unanswered(0, Kind.LOST, Ambiguous("cut"), at=1.0)


def answered(status: int) -> Act:
    """A reply with this status, after others were refused."""

    def act(held: OpenChunk) -> None:
        refused(held)
        answer(held, 5, b"{}", status=status, at=9.0)

    return act


def test_a_plan_without_requests_can_be_replaced(tmp_path: Path) -> None:
    """With its index; `plan` shows what the run then does; the next plan is the new recipe's."""
    write_source(tmp_path, questions(30))
    index(recipe_of(tmp_path))
    other = recipe_of(tmp_path, ask={"temperature": 0.5, "samples": 2}, source={"keep": ["id"]})
    assert preview(other).to_ask == 60
    rebind(other)
    assert stored(other) == {"_stillhouse/recipe.yaml"}
    bound = read_binding(open_dataset(other))
    assert bound is not None
    assert (bound.identity, bound.samples, bound.first_samples) == (other.identity(), 2, 2)
    assert index(other, limit=7) is not None


@pytest.mark.parametrize("journal", [None, refused], ids=["none", "refused"])
def test_lowering_samples_is_allowed_before_any_request(tmp_path: Path, journal: Act | None) -> None:
    """They may only grow once something was answered."""
    write_source(tmp_path, questions(10))
    recipe = recipe_of(tmp_path, ask={"samples": 3})
    index(recipe)
    if journal is not None:
        held = open_chunk(recipe)
        journal(held)
        held.journal.close()
    fewer = recipe_of(tmp_path)
    rebind(fewer)
    assert stored(fewer) == {"_stillhouse/recipe.yaml"}


@pytest.mark.parametrize("act", [sent, lost, answered(200), answered(504)], ids=["sent", "lost", "200", "504"])
def test_a_dataset_with_possible_payments_keeps_its_recipe(tmp_path: Path, act: Act) -> None:
    """The refusal names the field, why, and the way out; nothing is removed."""
    write_source(tmp_path, questions(10))
    recipe = recipe_of(tmp_path)
    index(recipe)
    held = open_chunk(recipe)
    act(held)
    held.journal.close()
    before = stored(recipe)
    other = recipe_of(tmp_path, ask={"temperature": 0.5})
    for attempt in (rebind, preview):
        with pytest.raises(DatasetError, match=r"journal holds answers.*differ in ask\.temperature\. Use another data"):
            attempt(other)
    assert stored(recipe) == before
    rebind(recipe)


def test_a_journal_with_a_live_writer_keeps_its_recipe(tmp_path: Path) -> None:
    """What it is about to receive is paid for."""
    write_source(tmp_path, questions(10))
    index(recipe_of(tmp_path))
    held = open_chunk(recipe_of(tmp_path))
    with pytest.raises(DatasetError, match="its journal holds"):
        rebind(recipe_of(tmp_path, ask={"temperature": 0.5}))
    held.journal.close()
    rebind(recipe_of(tmp_path, ask={"temperature": 0.5}))


def test_a_shard_keeps_its_recipe(tmp_path: Path) -> None:
    """Whatever it contains."""
    write_source(tmp_path, questions(1))
    recipe = recipe_of(tmp_path)
    index(recipe)
    held = open_chunk(recipe)
    answer(held, 0, b"{}", status=404)
    sealed(recipe, held)
    held.journal.remove()
    with pytest.raises(DatasetError, match=r"and it holds shards; they differ in ask\.temperature"):
        rebind(recipe_of(tmp_path, ask={"temperature": 0.5}))


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"ask": {"temperature": 0.5}}, "teachers.t.ask.temperature"), ({"extra": {"a": {"b": 1}}}, "teachers.t.extra.a")],
)
def test_a_change_of_one_teacher_is_named(tmp_path: Path, changed: dict[str, Any], field: str) -> None:
    """Down to its field."""
    write_source(tmp_path, questions(1))
    given = {"name": "t", "base_url": "http://t/v1", "model": "m", "terms": {"training_use": "permitted"}}
    recipe = recipe_of(tmp_path, teachers=[given])
    index(recipe)
    held = open_chunk(recipe)
    answer(held, 0, b"{}", status=404)
    sealed(recipe, held)
    held.journal.remove()
    with pytest.raises(DatasetError, match=rf"they differ in {re.escape(field)}[.\w]*\. Use another"):
        rebind(recipe_of(tmp_path, teachers=[given | changed]))
    with pytest.raises(DatasetError, match=r"they differ in teachers\. Use another"):
        rebind(recipe_of(tmp_path, teachers=[given | {"name": "other"}]))


@pytest.mark.parametrize(("host", "free"), [("another-host", False), (socket.gethostname(), True)])
def test_a_run_on_another_host_keeps_its_recipe(tmp_path: Path, host: str, free: bool) -> None:
    """Its disk may hold a journal; this host's own is looked at."""
    write_source(tmp_path, questions(1))
    index(recipe_of(tmp_path))
    store, other = open_dataset(recipe_of(tmp_path)), recipe_of(tmp_path, ask={"temperature": 0.5})
    store.put(RUN_KEY, orjson.dumps(Holder(run="r", host=host, pid=1, ended=True).model_dump()))
    if free:
        rebind(other)
        return
    with pytest.raises(DatasetError, match="last run on the host another-host"):
        rebind(other)


@pytest.mark.parametrize(("act", "free"), [(answered(200), False), (refused, True)], ids=["answered", "refused"])
@pytest.mark.parametrize("where", ["shipped", "node"])
def test_on_s3_both_shipped_and_local_journals_count(
    tmp_path: Path, s3: S3Server, where: str, act: Act, free: bool
) -> None:
    """What an unpaid journal on a node holds is never taken for the new recipe's."""
    write_source(tmp_path, questions(10))
    dataset = {"path": "s3://lake/out", "endpoint_url": s3.endpoint_url}
    changes: dict[str, Any] = {"dataset": dataset, "run": {"journal_dir": str(tmp_path / "node")}}
    recipe = recipe_of(tmp_path, **changes)
    index(recipe)
    held, store = open_chunk(recipe), open_dataset(recipe)
    act(held)
    if where == "shipped":
        ShippedJournal(store, FIRST, held.journal).ship()
        held.journal.remove()
    else:
        held.journal.close()
    other = recipe_of(tmp_path, ask={"temperature": 0.5}, **changes)
    if not free:
        with pytest.raises(DatasetError, match="its journal holds answers"):
            rebind(other)
        return
    rebind(other)
    assert stored(other) == {"_stillhouse/recipe.yaml"}
    now = journal_root(store, other.run)
    assert now != held.journal.path.parent.parent
    assert not now.exists()


async def test_a_run_with_only_refusals_can_be_corrected_in_place(tmp_path: Path) -> None:
    """The first hour: a wrong model, then the right one with another template."""
    write_source(tmp_path, questions(30))
    wrong = {"name": "sim", "api": "simulator", "model": "wrong"}
    wrong["simulator"] = {"faults": [{"kind": "status", "status": 404}]}  # type: ignore[assignment]
    with pytest.raises(StillhouseError, match=r"check `teachers\.sim\.base_url`.* and `model`, then run again"):
        await run_in_process(recipe_of(tmp_path, teachers=[wrong]))
    right = recipe_of(tmp_path, ask={"template": "{{ question }}!"})
    summary = await run_in_process(right)
    assert (summary.state, summary.records, summary.failed) == ("done", 30, 0)


async def test_a_source_corrected_before_the_first_request_is_planned_again(tmp_path: Path) -> None:
    """Its rows were edited, and a file went; once a row is answered, a changed file is refused."""
    write_source(tmp_path, questions(30))
    away = write_source(tmp_path, questions(5, start=90), name="b.jsonl")
    recipe = recipe_of(tmp_path)
    index(recipe)
    away.unlink()
    write_source(tmp_path, questions(20, start=50))
    summary = await run_in_process(recipe)
    assert (summary.state, summary.prompts, summary.records) == ("done", 20, 20)
    write_source(tmp_path, questions(20, start=70))
    with pytest.raises(SourceError, match="changed after it was planned"):
        await run_in_process(recipe)


async def test_a_damaged_source_that_ended_a_run_before_the_first_request_can_be_written_again(tmp_path: Path) -> None:
    """Its rest could not be indexed. In between, `plan` counts what a run would ask."""
    write_source(tmp_path, questions(3000))
    plain = tmp_path / "source" / "a.jsonl"
    whole = gzip.compress(plain.read_bytes())
    plain.unlink()
    (tmp_path / "source" / "a.jsonl.gz").write_bytes(whole[: len(whole) * 4 // 5])
    recipe = recipe_of(tmp_path, dataset={"prompts_per_shard": 1000})
    with pytest.raises(SourceError, match=r"a\.jsonl\.gz can't be read: .* write it again"):
        await run_in_process(recipe)
    (tmp_path / "source" / "a.jsonl.gz").write_bytes(gzip.compress(b"\n".join(map(orjson.dumps, questions(40)))))
    assert preview(recipe).to_ask == 40
    summary = await run_in_process(recipe)
    assert (summary.state, summary.prompts, summary.records) == ("done", 40, 40)
