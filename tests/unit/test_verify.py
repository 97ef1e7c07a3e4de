"""A sound dataset is found sound, each kind of damage is found by its kind, and a repair loses nothing."""

import asyncio
import errno
import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import run_in_process
from s3_server import S3Server

from stillhouse.gen import simulator
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.run_lock import run_lock
from stillhouse.gen.errors import DatasetError, UsageError
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.frames import Frame, Kind
from stillhouse.gen.store import open_store
from stillhouse.gen.store.local import LocalStore
from stillhouse.gen.views.verify import Report, render, verify, verify_and_repair
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings

SAMPLES = 3


def recipe_at(tmp_path: Path, url: str, **dataset: object) -> Recipe:
    """40 rows in chunks of 6 prompts, with duplicates, bad rows and a kept column."""
    prompts = [{"id": f"p{n}", "q": f"What is {n % 37} + 1?", "level": n} for n in range(38)]
    rows = [*map(json.dumps, prompts), "{torn", json.dumps({"id": "empty", "q": "", "level": 1})]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows))
    return Recipe.model_validate(
        {
            "name": "verified",
            "source": {
                "path": str(tmp_path / "prompts.jsonl"),
                "prompt": "q",
                "id": "id",
                "keep": [{"level": "int64"}],
            },
            "ask": {"samples": SAMPLES},
            "teachers": [
                {
                    "name": "t",
                    "base_url": url,
                    "model": "m",
                    "limits": {"in_flight": 32},
                    "price": {"input": 1.0, "output": 2.0},
                    "terms": {"training_use": "permitted"},
                }
            ],
            "dataset": {"path": str(tmp_path / "out"), "prompts_per_shard": 6, **dataset},
        }
    )


@asynccontextmanager
async def teacher(*, refusing: float = 0.0) -> AsyncIterator[str]:
    """A teacher that repeats its answers, and refuses a share of the requests for good."""
    faults = [{"kind": "status", "status": 400, "share": refusing}] if refusing else []
    async with await simulator.serve(SimulatorSettings.model_validate({"distinct": 2, "faults": faults})) as server:
        yield server.url


async def _finished(folder: Path) -> None:
    async with teacher(refusing=0.1) as url:
        summary = await run_in_process(recipe_at(folder, url))
    assert summary.state == "done"
    assert summary.records
    assert summary.rejected
    assert summary.failed


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dataset: shards 0 to 6, with rejected, failed and raw files."""
    folder = tmp_path_factory.mktemp("finished")
    asyncio.run(_finished(folder))
    return folder / "out"


@pytest.fixture
def dataset(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def check(dataset: Path, *, repair: bool = False) -> Report:
    """The dataset's report."""
    store = open_store(str(dataset))
    return verify_and_repair(store) if repair else verify(store)


def kinds(report: Report) -> set[str]:
    """The kinds of what was found and not repaired."""
    return {finding.kind for finding in report.findings if not finding.repaired}


def shard(dataset: Path, number: int) -> Path:
    """A chunk's shard."""
    return dataset / ChunkId(0, number).data_key


def side(dataset: Path, kind: str, number: int) -> Path:
    """A chunk's side file."""
    folder = dataset / "_stillhouse" / "raw" if kind == "raw" else dataset / kind
    (path,) = folder.glob(f"part-000-{number:06d}-*.parquet")
    return path


def flip(path: Path, at: int) -> None:
    """Change one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.unlink()  # scratch files and shards may share an inode
    path.write_bytes(data)


def rewrite(path: Path, rows: int) -> None:
    """The shard's first rows and all its metadata, as another program would write them."""
    table = pq.read_table(path)
    metadata = pq.read_metadata(path).metadata
    pq.write_table(table.slice(0, rows).replace_schema_metadata(metadata), path)


