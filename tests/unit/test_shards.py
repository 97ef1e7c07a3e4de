"""Sealing: the data shard is the commit and names its side files; a sealer that loses the race leaves nothing."""

import dataclasses
import hashlib
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
from builders import (
    FIRST,
    answer,
    body_of,
    chunk_of,
    index,
    left_by_others,
    open_chunk,
    questions,
    recipe_of,
    sealed,
    stored,
    write_source,
)

from stillhouse.gen.dataset.layout import ChunkId, open_dataset
from stillhouse.gen.dataset.shard_meta import ShardCounts, read_meta
from stillhouse.gen.journal.journals import journals_at
from stillhouse.gen.worker.parquet_writer import ROW_GROUP_BYTES
from stillhouse.gen.worker.sealing import Sealer
from stillhouse.schemas.arrow import RECORD


def test_metadata_describes_the_shard(tmp_path: Path) -> None:
    """Seal, chunk, identity, the teachers' terms, the side files; and no endpoint or key."""
    teacher = {
        "name": "real",
        "base_url": "http://127.0.0.1:9/v1",
        "model": "m",
        "terms": {"training_use": "permitted", "license": "MIT", "seen_on": "2026-11-22"},
    }
    recipe, held = chunk_of(tmp_path, questions(1), teachers=[teacher])
    answer(held, 0, body_of())
    meta, _ = sealed(recipe, held)
    assert (meta.generation, meta.chunk, meta.identity) == (0, 0, recipe.identity())
    assert [(each["name"], each["model"], each["terms"]["license"]) for each in meta.teachers] == [("real", "m", "MIT")]
    assert meta.teachers[0]["terms"]["seen_on"] == "2026-11-22"
    assert list(meta.side) == ["raw"]


def test_raw_replies_are_dropped_if_unwanted(tmp_path: Path) -> None:
    """`keep_raw: false`."""
    recipe, held = chunk_of(tmp_path, questions(1), dataset={"keep_raw": False})
    answer(held, 0, body_of())
    meta, files = sealed(recipe, held)
    assert meta.side == {}
    assert len(files["data"]) == 1
    assert not (tmp_path / "out" / "_stillhouse" / "raw").exists()


def test_a_chunk_without_prompts_is_an_empty_shard(tmp_path: Path) -> None:
    """Its metadata and schema are those of any other."""
    write_source(tmp_path, [*questions(1), "{no prompt"])
    recipe = recipe_of(tmp_path, dataset={"prompts_per_shard": 1})
    index(recipe)
    held = open_chunk(recipe, ChunkId(0, 1))
    assert held.left == 0
    store = open_dataset(recipe)
    assert Sealer(store, recipe, held).seal() == ShardCounts()
    assert list(read_meta(store, ChunkId(0, 1)).side) == ["failed"]
    shard = pq.read_table(tmp_path / "out" / ChunkId(0, 1).data_key)
    assert (len(shard), shard.schema.names) == (0, RECORD.names)


def test_types_are_those_of_the_schema(tmp_path: Path) -> None:
    """On disk, nullability included."""
    recipe, held = chunk_of(tmp_path, questions(1))
    answer(held, 0, body_of())
    sealed(recipe, held)
    assert pq.read_schema(tmp_path / "out" / FIRST.data_key).remove_metadata().equals(RECORD)


def test_sealing_leaves_no_scratch_files(tmp_path: Path) -> None:
    """The files that it wrote aside are gone, and the journal is still there: its owner removes it."""
    recipe, held = chunk_of(tmp_path, questions(1))
    answer(held, 0, body_of(finish="length"))
    sealed(recipe, held)
    assert list(open_dataset(recipe).scratch().iterdir()) == []
    assert held.journal.path.exists()
    held.journal.remove()
    journals_at(open_dataset(recipe), held.journal.path.parent.parent).forget(FIRST)
    assert not held.journal.path.parent.exists()


