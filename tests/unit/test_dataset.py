"""A dataset's state: bound to one identity, read back from what is stored, and refused if that is damaged."""

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from builders import index, questions, recipe_of, write_source
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.gen.dataset.binding import bind, parse_binding
from stillhouse.gen.dataset.generations import read_generations
from stillhouse.gen.dataset.layout import RECIPE_KEY, ChunkId, open_dataset, plan_key, sealed_chunks
from stillhouse.gen.dataset.plans import (
    MorePlan,
    Plan,
    RetryPlan,
    SourcePlan,
    frozen_columns,
    read_plan,
    read_plans,
    store_plan,
)
from stillhouse.gen.errors import DatasetError
from stillhouse.schemas.extra import RESERVED

TEACHER: dict[str, Any] = {"name": "sim", "api": "simulator"}
SOUND = b"stillhouse: 2\nsamples: 1\nidentity: {teachers: [{name: sim, model: simulator}], prompts_per_shard: 10}"
COUNTS = (b"0", b"-5", b"true", b"1.5", b".inf", b".nan", b"'3'", b"[1]", b"&a [*a]", b"2001-01-01")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ask": {"temperature": 0.5}}, "ask.temperature"),
        ({"ask": {"template": "{{ question }}!"}}, "ask.template"),
        ({"ask": {"samples": 2, "extra": {"a": 1}}}, "ask.extra.a"),
        ({"source": {"id": None}}, "source.id"),
        ({"source": {"keep": ["x"]}}, "source.keep"),
        ({"teachers": [TEACHER | {"model": "other"}]}, "teachers.sim.model"),
        ({"teachers": [TEACHER, TEACHER | {"name": "second"}]}, "teachers"),
        ({"dedup": {"answers": False}}, "dedup.answers"),
        ({"dataset": {"prompts_per_shard": 11}}, "prompts_per_shard"),
        ({"dataset": {"reasoning": "inline"}}, "reasoning"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_different_identity_is_refused_naming_the_fields_that_differ(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    """The message says to use another path."""
    write_source(tmp_path, questions(1))
    index(recipe_of(tmp_path))
    other = recipe_of(tmp_path, **changes)
    with pytest.raises(DatasetError, match=f"differ in {named}. Use another dataset.path"):
        bind(open_dataset(other), other)


def test_a_wrong_recipe_can_be_corrected_before_anything_was_planned(tmp_path: Path) -> None:
    """As long as nothing was planned with it."""
    store, mended = open_dataset(recipe_of(tmp_path)), recipe_of(tmp_path)
    bind(store, recipe_of(tmp_path, source={"keep": ["answr"]}))
    bind(store, mended)
    assert parse_binding(store.get(RECIPE_KEY) or b"", origin="").identity == mended.identity()


def test_fields_outside_the_identity_may_change(tmp_path: Path) -> None:
    """Limits, prices, timeouts, workers, the source's path, and which replies are kept raw."""
    bind(open_dataset(recipe_of(tmp_path)), recipe_of(tmp_path))
    teacher = TEACHER | {"limits": {"in_flight": 3}, "price": {"input": 1, "output": 2}, "timeout_s": 5}
    other = recipe_of(
        tmp_path,
        source={"path": str(tmp_path / "elsewhere")},
        teachers=[teacher],
        dataset={"keep_raw": False},
        run={"workers": 3},
    )
    bind(open_dataset(other), other)


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.characters(codec="utf-8"), max_size=60),
    st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=9), st.floats(allow_nan=False) | st.booleans()),
    st.floats(0, 2),
)
def test_an_identity_survives_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory, system: str, extra: dict[str, Any], temperature: float
) -> None:
    """Whatever a system prompt contains, the same recipe never counts as another one."""
    extra = {name: value for name, value in extra.items() if name not in RESERVED}
    recipe = recipe_of(
        tmp_path_factory.mktemp("dataset"), ask={"system": system, "extra": extra, "temperature": temperature}
    )
    store = open_dataset(recipe)
    bind(store, recipe)
    bind(store, recipe)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"- a list",
        b"stillhouse: 1",
        b"stillhouse: one\nidentity: {}",
        b"stillhouse: 1\nidentity: 3",
        b"stillhouse: 1\nidentity: [[1, 2, 3]]",
        b"stillhouse: 1\nidentity: {}",
        b"stillhouse: 1\nidentity: {ask: 3}",
        b"stillhouse: 1\nidentity: {ask: {samples: x}}",
        b"[" * 5000,
        *(SOUND.replace(b"samples: 1", b"samples: " + count) for count in COUNTS),
        *(SOUND.replace(b"shard: 10", b"shard: " + count) for count in COUNTS),
        *(SOUND.replace(b"stillhouse: 2", b"stillhouse: " + count) for count in (b"0", b"-5", b"true", b"1.5")),
    ],
)
def test_a_damaged_recipe_is_named(tmp_path: Path, text: bytes) -> None:
    """The run never silently starts from zero."""
    recipe = recipe_of(tmp_path)
    store = open_dataset(recipe)
    store.put(RECIPE_KEY, text)
    with pytest.raises(DatasetError, match=r"_stillhouse/recipe\.yaml: is damaged; restore it"):
        bind(store, recipe)


