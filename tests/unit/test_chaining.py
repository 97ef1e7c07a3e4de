"""A dataset as another one's source: its rows, its late shards, its teachers' terms, and no way back to itself."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from builders import answer, body_of, index, open_chunk, questions, recipe_of, sealed, write_source
from harness import run_in_process

from stillhouse.gen.checks.base import CheckResult
from stillhouse.gen.dataset.layout import ChunkId, open_dataset
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.errors import SourceError
from stillhouse.gen.source.survey import survey
from stillhouse.gen.views.card import card_of
from stillhouse.gen.views.preview import preview
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.version import META_KEY

LLAMA = {"name": "l", "api": "openai-chat", "base_url": "http://localhost:1/v1", "model": "meta-llama/Llama-4-x"}
TOOL = {"type": "function", "function": {"name": "add"}}


def first(root: Path, **changes: Any) -> Recipe:
    """A dataset `a` of four prompts, of which the last answer is rejected by a check."""
    write_source(root, questions(4))
    settings: dict[str, Any] = {"dataset": {"path": str(root / "a")}, "checks": [{"contains": {"text": "an"}}]}
    recipe = recipe_of(root, **(settings | changes))
    index(recipe)
    held = open_chunk(recipe)
    for ordinal in range(4):
        answer(held, ordinal, body_of("nothing" if ordinal == 3 else f"answer {ordinal}"))
        held.judged(ordinal, verdicts(accepted=ordinal != 3), at=1.0)
    sealed(recipe, held)
    return recipe


def verdicts(*, accepted: bool) -> list[Any]:
    """The verdict of the only check."""
    return [CheckResult(accepted, float(accepted), "found" if accepted else "not found")]


def second(root: Path, **changes: Any) -> Recipe:
    """A dataset `b` whose prompts are made from the records of `a`."""
    settings: dict[str, Any] = {
        "name": "second",
        "source": {"path": str(root / "a"), "prompt": None, "id": None, "keep": [{"name": "record_id", "as": "of"}]},
        "ask": {"template": "Judge: {{ prompt[-1].content }} {{ completion[0].content }} {{ checks.contains.score }}"},
        "dataset": {"path": str(root / "b")},
    }
    for section, value in changes.items():
        settings[section] = settings[section] | value if isinstance(value, dict) else value
    return recipe_of(root, **settings)


def asked(recipe: Recipe) -> list[str]:
    """The prompts that the recipe's source makes."""
    return [each.messages[-1][1] for each in preview(recipe).examples]


def test_records_become_rows_with_all_their_columns(tmp_path: Path) -> None:
    """Nested ones in templates too; other files of the dataset are not read."""
    first(tmp_path)
    recipe = second(tmp_path)
    assert [file.url for file in survey(recipe.source).files] == [str(tmp_path / "a" / ChunkId(0, 0).data_key)]
    shown = preview(recipe)
    assert (shown.prompts, shown.bad) == (3, 0)
    assert "Judge: what is 0 + 1? answer 0 1.0" in asked(recipe)
    summary = asyncio.run(run_in_process(recipe))
    assert summary.records == 3
    kept = pq.read_table(tmp_path / "b" / ChunkId(0, 0).data_key)["of"].to_pylist()
    assert kept == pq.read_table(tmp_path / "a" / ChunkId(0, 0).data_key)["record_id"].to_pylist()


def test_rejected_answers_become_rows_on_request(tmp_path: Path) -> None:
    """With the reason, which is null for records; files that a crash left next to them are not read."""
    first(tmp_path)
    stray = tmp_path / "a" / "rejected" / f"part-{ChunkId(0, 0)}-{'0' * 16}.parquet"
    stray.write_bytes(next((tmp_path / "a" / "rejected").glob("*.parquet")).read_bytes())
    keep = [{"name": "reject_reason", "as": "why"}, {"name": "completion", "as": "text"}]
    recipe = second(
        tmp_path,
        source={"rejected": True, "keep": keep},
        ask={"template": "{{ completion[0].content }}: {{ reject_reason or 'kept' }}"},
    )
    assert preview(recipe).prompts == 4
    index(recipe)
    prompts = [prompt.messages[-1][1] for prompt in open_chunk(recipe).chunk.prompts]
    assert sorted(prompts) == ["answer 0: kept", "answer 1: kept", "answer 2: kept", "nothing: check:contains"]
    asyncio.run(run_in_process(recipe))
    rows = pq.read_table(tmp_path / "b" / ChunkId(0, 0).data_key).to_pylist()
    assert sorted(str(row["why"]) for row in rows) == ["None", "None", "None", "check:contains"]
    assert {row["text"][0]["content"] for row in rows} == {"answer 0", "answer 1", "answer 2", "nothing"}


def test_rejected_needs_a_dataset(tmp_path: Path) -> None:
    """Plain files have no such answers."""
    write_source(tmp_path, questions(1))
    with pytest.raises(SourceError, match=r"source\.rejected: expected the folder of a Stillhouse dataset"):
        preview(recipe_of(tmp_path, source={"rejected": True}))


