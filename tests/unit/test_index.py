"""The index: what a chunk is, the same whoever writes it and however often they are interrupted, and read back."""

import gzip
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import index, questions, recipe_of, write_source
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillhouse.cluster.actors.open_generations import OpenGenerations
from stillhouse.gen.dataset.binding import bind
from stillhouse.gen.dataset.chunk import ChunkReader
from stillhouse.gen.dataset.generations import read_generations
from stillhouse.gen.dataset.index import META, ROW_GROUP_ROWS, PartInfo, read_asked, read_chunk_rows, read_part
from stillhouse.gen.dataset.indexer import Indexer
from stillhouse.gen.dataset.layout import ChunkId, index_key, open_dataset
from stillhouse.gen.dataset.plans import read_plans, store_plan
from stillhouse.gen.dataset.row_fates import ROWS_PER_PROMPT
from stillhouse.gen.dataset.source_planning import next_plan
from stillhouse.gen.errors import DatasetError, SourceError
from stillhouse.schemas.recipe import Recipe


def rows_of(recipe: Recipe, generation: int = 0) -> list[dict[str, Any]]:
    """All rows of a generation's index."""
    store = open_dataset(recipe)
    parts = read_generations(store)[generation].parts
    return [row for number in range(len(parts)) for row in read_part(store, generation, number).to_pylist()]


def texts_of(recipe: Recipe, *, workers: int = 1) -> list[list[str]]:
    """The messages of each chunk of generation 0, read by this many readers in turn."""
    store = open_dataset(recipe)
    readers = [ChunkReader(store, recipe) for _ in range(workers)]
    chunks = sum(len(part.asks) for part in read_generations(store)[0].parts)
    read = [readers[k % workers].read(ChunkId(0, k)) for k in range(chunks)]
    return [[prompt.messages[-1][1] for prompt in chunk.prompts] for chunk in read]


def fates(recipe: Recipe, generation: int = 0) -> list[tuple[int, str, str | None]]:
    """(chunk, fate, prompt id) of each row."""
    return [(row["chunk"], row["fate"], row["prompt_id"]) for row in rows_of(recipe, generation)]


def test_chunks_are_cut_by_prompts_asked(tmp_path: Path) -> None:
    """Duplicates and bad rows fill no chunk; those behind a full chunk are in the next."""
    rows = [*questions(2), *questions(1), "{bad", *questions(1, start=2), *questions(2)]
    write_source(tmp_path, rows)
    recipe = recipe_of(tmp_path, dataset={"prompts_per_shard": 2})
    made = index(recipe)
    assert made is not None
    assert fates(recipe) == [
        (0, "ask", "q0"),
        (0, "ask", "q1"),
        (1, "duplicate", "q0"),
        (1, "bad", None),
        (1, "ask", "q2"),
        (1, "duplicate", "q0"),
        (1, "duplicate", "q1"),
    ]
    assert made[1] == [
        PartInfo(first_chunk=0, asks=(2, 1), samples=(2, 1), rows=7, duplicates=3, bad=1, last=True, ends=(None,)),
    ]


def test_a_duplicate_names_the_row_asked_instead(tmp_path: Path) -> None:
    """By its id, over files; without ids, by the prompt's key."""
    write_source(tmp_path, [{"id": "first", "question": "why?"}])
    write_source(tmp_path, [{"id": "second", "question": "why?"}, {"id": "", "question": "how?"}], name="b.jsonl")
    write_source(tmp_path, [{"id": "third", "question": "how?"}], name="c.jsonl")
    recipe = recipe_of(tmp_path)
    index(recipe)
    assert [(row["file"], row["fate"], row["detail"]) for row in rows_of(recipe)] == [
        (0, "ask", None),
        (1, "duplicate", "first"),
        (1, "ask", None),
        (2, "duplicate", ""),
    ]
    keyed = recipe_of(tmp_path, source={"id": None}, dataset={"path": str(tmp_path / "keyed")})
    index(keyed)
    first, second, _, _ = rows_of(keyed)
    assert second["detail"] == first["prompt_id"] == first["key"].hex()