def test_a_missing_recipe_beside_shards_is_refused(tmp_path: Path) -> None:
    """Nothing shows what the shards are."""
    recipe = recipe_of(tmp_path)
    store = open_dataset(recipe)
    store.put(ChunkId(0, 3).data_key, b"")
    with pytest.raises(DatasetError, match=r"holds shards but no _stillhouse/recipe\.yaml"):
        bind(store, recipe)


def test_files_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    """For the recipe and for the plan."""
    write_source(tmp_path, questions(1))
    recipe = recipe_of(tmp_path)
    index(recipe)
    store = open_dataset(recipe)
    plan = orjson.loads(store.get(plan_key(0)) or b"")
    store.put(plan_key(0), orjson.dumps(plan | {"version": 99, "new": True}))
    with pytest.raises(DatasetError, match=r"plan-000\.json: written by a newer version"):
        read_plans(store)
    document = yaml.safe_load(store.get(RECIPE_KEY) or b"")
    store.put(RECIPE_KEY, yaml.safe_dump(document | {"stillhouse": 99}).encode())
    with pytest.raises(DatasetError, match=r"recipe\.yaml: written by a newer version"):
        bind(store, recipe)


NOT_KEPT = b'{"version": 1, "generation": 0, "files": [], "kept": "AAAA"}'


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"version": "1"}', b'{"version": 1}', NOT_KEPT, None])
def test_a_damaged_plan_is_named(tmp_path: Path, damage: bytes | None) -> None:
    """Also if it is cut off."""
    write_source(tmp_path, questions(1))
    recipe = recipe_of(tmp_path)
    index(recipe)
    store = open_dataset(recipe)
    store.put(plan_key(0), (store.get(plan_key(0)) or b"")[:-9] if damage is None else damage)
    with pytest.raises(DatasetError, match=r"plan-000\.json: is damaged; restore it"):
        read_plans(store)


def test_a_plan_that_disagrees_with_its_index_is_damaged(tmp_path: Path) -> None:
    """What is planned next rests on how far each of its files was read."""
    write_source(tmp_path, questions(1))
    recipe = recipe_of(tmp_path)
    index(recipe)
    store = open_dataset(recipe)
    store.put(plan_key(0), orjson.dumps(orjson.loads(store.get(plan_key(0)) or b"") | {"files": []}))
    with pytest.raises(DatasetError, match=r"plan-000\.json: is damaged; .*names 0 files, .* made from 1"):
        read_generations(store)


TWO_KINDS = [{"retry": ["overload"], "more": True}, {"retry": ["overload"], "limit": 3}, {"more": True, "limit": 3}]