def test_terms_are_inherited_down_the_chain(tmp_path: Path) -> None:
    """Through two datasets, onto the card, and also from a shard that was copied elsewhere."""
    first(tmp_path, teachers=[LLAMA])
    asyncio.run(run_in_process(second(tmp_path)))
    (tmp_path / "copied").mkdir()
    shard = (tmp_path / "b" / ChunkId(0, 0).data_key).read_bytes()
    (tmp_path / "copied" / "x.parquet").write_bytes(shard)
    third = second(
        tmp_path,
        source={"path": str(tmp_path / "copied")},
        ask={"template": "Again: {{ completion[0].content }}"},
        dataset={"path": str(tmp_path / "c")},
    )
    asyncio.run(run_in_process(third))
    meta = orjson.loads(pq.read_metadata(tmp_path / "c" / ChunkId(0, 0).data_key).metadata[META_KEY.encode()])
    assert [(each["name"], each.get("source")) for each in meta["teachers"]] == [
        ("sim", None),
        ("sim", str(tmp_path / "copied" / "x.parquet")),
        ("l", str(tmp_path / "a")),
    ]
    card = card_of(open_dataset(third))
    assert "Built with Llama" in card
    assert "The prompts contain its answers: they come from the dataset" in card


def test_what_is_forbidden_upstream_is_forbidden(tmp_path: Path) -> None:
    """Terms that a shard names are refused, and so are those of a model that is known to be forbidden."""
    first(tmp_path)
    path = tmp_path / "a" / ChunkId(0, 0).data_key
    terms = {"training_use": "permitted", "license": "mine"}
    for changes in ({"model": "claude-opus-4-1"}, {"terms": terms | {"training_use": "prohibited"}}):
        _rewrite(path, [{"name": "t", "model": "made-up", "terms": terms} | changes])
        with pytest.raises(SourceError, match=r"whose terms prohibit training"):
            preview(second(tmp_path))
        with pytest.raises(SourceError, match=r"whose terms prohibit training"):
            index(second(tmp_path))
    _rewrite(path, [{"name": "t"}])
    with pytest.raises(SourceError, match=r"its metadata about its teachers is damaged"):
        preview(second(tmp_path))


def _rewrite(path: Path, teachers: list[dict[str, Any]]) -> None:
    table = pq.read_table(path, partitioning=None)
    meta = orjson.loads(pq.read_metadata(path).metadata[META_KEY.encode()]) | {"teachers": teachers}
    pq.write_table(table.replace_schema_metadata({META_KEY: orjson.dumps(meta)}), path)


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    """A dataset made from itself, directly or through another."""
    a = first(tmp_path)

    def also_from(*path: str) -> Recipe:
        paths = (str(tmp_path / "source"), str(tmp_path.joinpath(*path)))
        return a.model_copy(update={"source": a.source.model_copy(update={"path": paths})})

    with pytest.raises(SourceError, match=r"got records of dataset\.path itself"):
        index(also_from("a", "data"))
    asyncio.run(run_in_process(second(tmp_path)))
    with pytest.raises(SourceError, match=r"got records of dataset\.path itself .*, by way of .*/b: write"):
        index(also_from("b"))
    with pytest.raises(SourceError, match=r"got records of dataset\.path itself"):
        preview(also_from("b"))


def test_later_shards_count_as_later_files(tmp_path: Path) -> None:
    """A note says that a dataset is unfinished; the next run asks what it adds, and nothing a second time."""
    write_source(tmp_path, questions(4))
    a = recipe_of(tmp_path, dataset={"path": str(tmp_path / "a"), "prompts_per_shard": 2})
    asyncio.run(run_in_process(a, limit=2))
    b = second(tmp_path, ask={"template": "Again: {{ completion[0].content }}"})
    assert asyncio.run(run_in_process(b)).records == 2
    index(a)
    (warning,) = preview(b).warnings
    assert warning.startswith(f"{tmp_path / 'a'} is not finished, and no run is working on it: run this again later")
    asyncio.run(run_in_process(a))
    assert preview(b).warnings == ()
    summary = asyncio.run(run_in_process(b))
    assert (summary.records, summary.requests) == (4, 2)
    assert len(DatasetReader(open_dataset(b)).generations) == 2


def test_a_dataset_without_shards_is_refused(tmp_path: Path) -> None:
    """The message says what to do."""
    write_source(tmp_path, questions(1))
    index(recipe_of(tmp_path, dataset={"path": str(tmp_path / "a")}))
    with pytest.raises(SourceError, match=r"has no shard yet: run its recipe first"):
        preview(second(tmp_path))


def test_tool_calls_pass_through_unchanged(tmp_path: Path) -> None:
    """A kept completion with calls inside holds the arguments as they were written."""
    write_source(tmp_path, questions(1))
    a = recipe_of(tmp_path, dataset={"path": str(tmp_path / "a")}, ask={"extra": {"tools": [TOOL]}})
    index(a)
    held = open_chunk(a)
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1.50}'}}
    answer(held, 0, body_of(None, finish="tool_calls", tool_calls=[call]))
    sealed(a, held)
    b = second(
        tmp_path,
        source={"keep": [{"name": "completion", "as": "was"}]},
        ask={"template": "{{ completion[0].tool_calls[0].function.arguments }}"},
    )
    asyncio.run(run_in_process(b))
    (row,) = pq.read_table(tmp_path / "b" / ChunkId(0, 0).data_key).to_pylist()
    assert row["prompt"][0]["content"] == '{"a": 1.50}'
    assert row["was"][0]["tool_calls"][0]["function"]["arguments"] == '{"a": 1.50}'
