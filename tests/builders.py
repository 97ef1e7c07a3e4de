"""Makes the parts that tests of the durable core start from: a recipe, its source, an open chunk, replies."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq

from stillhouse.cluster.progress.stats import Closed, QueueStats
from stillhouse.gen.dataset.binding import bind
from stillhouse.gen.dataset.chunk import ChunkReader
from stillhouse.gen.dataset.generations import read_generations
from stillhouse.gen.dataset.index import PartInfo, read_asked
from stillhouse.gen.dataset.indexer import Indexer
from stillhouse.gen.dataset.layout import ChunkId, open_dataset
from stillhouse.gen.dataset.plans import SourcePlan, store_plan
from stillhouse.gen.dataset.shard_meta import ShardCounts, ShardMeta
from stillhouse.gen.dataset.source_planning import next_plan
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.frames import Frame
from stillhouse.gen.journal.journals import journal_root, journals_at
from stillhouse.gen.store.base import Store
from stillhouse.gen.teachers.assigner import Assigner
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.open_chunk import OpenChunk
from stillhouse.gen.worker.sealing import Sealer
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.version import META_KEY

FIRST = ChunkId(0, 0)

SIMULATED = {"name": "sim", "api": "simulator"}


def recipe_of(root: Path, **changes: Any) -> Recipe:
    """A recipe over `root/source`, into `root/out`; `changes` replace or add whole sections or their fields."""
    document: dict[str, Any] = {
        "name": "test",
        "source": {"path": str(root / "source"), "prompt": "question", "id": "id"},
        "ask": {},
        "teachers": [SIMULATED],
        "dataset": {"path": str(root / "out"), "prompts_per_shard": 10},
        "run": {},
    }
    for section, value in changes.items():
        document[section] = document.get(section, {}) | value if isinstance(value, dict) else value
    return Recipe.model_validate(document)


def questions(count: int, *, start: int = 0) -> list[dict[str, Any]]:
    """This many different rows."""
    return [{"id": f"q{n}", "question": f"what is {n} + 1?"} for n in range(start, start + count)]


def write_source(root: Path, rows: Sequence[Any], *, name: str = "a.jsonl") -> Path:
    """A JSONL file in `root/source`; a row that is text is written as it is."""
    path = root / "source" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def index(recipe: Recipe, *, limit: int | None = None) -> tuple[SourcePlan, list[PartInfo]] | None:
    """Plan and index the next generation; None if there is nothing new."""
    store = open_dataset(recipe)
    bind(store, recipe)
    generations = read_generations(store)
    plan = next_plan(recipe, generations, limit=limit)
    if plan is None:
        return None
    store_plan(store, plan)
    indexer = Indexer(store, recipe, plan)
    for earlier in generations:
        for number in range(len(earlier.parts)):
            indexer.remember([read_asked(store, earlier.plan.generation, number)])
    return plan, list(indexer.parts([]))


def teachers_of(recipe: Recipe) -> Assigner:
    """The recipe's teachers; no server is behind them."""
    teachers = enumerate(recipe.teachers)
    return Assigner(
        [Interpreter(teacher, recipe.ask, place=place) for place, teacher in teachers],
        is_chain=recipe.route == "fallback",
    )


def open_chunk(recipe: Recipe, chunk: ChunkId = FIRST, *, worker: str = "w0") -> OpenChunk:
    """An indexed chunk with a new journal, as a worker opens it."""
    store = open_dataset(recipe)
    read = ChunkReader(store, recipe).read(chunk)
    journal = JournalFile.create(journal_root(store, recipe.run) / str(chunk) / f"{worker}.journal")
    return OpenChunk(read, journal, samples=read.samples, teacher_of=teachers_of(recipe))


def left_by_others(store: Store, held: OpenChunk) -> Iterable[Frame]:
    """What earlier owners left of the first chunk, for its owner to recover."""
    return journals_at(store, held.journal.path.parent.parent).recovered(FIRST, mine=held.journal.path)


def waiting(held: OpenChunk) -> list[int]:
    """The samples that still have to be asked, whether or not they are needed."""
    return [ordinal for ordinal in range(len(held.state)) if not held.state.is_settled(ordinal)]


def body_of(text: str | None = "an answer", *, finish: str = "stop", model: str = "simulator", **message: Any) -> bytes:
    """A completion as it comes over the wire."""
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "model": model,
            "choices": [{"finish_reason": finish, "message": {"role": "assistant", "content": text} | message}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 7},
        }
    ).encode()


def answer(held: OpenChunk, ordinal: int, body: bytes, *, status: int = 200, at: float = 1000.0) -> None:
    """Ask a sample, and answer it with this text."""
    held.sent(ordinal, at=at)
    reply = Reply(status, {}, body)
    held.answered(held.received(ordinal, reply, at=at, latency_s=0.5, endpoint="127.0.0.1:9"))


def chunk_of(tmp_path: Path, rows: list[Any], **changes: Any) -> tuple[Recipe, OpenChunk]:
    """An open chunk of these rows."""
    write_source(tmp_path, rows)
    recipe = recipe_of(tmp_path, **changes)
    index(recipe)
    return recipe, open_chunk(recipe)


def sealed(recipe: Recipe, held: OpenChunk) -> tuple[ShardMeta, dict[str, list[dict[str, Any]]]]:
    """What a sealing stored: the shard's metadata, and the rows of each file."""
    counts = Sealer(open_dataset(recipe), recipe, held).seal()
    meta, files = stored(recipe)
    assert counts == meta.counts
    return meta, files


def stored(recipe: Recipe) -> tuple[ShardMeta, dict[str, list[dict[str, Any]]]]:
    """What is stored of the first chunk."""
    root = Path(recipe.dataset.path)
    data = root / FIRST.data_key
    meta = ShardMeta.model_validate(orjson.loads(pq.read_metadata(data).metadata[META_KEY.encode()]))
    files = {"data": pq.read_table(data, partitioning=None).to_pylist()}
    for kind, side in meta.side.items():
        path = root / side.key
        assert hashlib.sha256(path.read_bytes()).hexdigest() == side.sha256
        assert side.key.endswith(f"-{meta.seal}.parquet")
        files[kind] = pq.read_table(path, partitioning=None).to_pylist()
        assert len(files[kind]) == side.rows
    return meta, files


def queue_stats(**changes: Any) -> QueueStats:
    """A queue of 1,000 prompts with nothing done, except for the changes."""
    nothing = dict.fromkeys(QueueStats.model_fields, 0)
    rows: dict[str, Any] = {"planned": True, "again": False, "rows": 1000, "asks": 1000, "prompts_left": 1000}
    rows |= {"samples": 1000, "samples_left": 1000, "all_sealed": False, "last": True}
    empty: dict[str, Any] = {"counts": ShardCounts(), "teachers": {}, "last_trouble": "", "error": None}
    empty |= {"notes": [], "closed": Closed()}
    empty |= {"held_up": {}, "budget": None, "parked_batches": {}}
    return QueueStats.model_validate(nothing | rows | empty | {"finished": False} | changes)