@pytest.mark.parametrize("change", [{"generation": 1}, {"samples": -1}, {"more": "yes"}, {"retry": 7}, *TWO_KINDS])
def test_a_plan_of_another_generation_is_damaged(tmp_path: Path, change: dict[str, object]) -> None:
    """As of a file that was copied onto another; so is one of impossible numbers, or of two kinds of generations."""
    write_source(tmp_path, questions(1))
    recipe = recipe_of(tmp_path)
    index(recipe)
    store = open_dataset(recipe)
    store.put(plan_key(0), orjson.dumps(orjson.loads(store.get(plan_key(0)) or b"") | change))
    with pytest.raises(DatasetError, match=r"plan-000\.json: is damaged; restore it"):
        read_plans(store)


_NO_COLUMNS = frozen_columns([])
KINDS_OF_PLANS: list[tuple[Plan, dict[str, object]]] = [
    (SourcePlan(generation=0, files=(), limit=3, kept=_NO_COLUMNS), {"limit": 3, "retry": None, "more": False}),
    (
        RetryPlan(generation=0, files=(), kinds=("poison",), kept=_NO_COLUMNS),
        {"limit": None, "retry": ["poison"], "more": False},
    ),
    (MorePlan(generation=0, files=(), samples=2, kept=_NO_COLUMNS), {"limit": None, "retry": None, "more": True}),
]


@pytest.mark.parametrize(("plan", "stored"), KINDS_OF_PLANS)
def test_each_kind_of_plan_has_one_stored_form(tmp_path: Path, plan: Plan, stored: dict[str, object]) -> None:
    """Earlier versions know the kind of a generation by these fields; and it reads back as it was."""
    store = open_dataset(recipe_of(tmp_path))
    store_plan(store, plan)
    assert orjson.loads(store.get(plan_key(0)) or b"").items() >= stored.items()
    assert read_plan(store, 0) == plan


def test_a_gap_in_the_plans_is_refused(tmp_path: Path) -> None:
    """Otherwise another generation would be planned in place of the missing one."""
    write_source(tmp_path, questions(1))
    recipe = recipe_of(tmp_path)
    index(recipe)
    store = open_dataset(recipe)
    plan = orjson.loads(store.get(plan_key(0)) or b"")
    store.put(plan_key(2), orjson.dumps(plan | {"generation": 2}))
    with pytest.raises(DatasetError, match=r"holds _stillhouse/plan-002\.json but no _stillhouse/plan-001\.json"):
        read_plans(store)


@pytest.mark.parametrize("generation", [0, 1])
def test_a_missing_plan_beside_shards_is_refused(tmp_path: Path, generation: int) -> None:
    """The plan of the shards' own generation."""
    write_source(tmp_path, questions(1))
    recipe = recipe_of(tmp_path)
    index(recipe)
    store = open_dataset(recipe)
    store.put(ChunkId(generation, 0).data_key, b"")
    store.delete(plan_key(generation))
    with pytest.raises(DatasetError, match=rf"holds shards of generation {generation} but no .*plan-00{generation}"):
        read_plans(store)


def test_sealed_chunks_are_those_listed(tmp_path: Path) -> None:
    """In order, even past six digits; other files in data/ don't count."""
    store = open_dataset(recipe_of(tmp_path))
    chunks = [ChunkId(0, 0), ChunkId(0, 42), ChunkId(1, 7), ChunkId(2, 1_234_567)]
    for chunk in chunks:
        store.put(chunk.data_key, b"")
    for other in ("data/readme.parquet", "data/part-0-1.parquet", "data/part-000-000001.parquet.tmp"):
        store.put(other, b"")
    assert list(sealed_chunks(store)) == chunks
    assert chunks[1].data_key == "data/part-000-000042.parquet"
    assert chunks[1].side_key("rejected", "ab") == "rejected/part-000-000042-ab.parquet"
    assert chunks[1].side_key("raw", "ab") == "_stillhouse/raw/part-000-000042-ab.parquet"
    assert chunks[1].journal_prefix == "_stillhouse/journal/000-000042/"
