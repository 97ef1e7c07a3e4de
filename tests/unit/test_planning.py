"""Planning: a generation is what no earlier one has planned; what was planned may not change."""

from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import index, open_chunk, questions, recipe_of, write_source

from stillhouse.gen.dataset.binding import bind
from stillhouse.gen.dataset.chunk import ChunkReader
from stillhouse.gen.dataset.generations import read_generations
from stillhouse.gen.dataset.index import PartInfo
from stillhouse.gen.dataset.indexer import Indexer
from stillhouse.gen.dataset.layout import ChunkId, open_dataset, plan_key
from stillhouse.gen.dataset.planners import SourcePlanner
from stillhouse.gen.dataset.planning import Wait
from stillhouse.gen.dataset.plans import Plan, SourcePlan, read_plans, store_plan
from stillhouse.gen.dataset.source_planning import next_plan
from stillhouse.gen.errors import DatasetError, SourceError, UsageError
from stillhouse.gen.store.base import Store
from stillhouse.schemas.recipe import Recipe


def planned(plan: Plan) -> list[tuple[str, int, int]]:
    """(name, row, line) at which each file begins."""
    return [(Path(file.url).name, file.row, file.line) for file in plan.files]


def write_index(recipe: Recipe, plan: SourcePlan) -> list[PartInfo]:
    """Write the generation's index."""
    return list(Indexer(open_dataset(recipe), recipe, plan).parts([]))


def seal(recipe: Recipe, plan: SourcePlan) -> None:
    """Write the generation's index, and a shard for each of its chunks."""
    store = open_dataset(recipe)
    for part in write_index(recipe, plan):
        for number in range(part.first_chunk, part.first_chunk + len(part.asks)):
            store.put(ChunkId(plan.generation, number).data_key, b"shard")


def is_sealed(store: Store, plan: Plan) -> bool:
    """True if all of the generation's chunks have their shards."""
    return read_generations(store)[plan.generation].is_sealed


def test_a_pilot_is_continued_after_its_limit(tmp_path: Path) -> None:
    """Pilots of three rows over files of two: each begins where the last one ended, and the rest comes in one."""
    for number in range(4):
        write_source(tmp_path, ["\n", *questions(2, start=2 * number)], name=f"{number}.jsonl")
    recipe = recipe_of(tmp_path)
    plans = [made[0] for limit in (3, 3, None) if (made := index(recipe, limit=limit))]
    assert [planned(plan) for plan in plans] == [
        [("0.jsonl", 0, 1), ("1.jsonl", 0, 1), ("2.jsonl", 0, 1), ("3.jsonl", 0, 1)],
        [("1.jsonl", 1, 4), ("2.jsonl", 0, 1), ("3.jsonl", 0, 1)],
        [("3.jsonl", 0, 3)],
    ]
    assert index(recipe) is None
    assert index(recipe, limit=5) is None


def test_new_files_are_a_new_generation(tmp_path: Path) -> None:
    """Only they are in it, wherever they sort; a file that is gone does not matter once it is planned to its end."""
    old = write_source(tmp_path, questions(2), name="b.jsonl")
    recipe = recipe_of(tmp_path)
    index(recipe)
    write_source(tmp_path, questions(2, start=2), name="a.jsonl")
    old.unlink()
    made = index(recipe)
    assert made is not None
    assert planned(made[0]) == [("a.jsonl", 0, 1)]


def test_without_digests_a_files_last_plan_says_where_it_ended(tmp_path: Path) -> None:
    """As in plans of schema version 1, where name and size must do."""
    write_source(tmp_path, questions(4))
    write_source(tmp_path, questions(1, start=4), name="b.jsonl")
    recipe = recipe_of(tmp_path)
    store = open_dataset(recipe)
    for generation in range(2):
        index(recipe, limit=1)
        plan = orjson.loads(store.get(plan_key(generation)) or b"")
        files = [file | {"digest": None} for file in plan["files"]]
        store.put(plan_key(generation), orjson.dumps(plan | {"files": files}))
    made = index(recipe)
    assert made is not None
    assert [(name, row) for name, row, _ in planned(made[0])] == [("a.jsonl", 2), ("b.jsonl", 0)]


@pytest.mark.parametrize("limit", [None, 1])
def test_a_changed_file_is_refused_by_name(tmp_path: Path, limit: int | None) -> None:
    """It has grown: new prompts belong in new files."""
    path = write_source(tmp_path, questions(2))
    recipe = recipe_of(tmp_path)
    index(recipe, limit=limit)
    path.write_text(path.read_text() + '{"id": "new", "question": "what?"}\n')
    with pytest.raises(SourceError, match=rf"{path}: changed after it was planned.*new file beside it"):
        index(recipe)


def test_a_source_without_files_is_refused(tmp_path: Path) -> None:
    """Nothing is planned."""
    (tmp_path / "source").mkdir()
    with pytest.raises(SourceError, match=r"expected files at .*source, found none"):
        index(recipe_of(tmp_path))