def tree(dataset: Path) -> dict[str, str]:
    """Every file with its hash."""
    files = (path for path in dataset.rglob("*") if path.is_file())
    return {str(path.relative_to(dataset)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def records(dataset: Path) -> dict[str, str]:
    """Every record's id and answer."""
    rows = pq.read_table(dataset / "data", columns=["record_id", "completion"]).to_pylist()
    return {row["record_id"]: row["completion"][0]["content"] for row in rows}


def test_a_finished_dataset_is_sound_and_untouched(dataset: Path) -> None:
    """No finding, true counts, and not a byte of it changes."""
    before = tree(dataset)
    report = check(dataset)
    assert report.ok
    assert report.findings == ()
    assert (report.checked.source_rows, report.checked.shards, report.checked.chunks) == (40, 7, 7)
    samples = 37 * SAMPLES
    assert report.checked.records + report.checked.rejected + report.checked.failed == samples + 1 + 2
    assert tree(dataset) == before
    assert "sound" in render(report)


def delete_shard(dataset: Path) -> None:
    """As by a hand that slipped: its answers are in raw/ still."""
    (dataset / ChunkId(0, 1).data_key).unlink()


def truncate(dataset: Path) -> None:
    """Cut a shard's tail off."""
    path = shard(dataset, 1)
    path.write_bytes(path.read_bytes()[:-100])


def flip_page(dataset: Path) -> None:
    """Flip a bit in a page of a shard."""
    flip(shard(dataset, 2), 200)


def delete_side(dataset: Path) -> None:
    """Delete a rejected file."""
    side(dataset, "rejected", 0).unlink()


def flip_side(dataset: Path) -> None:
    """Change a rejected file."""
    flip(side(dataset, "rejected", 0), 200)


def delete_raw(dataset: Path) -> None:
    """Delete a raw file."""
    side(dataset, "raw", 0).unlink()


def swap(dataset: Path) -> None:
    """Put two shards in each other's place."""
    shard(dataset, 1).rename(dataset / "aside")
    shard(dataset, 2).rename(shard(dataset, 1))
    (dataset / "aside").rename(shard(dataset, 2))


def duplicate(dataset: Path) -> None:
    """Copy a shard to a number of its own."""
    shutil.copy(shard(dataset, 1), shard(dataset, 77))


def drop_rows(dataset: Path) -> None:
    """Rewrite a shard without its last rows."""
    rewrite(shard(dataset, 3), 2)


def other_writer(dataset: Path) -> None:
    """Rewrite a shard without its metadata."""
    path = shard(dataset, 3)
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)


def drop_column(dataset: Path) -> None:
    """Rewrite a shard without a kept column."""
    path = shard(dataset, 3)
    table, metadata = pq.read_table(path), pq.read_metadata(path).metadata
    pq.write_table(table.drop_columns("level").replace_schema_metadata(metadata), path)


def change_ids(dataset: Path) -> None:
    """Give the records of a shard other ids."""
    path = shard(dataset, 3)
    table, metadata = pq.read_table(path), pq.read_metadata(path).metadata
    ids = table["record_id"].to_pylist()
    changed = table.set_column(0, table.schema.field(0), [[text[::-1] for text in ids]])
    pq.write_table(changed.replace_schema_metadata(metadata), path)


def edit_index(dataset: Path) -> None:
    """Take a row out of the index."""
    path = dataset / "_stillhouse" / "index-000-000000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)


def corrupt_index(dataset: Path) -> None:
    """Flip a bit in a page of the index."""
    flip(dataset / "_stillhouse" / "index-000-000000.parquet", 60)


def delete_index(dataset: Path) -> None:
    """Delete the index."""
    (dataset / "_stillhouse" / "index-000-000000.parquet").unlink()


def delete_plan(dataset: Path) -> None:
    """Delete the plan."""
    (dataset / "_stillhouse" / "plan-000.json").unlink()


def corrupt_plan(dataset: Path) -> None:
    """Cut the plan short."""
    path = dataset / "_stillhouse" / "plan-000.json"
    path.write_bytes(path.read_bytes()[:-20])


def corrupt_recipe(dataset: Path) -> None:
    """Overwrite recipe.yaml with something else."""
    (dataset / "_stillhouse" / "recipe.yaml").write_text("{[")


def delete_recipe(dataset: Path) -> None:
    """Delete recipe.yaml."""
    (dataset / "_stillhouse" / "recipe.yaml").unlink()


def other_identity(dataset: Path) -> None:
    """Edit recipe.yaml."""
    path = dataset / "_stillhouse" / "recipe.yaml"
    path.write_text(path.read_text().replace("identity:", "identity:\n  reasoning: inline"))


def foreign(dataset: Path) -> None:
    """Put a file of another's into data/."""
    (dataset / "data" / "extra.parquet").write_bytes(b"PAR1")


def retype_ids(dataset: Path) -> None:
    """Rewrite a shard with numbers for record ids."""
    path = shard(dataset, 3)
    table, metadata = pq.read_table(path), pq.read_metadata(path).metadata
    changed = table.set_column(0, "record_id", pa.array(range(len(table))))
    pq.write_table(changed.replace_schema_metadata(metadata), path)


def corrupt_budget(dataset: Path) -> None:
    """Cut the ledger of the budget off."""
    (dataset / "_stillhouse" / "budget.json").write_bytes(b'{"version": 1, "spent": {')


DAMAGE: list[tuple[Callable[[Path], None], set[str]]] = [
    (truncate, {"unreadable"}),
    (flip_page, {"unreadable"}),
    (delete_side, {"side_file"}),
    (flip_side, {"side_file"}),
    (delete_raw, {"raw_file"}),
    (swap, {"metadata"}),
    (duplicate, {"metadata", "unknown_chunk", "twice"}),
    (drop_rows, {"counts", "samples"}),
    (other_writer, {"metadata"}),
    (drop_column, {"schema"}),
    (retype_ids, {"schema"}),
    (change_ids, {"record_ids"}),
    (edit_index, {"index"}),
    (corrupt_index, {"index"}),
    (delete_index, {"index"}),
    (delete_plan, {"plan"}),
    (corrupt_plan, {"plan"}),
    (corrupt_recipe, {"recipe"}),
    (delete_recipe, {"recipe"}),
    (other_identity, {"identity"}),
    (corrupt_budget, {"budget"}),
    (foreign, {"foreign"}),
    (delete_shard, {"gone", "leftover"}),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGE, ids=[damage.__name__ for damage, _ in DAMAGE])
def test_each_kind_of_damage_is_found(dataset: Path, damage: Callable[[Path], None], expected: set[str]) -> None:
    """And named; verify itself changes nothing."""
    damage(dataset)
    before = tree(dataset)
    report = check(dataset)
    assert not report.ok
    assert expected <= kinds(report) <= expected | {"unfinished"}
    assert tree(dataset) == before


@pytest.mark.parametrize(
    "damage",
    [truncate, delete_shard, flip_page, delete_side, swap, duplicate, drop_rows, other_writer],
    ids=lambda d: d.__name__,
)
async def test_repair_restores_records_without_requests(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """After the repair a run seals the same records from raw/, without a request."""
    async with teacher() as url:
        recipe = recipe_at(tmp_path, url)
        await run_in_process(recipe)
        dataset = tmp_path / "out"
        answers = records(dataset)
        damage(dataset)
        repaired = check(dataset, repair=True)
        assert repaired.ok, render(repaired)
        assert any(finding.repaired for finding in repaired.findings)
        summary = await run_in_process(recipe)
    assert (summary.state, summary.requests) == ("done", 0)
    assert records(dataset) == answers
    assert check(dataset, repair=True).ok
    assert check(dataset).findings == ()


@pytest.mark.parametrize(
    "damage",
    [edit_index, delete_plan, corrupt_recipe, other_identity, delete_raw, drop_column, foreign],
    ids=lambda d: d.__name__,
)
def test_repair_removes_nothing_if_the_fault_may_lie_elsewhere(dataset: Path, damage: Callable[[Path], None]) -> None:
    """With a damaged plan, index or recipe, or with answers that only the shard has, every file stays."""
    damage(dataset)
    before = tree(dataset)
    report = check(dataset, repair=True)
    assert not report.ok
    after = tree(dataset)
    after.pop("_stillhouse/run.json")
    before.pop("_stillhouse/run.json", None)
    assert after == before


async def test_repaired_failures_are_asked_again(tmp_path: Path) -> None:
    """None of them is in raw/; existing answers are kept."""
    async with teacher(refusing=0.1) as url:
        recipe = recipe_at(tmp_path, url)
        failed = (await run_in_process(recipe)).failed
        for number in range(7):
            path = shard(tmp_path / "out", number)
            path.write_bytes(path.read_bytes()[:-100])
        assert check(tmp_path / "out", repair=True).ok
        summary = await run_in_process(recipe)
    assert (summary.state, summary.requests) == ("done", failed)


def test_a_readable_shard_without_raw_answers_stays(dataset: Path) -> None:
    """It lacks rows, but the ones that it has are nowhere else."""
    drop_rows(dataset)
    side(dataset, "raw", 3).unlink()
    assert not check(dataset, repair=True).ok
    assert shard(dataset, 3).exists()


async def test_an_unreadable_shard_without_raw_answers_is_asked_again(tmp_path: Path) -> None:
    """With keep_raw: false there is nothing to lose: its chunk is asked again."""
    async with teacher() as url:
        recipe = recipe_at(tmp_path, url, keep_raw=False)
        await run_in_process(recipe)
        truncate(tmp_path / "out")
        assert check(tmp_path / "out", repair=True).ok
        assert (await run_in_process(recipe)).state == "done"
    assert check(tmp_path / "out", repair=True).ok


async def test_an_unreadable_shard_is_set_aside(tmp_path: Path) -> None:
    """It may be all that is left of paid answers, and someone may yet fix it."""
    async with teacher() as url:
        recipe = recipe_at(tmp_path, url, keep_raw=False)
        await run_in_process(recipe)
        truncate(tmp_path / "out")
        (damaged,) = (finding.key for finding in check(tmp_path / "out").findings if finding.kind == "unreadable")
        before = (tmp_path / "out" / damaged).read_bytes()
        assert check(tmp_path / "out", repair=True).ok
    assert (tmp_path / "out" / "_stillhouse" / "damaged" / Path(damaged).name).read_bytes() == before


def test_one_disk_error_costs_no_shard(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system error is reported, and does not condemn the file."""
    before = records(dataset)
    reads = LocalStore.open
    failing = [ChunkId(0, 1).data_key]

    def open_once(self: LocalStore, key: str) -> Any:
        if key in failing:
            failing.remove(key)
            raise OSError(errno.EIO, "Input/output error")
        return reads(self, key)

    monkeypatch.setattr(LocalStore, "open", open_once)
    report = check(dataset, repair=True)
    assert [finding.kind for finding in report.findings if "Input/output" in finding.message] == ["disk"]
    assert records(dataset) == before


def leftover_journal(dataset: Path) -> Path:
    """A journal of a sealed chunk."""
    journal = JournalFile.create(dataset / "_stillhouse/journal/000-000001/1.journal")
    journal.append(Frame(Kind.SENT, 0, 0.0))
    journal.close()
    return journal.path


def orphan(dataset: Path) -> Path:
    """A side file of a seal that lost."""
    return Path(shutil.copy(side(dataset, "raw", 1), dataset / ChunkId(0, 1).side_key("raw", "0123456789abcdef")))


def scratch(dataset: Path) -> Path:
    """A file that was being written."""
    path = dataset / "_stillhouse" / "tmp" / "000-000001-data.parquet"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"PAR1")
    return path


@pytest.mark.parametrize("leave", [leftover_journal, orphan, scratch], ids=lambda leave: leave.__name__)
def test_leftovers_of_a_crash_are_swept_and_not_reported(dataset: Path, leave: Callable[[Path], Path]) -> None:
    """It is reported but the dataset is sound, and `--repair` removes it and nothing else."""
    before = tree(dataset)
    left = leave(dataset)
    report = check(dataset)
    assert report.ok
    assert kinds(report) == {"leftover"}
    assert check(dataset, repair=True).ok
    assert not left.exists()
    after = tree(dataset)
    assert {key: after[key] for key in before if key != "_stillhouse/run.json"} == {
        key: value for key, value in before.items() if key != "_stillhouse/run.json"
    }
    assert check(dataset).findings == ()


def test_side_files_of_an_unsealed_chunk_stay(dataset: Path) -> None:
    """A crash between the side files and the shard is harmless; they may be all that is left of the answers."""
    shard(dataset, 2).unlink()
    raw = side(dataset, "raw", 2)
    report = check(dataset, repair=True)
    assert report.ok
    assert kinds(report) == {"unfinished", "leftover"}
    assert raw.exists()


async def test_an_unfinished_dataset_is_sound(tmp_path: Path) -> None:
    """A pilot is complete in itself; chunks that are not sealed are mentioned, but are no fault."""
    async with teacher() as url:
        recipe = recipe_at(tmp_path, url)
        await run_in_process(recipe, limit=10)
        assert check(tmp_path / "out").findings == ()
        await run_in_process(recipe)
    report = check(tmp_path / "out")
    assert report.findings == ()
    assert report.checked.generations == 2


def test_repair_refuses_while_a_run_lives(dataset: Path) -> None:
    """And says so; plain verify works during a run."""
    store = open_store(str(dataset))
    with run_lock(store, run="r", waiting=lambda _: None, lost=lambda _: None):
        assert verify(store).ok
        with pytest.raises(UsageError, match="a run is working on it"):
            verify_and_repair(store)


def test_a_missing_dataset_is_refused(tmp_path: Path) -> None:
    """An empty folder is not a sound dataset."""
    with pytest.raises(DatasetError, match="not a Stillhouse dataset"):
        check(tmp_path)


async def test_a_dataset_on_s3_is_repaired_too(tmp_path: Path, s3: S3Server) -> None:
    """Found, rebuilt from raw/ through a shipped journal, and sound again."""
    async with teacher() as url:
        recipe = recipe_at(tmp_path, url, path=f"s3://{s3.bucket}/out", endpoint_url=s3.endpoint_url)
        recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"journal_dir": str(tmp_path / "j")})})
        await run_in_process(recipe)
        store = open_store(recipe.dataset.path, endpoint_url=s3.endpoint_url)
        key = ChunkId(0, 1).data_key
        data = store.get(key)
        assert data is not None
        store.put(key, data[:-100])
        assert kinds(verify(store)) == {"unreadable"}
        assert verify_and_repair(store).ok
        assert (await run_in_process(recipe)).state == "done"
    assert verify_and_repair(store).ok