def test_a_later_generation_drops_what_an_earlier_one_asked(tmp_path: Path) -> None:
    """With a new file next to the old one, only its new prompts are asked."""
    write_source(tmp_path, questions(3))
    recipe = recipe_of(tmp_path)
    index(recipe)
    write_source(tmp_path, [*questions(2, start=2), *questions(1, start=3)], name="b.jsonl")
    index(recipe)
    assert fates(recipe, 1) == [(0, "duplicate", "q2"), (0, "ask", "q3"), (0, "duplicate", "q3")]
    assert index(recipe) is None


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        (questions(1) * 4, (4, 3, 0)),
        (["{", "[]", "1", *questions(1)], (4, 0, 3)),
        ([{"id": "a", "question": ""}, {"question": "who?"}, {"id": "b"}, *questions(1)], (4, 0, 3)),
    ],
    ids=["only duplicates", "hardly any JSON", "hardly any prompts"],
)
def test_a_nearly_empty_source_is_one_chunk(tmp_path: Path, rows: list[Any], counts: tuple[int, int, int]) -> None:
    """Whatever it lacks, it is one chunk at least, which holds every row."""
    write_source(tmp_path, rows)
    recipe = recipe_of(tmp_path)
    made = index(recipe)
    assert made is not None
    (part,) = made[1]
    assert (part.rows, part.duplicates, part.bad) == counts
    assert part.last
    assert part.ends == (None,)
    store = open_dataset(recipe)
    chunk = ChunkReader(store, recipe).read(ChunkId(0, 0))
    assert (len(chunk.prompts) + counts[1] + counts[2], len(chunk.duplicates), len(chunk.bad)) == counts


def test_a_chunk_of_only_duplicates_is_closed(tmp_path: Path) -> None:
    """A chunk holds at most ROWS_PER_PROMPT times its prompts, so that no chunk grows without bound."""
    write_source(tmp_path, questions(1) * (3 * ROWS_PER_PROMPT))
    recipe = recipe_of(tmp_path, dataset={"prompts_per_shard": 2})
    made = index(recipe)
    assert made is not None
    assert made[1][0].asks == (1, 0)


def source_rows(count: int) -> list[Any]:
    """Rows of all fates."""
    return [
        "{" if n % 7 == 3 else {"id": f"q{n}", "question": f"what is {n % (count // 2 + 1)}?"} for n in range(count)
    ]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    files=st.lists(st.integers(0, 700), min_size=1, max_size=4).filter(any),
    per_shard=st.integers(1, 3),
    cuts=st.lists(st.integers(0, 10), max_size=4),
    limits=st.lists(st.integers(1, 400), max_size=3),
)
def test_an_interrupted_index_resumes_to_the_same_parts(
    tmp_path_factory: pytest.TempPathFactory, files: list[int], per_shard: int, cuts: list[int], limits: list[int]
) -> None:
    """After any number of parts, with any limits before it: every row is in the index once, in order."""
    tmp_path = tmp_path_factory.mktemp("index")
    for number, count in enumerate(files):
        write_source(tmp_path, source_rows(count), name=f"{number}.jsonl")
    whole = recipe_of(tmp_path, dataset={"prompts_per_shard": per_shard})
    torn = recipe_of(tmp_path, dataset={"prompts_per_shard": per_shard, "path": str(tmp_path / "torn")})
    generations = 0
    for limit in [*limits, None]:
        made = index(whole, limit=limit)
        if made is None:
            break
        generations += 1
        plan, parts = made
        assert index_in_pieces(torn, limit, cuts) == parts
        assert plan.limit is None or sum(part.rows for part in parts) <= plan.limit
        assert all(len(part.asks) == plan.chunks_per_part for part in parts[:-1])
        assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert index(whole) is None
    for generation in range(generations):
        assert rows_of(whole, generation) == rows_of(torn, generation)
    names = {file.url: count for file, count in zip(read_plans(open_dataset(whole))[0].files, files, strict=False)}
    seen = [place for g in range(generations) for place in places(whole, g)]
    assert sorted(seen) == sorted((url, row) for url, count in names.items() for row in range(count))


def places(recipe: Recipe, generation: int) -> list[tuple[str, int]]:
    """(file, row) of each row of a generation's index."""
    plan = read_plans(open_dataset(recipe))[generation]
    return [(plan.files[row["file"]].url, row["row"]) for row in rows_of(recipe, generation)]


def index_in_pieces(recipe: Recipe, limit: int | None, cuts: list[int]) -> list[PartInfo]:
    """Write the next generation's parts with one process after another, each of which dies after this many parts."""
    store = open_dataset(recipe)
    bind(store, recipe)
    earlier = read_plans(store)
    plan = next_plan(recipe, read_generations(store), limit=limit)
    assert plan is not None
    store_plan(store, plan)
    for cut in [*cuts, None]:
        indexer = Indexer(store, recipe, plan)
        for each in [*earlier, plan]:
            for number in range(len(read_generations(store)[each.generation].parts)):
                indexer.remember([read_asked(store, each.generation, number)])
        list(itertools.islice(indexer.parts(list(read_generations(store)[plan.generation].parts)), cut))
    return list(read_generations(store)[plan.generation].parts)