def test_source_generations_wait_only_for_the_index(tmp_path: Path) -> None:
    """A new one is planned once the earlier ones are indexed, sealed or not; then there is nothing to plan."""
    write_source(tmp_path, questions(25))
    recipe = recipe_of(tmp_path)
    store = open_dataset(recipe)
    bind(store, recipe)
    first = SourcePlanner(store, recipe, limit=12).step()
    assert isinstance(first, SourcePlan)
    assert (first.generation, first.limit, is_sealed(store, first)) == (0, 12, False)
    planner = SourcePlanner(store, recipe)
    assert planner.step() == Wait("indexed")
    write_index(recipe, first)
    second = planner.step()
    assert isinstance(second, SourcePlan)
    assert (second.generation, second.limit) == (1, None)
    assert planner.step() == Wait("sealed")
    seal(recipe, first)
    assert is_sealed(store, first)
    assert planner.step() == Wait("sealed")
    seal(recipe, second)
    assert planner.step() is None
    assert SourcePlanner(store, recipe).step() is None


def test_a_resumed_pilot_does_not_grow(tmp_path: Path) -> None:
    """A second `--limit 10` finishes the ten that were started; a third plans the next ten."""
    write_source(tmp_path, questions(25))
    recipe = recipe_of(tmp_path)
    store = open_dataset(recipe)
    bind(store, recipe)
    first = SourcePlanner(store, recipe, limit=10).step()
    assert isinstance(first, SourcePlan)
    write_index(recipe, first)
    planner = SourcePlanner(store, recipe, limit=10)
    assert planner.step() == Wait("sealed")
    seal(recipe, first)
    assert planner.step() is None
    second = SourcePlanner(store, recipe, limit=10).step()
    assert isinstance(second, SourcePlan)
    assert second.generation == 1


def test_a_plan_is_written_once(tmp_path: Path) -> None:
    """Another run that planned at the same moment gets a message."""
    write_source(tmp_path, questions(1))
    recipe = recipe_of(tmp_path)
    store = open_dataset(recipe)
    plan = next_plan(recipe, [])
    assert plan is not None
    store_plan(store, plan)
    with pytest.raises(DatasetError, match=r"plan-000\.json: another run has just planned it"):
        store_plan(store, plan)
    assert read_plans(store) == [plan]


def parquet_source(tmp_path: Path, column: pa.Array, *, name: str = "a.parquet") -> None:
    """A Parquet source with a column `extra`."""
    (tmp_path / "source").mkdir(exist_ok=True)
    texts = pa.array([f"what is {name}{n}?" for n in range(len(column))])
    pq.write_table(pa.table({"id": texts, "question": texts, "extra": column}), tmp_path / "source" / name)


def test_kept_types_are_fixed_by_the_first_plan(tmp_path: Path) -> None:
    """A later file of another type is refused before anything is asked."""
    parquet_source(tmp_path, pa.array([[1.5]], pa.list_(pa.float32())), name="b.parquet")
    recipe = recipe_of(tmp_path, source={"keep": ["extra"]})
    made = index(recipe)
    assert made is not None
    assert made[0].kept_fields == [pa.field("extra", pa.list_(pa.float32()))]
    parquet_source(tmp_path, pa.array(["text"]), name="a.parquet")
    with pytest.raises(SourceError, match=r"a\.parquet: the kept column 'extra' has another type"):
        index(recipe)


@pytest.mark.parametrize("name", ["prompt", "record_id", "reject_reason", "kind", "file"])
def test_a_kept_column_with_a_reserved_name_is_refused(tmp_path: Path, name: str) -> None:
    """Before the run, not when the first chunk is sealed."""
    write_source(tmp_path, [{"id": "a", "question": "why?", name: "x"}])
    with pytest.raises(UsageError, match=rf"source\.keep: the column '{name}' has the name of a column"):
        index(recipe_of(tmp_path, source={"keep": [name]}))


def test_a_kept_column_without_a_parquet_type_is_refused(tmp_path: Path) -> None:
    """Likewise."""
    (tmp_path / "source").mkdir()
    table = pa.table({"id": ["a"], "question": ["why?"], "extra": pa.array([(1, 2, 3)], pa.month_day_nano_interval())})
    with pa.ipc.new_file(tmp_path / "source" / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UsageError, match=r"source\.keep: .*a\.arrow has a column of a type that can't be stored"):
        index(recipe_of(tmp_path, source={"keep": ["extra"]}))


def test_a_plan_says_what_it_read(tmp_path: Path) -> None:
    """Each file with the size and etag that it had."""
    path = write_source(tmp_path, questions(2))
    made: Any = index(recipe_of(tmp_path), limit=7)
    (file,) = made[0].files
    assert (file.url, file.size, made[0].limit, made[0].generation) == (str(path), path.stat().st_size, 7, 0)
    assert file.etag


def test_a_kept_column_can_be_renamed(tmp_path: Path) -> None:
    """Where its name is the dataset's own; the values are read by the name that the source has."""
    write_source(tmp_path, [{"id": "a", "question": "why?", "prompt": 3, "n": 1}])
    keep = [{"name": "prompt", "as": "theirs", "type": "int64"}, {"name": "n", "as": "twice"}, "n"]
    recipe = recipe_of(tmp_path, source={"keep": keep})
    made = index(recipe)
    assert made is not None
    assert [field.name for field in made[0].kept_fields] == ["theirs", "twice", "n"]
    (prompt,) = ChunkReader(open_dataset(recipe), recipe).read(ChunkId(0, 0)).prompts
    assert prompt.kept == (3, "1", "1")