def test_one_of_two_sealers_of_a_chunk_wins(tmp_path: Path) -> None:
    """At the same time, many times: one shard with its side files, and none of the other's."""
    recipe, held = chunk_of(tmp_path, questions(3))
    for ordinal in range(3):
        answer(held, ordinal, body_of(finish="length" if ordinal else "stop"))
    store = open_dataset(recipe)
    start = threading.Barrier(4)
    won: list[ShardCounts | None] = []

    def seal() -> None:
        start.wait()
        won.append(Sealer(store, recipe, held).seal())

    threads = [threading.Thread(target=seal) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts is not None for counts in won) == [False, False, False, True]
    meta, _ = stored(recipe)
    assert [stat.key for stat in store.list("rejected/")] == [meta.side["rejected"].key]
    assert [stat.key for stat in store.list("_stillhouse/raw/")] == [meta.side["raw"].key]
    assert list(store.scratch().iterdir()) == []


def test_a_later_sealer_removes_a_dead_ones_files(tmp_path: Path) -> None:
    """Side files without a shard, of this chunk and no other."""
    recipe, held = chunk_of(tmp_path, questions(1))
    store = open_dataset(recipe)
    orphans = [FIRST.side_key(kind, "dead") for kind in ("rejected", "failed", "raw")]
    others = [dataclasses.replace(FIRST, number=10).side_key("raw", "dead")]
    for key in orphans + others:
        store.put(key, b"orphan")
    answer(held, 0, body_of(finish="length"))
    held.journal.close()
    again = open_chunk(recipe, worker="w1")
    again.recover(left_by_others(store, again), died=True)
    meta, _ = sealed(recipe, again)
    ours = {side.key for side in meta.side.values()}
    left = {stat.key for prefix in ("rejected/", "failed/", "_stillhouse/raw/") for stat in store.list(prefix)}
    assert left == ours | set(others)


def test_a_failed_write_counts_as_away_and_keeps_the_journal(tmp_path: Path) -> None:
    """The scratch folder can't be written: nothing is sealed, all can be sealed again."""
    recipe, held = chunk_of(tmp_path, questions(50), dataset={"prompts_per_shard": 50})
    for ordinal in range(50):
        answer(held, ordinal, body_of(hashlib.sha256(b"%d" % ordinal).hexdigest() * 200))
    held.journal.close()
    code = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from builders import left_by_others, open_chunk, recipe_of
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import StoreAway
from stillhouse.gen.worker.sealing import Sealer
recipe = recipe_of(Path(sys.argv[1]), dataset={"prompts_per_shard": 50})
store = open_dataset(recipe)
held = open_chunk(recipe, worker="w1")
held.recover(left_by_others(store, held), died=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    Sealer(store, recipe, held).seal()
except StoreAway as error:
    print(error)
assert not list(store.scratch().iterdir())
"""
    tests = str(Path(__file__).parents[1])
    for limit in (0, 100, 1000, 4000):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), tests, str(limit)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "can't be written" in done.stdout or "could not write" in done.stdout
        assert not (tmp_path / "out" / FIRST.data_key).exists()
        (tmp_path / "out" / "_stillhouse" / "journal" / str(FIRST) / "w1.journal").unlink()
    again = open_chunk(recipe, worker="w2")
    store = open_dataset(recipe)
    again.recover(left_by_others(store, again), died=False)
    _, files = sealed(recipe, again)
    assert len(files["data"]) == 50


def test_row_groups_are_bounded(tmp_path: Path) -> None:
    """By the bytes of their texts, so that what is held does not grow with the chunk."""
    text = "x" * (ROW_GROUP_BYTES // 8)
    recipe, held = chunk_of(tmp_path, questions(20), dataset={"keep_raw": False, "prompts_per_shard": 20})
    for ordinal in range(20):
        answer(held, ordinal, body_of(f"{ordinal}{text}"))
    sealed(recipe, held)
    metadata = pq.read_metadata(tmp_path / "out" / FIRST.data_key)
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [8, 8, 4]


def test_counts_add_up() -> None:
    """By reason and kind; a cost is unknown only if no part of it is known."""
    one = ShardCounts(records=1, rejected={"length": 1}, failed={"poison": 2}, maybe_billed=3, input_tokens=4)
    two = ShardCounts(records=5, rejected={"length": 1, "empty": 1}, output_tokens=6, usd=0.5)
    assert one + two == ShardCounts(
        records=6,
        rejected={"length": 2, "empty": 1},
        failed={"poison": 2},
        maybe_billed=3,
        input_tokens=4,
        output_tokens=6,
        usd=0.5,
    )
    assert (one + one).usd is None