def test_two_writers_of_one_part_agree(tmp_path: Path) -> None:
    """A process that hung writes an existing part again: the same one is accepted, one of another source is refused."""
    write_source(tmp_path, questions(30))
    recipe = recipe_of(tmp_path, dataset={"prompts_per_shard": 2})
    made = index(recipe)
    assert made is not None
    plan, parts = made
    store = open_dataset(recipe)
    assert list(Indexer(store, recipe, plan).parts([])) == parts
    shorter = plan.model_copy(update={"limit": 3})
    with pytest.raises(DatasetError, match="another run wrote a different index"):
        list(Indexer(store, recipe, shorter).parts([]))


@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize("known", [0, 1])
def test_parts_that_a_dying_writer_stored_meanwhile_are_the_same(tmp_path: Path, known: int, remembers: bool) -> None:
    """A queue that knew this many parts when it began writes the others as if they were not there."""
    write_source(tmp_path, [*questions(30), *questions(4)])
    recipe = recipe_of(tmp_path, dataset={"prompts_per_shard": 2})
    store = open_dataset(recipe)
    bind(store, recipe)
    planned = next_plan(recipe, [])
    assert planned is not None
    plan = planned.model_copy(update={"chunks_per_part": 4})
    store_plan(store, plan)
    dying = Indexer(store, recipe, plan).parts([])
    parts = list(itertools.islice(dying, known))
    queue = OpenGenerations(store, recipe, remembers=remembers)
    dataset = queue.read()
    (opened,) = queue.begin(dataset, dataset)
    assert opened.parts == parts
    parts += dying
    assert list(queue.missing_parts(opened)) == parts[known:]


@pytest.mark.parametrize("damage", [b"", b"PAR1 and no more", None], ids=["empty", "no parquet", "cut"])
def test_a_damaged_part_is_named(tmp_path: Path, damage: bytes | None) -> None:
    """Never a silent restart from zero."""
    write_source(tmp_path, questions(3))
    recipe = recipe_of(tmp_path)
    index(recipe)
    store = open_dataset(recipe)
    path = tmp_path / "out" / index_key(0, 0)
    path.write_bytes(path.read_bytes()[:-20] if damage is None else damage)
    with pytest.raises(DatasetError, match=r"index-000-000000\.parquet: is missing or damaged"):
        read_generations(store)
    with pytest.raises(DatasetError, match=r"index-000-000000\.parquet: is missing or damaged"):
        read_part(store, 0, 0)
    with pytest.raises(DatasetError, match=r"index-000-000000\.parquet: is missing or damaged"):
        read_chunk_rows(store, ChunkId(0, 0), part=0)
    path.unlink()
    with pytest.raises(DatasetError, match="is missing or damaged"):
        read_part(store, 0, 0)
    with pytest.raises(DatasetError, match="is missing or damaged"):
        read_chunk_rows(store, ChunkId(0, 0), part=0)


@pytest.mark.parametrize("group_rows", [1, 3, 4, 100])
def test_a_chunks_rows_are_found_in_any_row_groups(tmp_path: Path, group_rows: int) -> None:
    """A chunk may span several groups, and a group several chunks."""
    write_source(tmp_path, [*questions(10), *questions(1), "{bad", *questions(9, start=10)])
    recipe = recipe_of(tmp_path, dataset={"prompts_per_shard": 4})
    index(recipe)
    store = open_dataset(recipe)
    path = tmp_path / "out" / index_key(0, 0)
    pq.write_table(pq.read_table(path), path, row_group_size=group_rows, write_page_checksum=True)
    whole = read_part(store, 0, 0).to_pylist()
    assert {row["chunk"] for row in whole} == set(range(5))
    for chunk in range(6):
        assert read_chunk_rows(store, ChunkId(0, chunk), part=0).to_pylist() == [
            row for row in whole if row["chunk"] == chunk
        ]


def test_a_part_is_stored_in_small_row_groups(tmp_path: Path) -> None:
    """So a worker has only a few of its rows in memory."""
    write_source(tmp_path, questions(2 * ROW_GROUP_ROWS + 1))
    index(recipe_of(tmp_path, dataset={"prompts_per_shard": ROW_GROUP_ROWS}))
    metadata = pq.read_metadata(tmp_path / "out" / index_key(0, 0))
    assert metadata.metadata[META]
    groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert groups == [ROW_GROUP_ROWS, ROW_GROUP_ROWS, 1]