def test_two_kept_columns_with_one_name_are_refused(tmp_path: Path) -> None:
    """Whichever names lead to it."""
    with pytest.raises(ValueError, match=r"keep produces the column a twice; rename one with `as`"):
        recipe_of(tmp_path, source={"keep": ["a", {"name": "b", "as": "a"}]})


def test_a_later_file_must_fit_the_fixed_types(tmp_path: Path) -> None:
    """Narrower ones fit, whatever their names; wider ones are refused by the file's name, at once."""
    parquet_source(tmp_path, pa.array([{"a": 1}], pa.struct([("a", pa.int64())])), name="b.parquet")
    recipe = recipe_of(tmp_path, source={"keep": ["extra"]})
    index(recipe)
    parquet_source(tmp_path, pa.array([{"a": 2}], pa.struct([("a", pa.int32())])), name="c.parquet")
    made = index(recipe)
    assert made is not None
    assert made[0].kept_fields == [pa.field("extra", pa.struct([("a", pa.int64())]))]
    parquet_source(tmp_path, pa.array([{"b": 2}], pa.struct([("b", pa.int32())])), name="d.parquet")
    with pytest.raises(SourceError, match=r"d\.parquet: the kept column 'extra' has another type"):
        index(recipe)


def test_text_in_a_typed_column_is_refused_unless_declared(tmp_path: Path) -> None:
    """A JSONL file's "007" is not a 7; but text goes with text."""
    parquet_source(tmp_path, pa.array([7]), name="a.parquet")
    write_source(tmp_path, [{"id": "x", "question": "why?", "extra": "007"}], name="b.jsonl")
    with pytest.raises(SourceError, match=r"b\.jsonl: the kept column 'extra' is text here and int64 in .*a\.parquet"):
        index(recipe_of(tmp_path, source={"keep": ["extra"]}))
    made = index(recipe_of(tmp_path, source={"keep": [{"extra": "string"}]}))
    assert made is not None
    parquet_source(tmp_path, pa.array(["7"]), name="a.parquet")
    assert index(recipe_of(tmp_path, source={"keep": ["extra"]}, dataset={"path": str(tmp_path / "other")})) is not None


def test_an_older_datasets_system_text_is_asked_verbatim(tmp_path: Path) -> None:
    """Its plans say so, in every later generation too; a new dataset's text with braces is a template."""
    write_source(tmp_path, questions(1))
    recipe = recipe_of(tmp_path, ask={"system": "Fill in {{ id }}."})
    made = index(recipe)
    assert made is not None
    assert open_chunk(recipe).chunk.prompts[0].messages[0] == ("system", "Fill in q0.")
    old = recipe_of(tmp_path, ask={"system": "Fill in {{ id }}."}, dataset={"path": str(tmp_path / "old")})
    store = open_dataset(old)
    bind(store, old)
    store_plan(store, made[0].model_copy(update={"templates_system": False}))
    (source,) = read_plans(store)
    assert isinstance(source, SourcePlan)
    list(Indexer(store, old, source).parts([]))
    write_source(tmp_path, questions(1, start=1), name="b.jsonl")
    later = index(old)
    assert later is not None
    assert not later[0].templates_system
    for chunk in (ChunkId(0, 0), ChunkId(1, 0)):
        assert open_chunk(old, chunk).chunk.prompts[0].messages[0] == ("system", "Fill in {{ id }}.")


def test_new_fields_do_not_change_an_identity(tmp_path: Path) -> None:
    """Unless they are used; how a file is read is not a part of it."""
    plain = recipe_of(tmp_path, source={"prompt": None, "messages": "m"})
    assert "answer" not in str(plain.identity()["source"])
    assert (
        recipe_of(tmp_path, source={"prompt": None, "messages": "m", "delimiter": ";"}).identity() == plain.identity()
    )
    assert (
        recipe_of(tmp_path, source={"prompt": None, "messages": "m", "answer": "drop"}).identity() != plain.identity()
    )


def test_equal_content_in_a_differently_named_folder_is_new_rows(tmp_path: Path) -> None:
    """A file is identified by its content, and its folders' columns are part of that."""
    recipe = recipe_of(tmp_path, source={"id": None, "prompt": None}, ask={"template": "{{ lang }}: {{ question }}"})
    write_source(tmp_path, questions(2), name="lang=de/a.jsonl")
    index(recipe)
    write_source(tmp_path, questions(2), name="lang=fr/a.jsonl")
    made = index(recipe)
    assert made is not None
    assert made[1][-1].rows == 2
    prompts = ChunkReader(open_dataset(recipe), recipe).read(ChunkId(1, 0)).prompts
    assert [prompt.messages[-1][1] for prompt in prompts] == ["fr: what is 0 + 1?", "fr: what is 1 + 1?"]
    assert index(recipe) is None