def test_a_damaged_row_group_is_reported_with_its_chunk(tmp_path: Path) -> None:
    """Its checksum no longer matches; the other chunks can still be read."""
    write_source(tmp_path, questions(8))
    recipe = recipe_of(tmp_path, dataset={"prompts_per_shard": 4})
    index(recipe)
    path = tmp_path / "out" / index_key(0, 0)
    pq.write_table(pq.read_table(path), path, row_group_size=4, write_page_checksum=True)
    column = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    store = open_dataset(recipe)
    assert len(read_chunk_rows(store, ChunkId(0, 0), part=0)) == 4
    with pytest.raises(DatasetError, match=r"index-000-000000\.parquet: is missing or damaged"):
        read_chunk_rows(store, ChunkId(0, 1), part=0)


def write_as(kind: str, folder: Path, name: str, rows: list[dict[str, str]]) -> None:
    """One source file of a kind."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path = folder / f"{name}{kind}"
    match kind:
        case ".jsonl":
            path.write_text("\ufeff" + lines.replace("\n", "\r\n\n   \n"))
        case ".jsonl.gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case ".jsonl.zst":
            path.write_bytes(pa.Codec("zstd").compress(lines.encode(), asbytes=True))
        case ".csv":
            quoted = ((row["id"], row["question"].replace('"', '""')) for row in rows)
            path.write_text("id,question\n" + "".join(f'{number},"{text}"\n\n' for number, text in quoted))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
        case ".arrow":
            table = pa.Table.from_pylist(rows)
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=7)


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".csv", ".parquet", ".arrow"])
def test_chunks_read_back_in_any_order_by_any_reader(tmp_path: Path, kind: str) -> None:
    """Blank lines, line breaks in a field, several files, gaps of bad rows and of other readers' chunks."""
    rows = [{"id": f"q{n}", "question": f'what is\n"{n % 60}", ä?' if n % 11 else ""} for n in range(90)]
    for number, start in enumerate((0, 40, 41)):
        write_as(kind, tmp_path / "source", f"{number}", rows[start : (40, 41, 90)[number]])
    recipe = recipe_of(tmp_path, dataset={"prompts_per_shard": 7})
    index(recipe)
    in_order = texts_of(recipe)
    wanted = list(dict.fromkeys(row["question"] for row in rows if row["question"]))
    assert [text for chunk in in_order for text in chunk] == wanted
    assert texts_of(recipe, workers=3) == in_order
    store = open_dataset(recipe)
    reader = ChunkReader(store, recipe)
    for number in (3, 1, 1, 5, 0, 4, 0):
        chunk = reader.read(ChunkId(0, number))
        assert [prompt.messages[-1][1] for prompt in chunk.prompts] == in_order[number]
        assert all(each.prompt.id != each.duplicate_of for each in chunk.duplicates)


def test_bad_rows_are_read_back_with_their_line(tmp_path: Path) -> None:
    """File, line and message, as the index has them."""
    path = write_source(tmp_path, [*questions(1), "\n{bad", *questions(1, start=1)])
    recipe = recipe_of(tmp_path)
    index(recipe)
    store = open_dataset(recipe)
    (bad,) = ChunkReader(store, recipe).read(ChunkId(0, 0)).bad
    assert (bad.file, bad.line) == (str(path), 3)
    assert "not valid JSON" in bad.message


def test_a_changed_source_is_refused(tmp_path: Path) -> None:
    """Even where size and time are as they were."""
    path = write_source(tmp_path, questions(5))
    recipe = recipe_of(tmp_path)
    index(recipe)
    stat = path.stat()
    path.write_text(path.read_text().replace("what is 3", "what is 7"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    store = open_dataset(recipe)
    reader = ChunkReader(store, recipe)
    for _ in range(2):
        with pytest.raises(SourceError, match=r"a\.jsonl:4: is not the planned prompt"):
            reader.read(ChunkId(0, 0))
    path.write_text(path.read_text() + "\n")
    with pytest.raises(SourceError, match="changed"):
        reader.read(ChunkId(0, 0))
    path.unlink()
    with pytest.raises(SourceError, match="gone"):
        reader.read(ChunkId(0, 0))


@pytest.mark.parametrize(("per_shard", "chunks"), [(10, 100), (1_000, 100), (10_000, 10), (100_000, 1)])
def test_an_index_part_has_at_most_a_hundred_thousand_prompts(tmp_path: Path, per_shard: int, chunks: int) -> None:
    """Large chunks too: asking starts with the first part, and workers hold one in memory."""
    write_source(tmp_path, source_rows(3))
    made = index(recipe_of(tmp_path, dataset={"prompts_per_shard": per_shard}))
    assert made is not None
    assert made[0].chunks_per_part == chunks
