"""A preview says what a run would do and at what price, and does none of it."""

import json
import re
from pathlib import Path

import pytest
from builders import index
from harness import run_in_process
from s3_server import Fault, S3Server

from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import DatasetError, SourceError, StoreRefused, UsageError
from stillhouse.gen.views.preview import preview, render
from stillhouse.schemas.recipe import Recipe

ESC, BIDI = "\x1b[31m", "\u202e"


def recipe_over(tmp_path: Path, rows: list[object], **changes: dict[str, object]) -> Recipe:
    """A recipe over a JSONL file of these rows; a str is a line as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    recipe: dict[str, dict[str, object]] = {
        "source": {"path": str(tmp_path / "prompts.jsonl"), "prompt": "q"},
        "ask": {"samples": 2},
        "dataset": {"path": str(tmp_path / "out"), "prompts_per_shard": 5},
    }
    for name, change in changes.items():
        recipe[name] = recipe.get(name, {}) | change
    teachers = list(recipe.pop("teachers", {"sim": {"api": "simulator"}}).items())
    named = [{"name": name} | (fields if isinstance(fields, dict) else {}) for name, fields in teachers]
    return Recipe.model_validate({"name": "previewed", "teachers": named, **recipe})


def questions(count: int) -> list[object]:
    """Rows with different prompts of eight characters."""
    return [{"q": f"{n:08d}"} for n in range(count)]


def test_counts_equal_a_runs_and_nothing_is_written(tmp_path: Path) -> None:
    """Rows, duplicates, bad rows by file and line, samples; not even the dataset's folder is made."""
    rows = [*questions(12), {"q": "00000001"}, "{torn", {"other": 1}]
    shown = preview(recipe_over(tmp_path, rows))
    assert (shown.prompts, shown.duplicates, shown.bad, shown.to_ask) == (15, 1, 2, 24)
    assert [row.split(": ")[0] for row in shown.bad_rows] == [f"{tmp_path}/prompts.jsonl:{line}" for line in (14, 15)]
    assert [file.bytes for file in shown.files] == [(tmp_path / "prompts.jsonl").stat().st_size]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.jsonl"]
    assert (shown.sealed, shown.warnings) == (0, ())


def test_a_read_only_bucket_is_refused(tmp_path: Path, s3: S3Server) -> None:
    """As a run would refuse it; where it takes them, nothing is left behind."""
    dataset: dict[str, object] = {"path": "s3://lake/out", "endpoint_url": s3.endpoint_url}
    recipe = recipe_over(tmp_path, questions(1), dataset=dataset)
    assert preview(recipe).to_ask == 2
    assert list(open_dataset(recipe).list()) == []
    s3.gate.faults.append(Fault("answer", method="PUT", path="probe", times=1000, status=403, code="AccessDenied"))
    with pytest.raises(StoreRefused, match="could not write s3://lake/out"):
        preview(recipe)


async def test_a_run_does_what_the_preview_shows(tmp_path: Path) -> None:
    """The same counts and as many shards; afterwards the preview says that they are sealed."""
    recipe = recipe_over(tmp_path, [*questions(5), *[{"q": "00000001"}] * 101, *questions(13), "{torn"])
    before = preview(recipe)
    summary = await run_in_process(recipe)
    assert (summary.prompts, summary.duplicates, summary.bad) == (before.prompts, before.duplicates, before.bad)
    assert summary.records + summary.rejected + summary.failed == before.to_ask
    assert len(list((tmp_path / "out" / "data").iterdir())) == before.shards == 4
    after = preview(recipe)
    assert (after.sealed, after.warnings) == (before.shards, ())


async def test_a_dataset_of_another_recipe_is_refused(tmp_path: Path) -> None:
    """As a run would refuse it: it says in what they differ."""
    await run_in_process(recipe_over(tmp_path, questions(3), ask={"samples": 2}))
    with pytest.raises(DatasetError, match=r"ask\.samples: expected at least 2"):
        preview(recipe_over(tmp_path, questions(3), ask={"samples": 1}))
    with pytest.raises(DatasetError, match=r"differ in ask\.temperature"):
        preview(recipe_over(tmp_path, questions(3), ask={"samples": 2, "temperature": 1}))


async def test_sealed_samples_are_not_planned_again(tmp_path: Path) -> None:
    """After a pilot, what is left of the source and what that takes; `limit` counts from there."""
    recipe = recipe_over(tmp_path, [*questions(30), *questions(2)], ask={"samples": 2, "max_tokens": 100})
    await run_in_process(recipe, limit=10)
    shown = preview(recipe)
    assert (shown.prompts, shown.settled, shown.to_ask, shown.output_tokens) == (32, 20, 40, 4000)
    assert "to ask        40 samples, 2 per prompt (besides 20 that are sealed)" in render(shown)
    assert preview(recipe, limit=5).to_ask == 10
    await run_in_process(recipe)
    assert preview(recipe).to_ask == 0


async def test_a_changed_source_is_refused_as_by_a_run(tmp_path: Path) -> None:
    """If nothing has been asked yet, both plan it again instead."""
    index(recipe_over(tmp_path, questions(3)))
    recipe = recipe_over(tmp_path, questions(4))
    assert preview(recipe).to_ask == 8
    assert (await run_in_process(recipe)).records == 8
    recipe = recipe_over(tmp_path, questions(5))
    with pytest.raises(SourceError, match=r"prompts\.jsonl: changed after it was planned") as refused:
        preview(recipe)
    with pytest.raises(SourceError, match=re.escape(str(refused.value))):
        await run_in_process(recipe)


def test_tokens_and_cost_are_upper_bounds_with_stated_rules(tmp_path: Path) -> None:
    """Characters / 4 in, max_tokens out, each times the samples, by the prices."""
    recipe = recipe_over(
        tmp_path,
        questions(10),
        ask={"samples": 2, "max_tokens": 100},
        teachers={"sim": {"api": "simulator", "price": {"input": 1.0, "output": 2.0}}},
    )
    shown = preview(recipe)
    assert (shown.input_tokens, shown.output_tokens) == (40, 2000)
    assert shown.usd == pytest.approx((40 * 1.0 + 2000 * 2.0) / 1e6)


def test_a_teacher_s_own_max_tokens_counts(tmp_path: Path) -> None:
    """Half of 40 samples at 100 tokens, half at 10; if either limit is missing there is no bound."""
    priced: dict[str, object] = {"api": "simulator", "price": {"input": 0.0, "output": 2.0}}
    teachers: dict[str, object] = {"a": priced, "b": priced | {"ask": {"max_tokens": 10}}}
    shown = preview(recipe_over(tmp_path, questions(20), ask={"max_tokens": 100}, teachers=teachers))
    assert shown.output_tokens == 2200
    assert shown.usd == pytest.approx(2200 * 2.0 / 1e6)
    assert preview(recipe_over(tmp_path, questions(20), teachers=teachers)).output_tokens is None


def test_unknown_values_are_null(tmp_path: Path) -> None:
    """Without max_tokens, prices and limits there is no bound on output, money or time."""
    shown = preview(recipe_over(tmp_path, questions(3)))
    assert (shown.output_tokens, shown.usd, shown.seconds, shown.workers) == (None, None, None, None)
    assert "no limits are declared" in shown.bound_by
    assert "unknown" in render(shown)


@pytest.mark.parametrize(
    ("limits", "ask", "seconds", "bound_by"),
    [
        ({"requests_per_minute": 60}, {}, 20, "limits.requests_per_minute"),
        ({"requests_per_minute": 600, "input_tokens_per_minute": 60}, {}, 40, "limits.input_tokens_per_minute"),
        ({"output_tokens_per_minute": 600}, {"max_tokens": 100}, 200, "limits.output_tokens_per_minute"),
        ({"tokens_per_minute": 6000}, {"max_tokens": 100}, 20.4, "limits.tokens_per_minute"),
        ({"output_tokens_per_minute": 600}, {}, None, "ask.max_tokens is not"),
        ({"in_flight": 8}, {}, None, "latency"),
    ],
)
def test_the_tightest_limit_decides_the_time(
    tmp_path: Path, limits: dict[str, int], ask: dict[str, object], seconds: float | None, bound_by: str
) -> None:
    """20 samples of 2 input tokens each at the declared limits; the limit is named."""
    recipe = recipe_over(tmp_path, questions(10), ask=ask, teachers={"sim": {"api": "simulator", "limits": limits}})
    shown = preview(recipe)
    assert shown.seconds == (None if seconds is None else pytest.approx(seconds))
    assert bound_by in shown.bound_by


def test_teachers_share_by_weight_and_the_slowest_account_decides(tmp_path: Path) -> None:
    """A quarter of 40 samples at 30 a minute takes longer than the rest at 600."""
    slow = {"api": "simulator", "weight": 1, "limits": {"requests_per_minute": 30}}
    fast = {"api": "simulator", "weight": 3, "limits": {"requests_per_minute": 600}}
    shown = preview(recipe_over(tmp_path, questions(20), teachers={"slow": slow, "fast": fast}))
    assert [(t.name, t.share) for t in shown.teachers] == [("slow", 0.25), ("fast", 0.75)]
    assert shown.seconds == pytest.approx(20)
    assert "slow" in shown.bound_by


def test_too_few_shards_give_a_warning_with_the_setting(tmp_path: Path) -> None:
    """40 prompts in 8 shards keep 4 workers busy only with 2 prompts per shard or fewer."""
    recipe = recipe_over(tmp_path, questions(40))
    assert preview(recipe, workers=2).warnings == ()
    shown = preview(recipe, workers=4)
    assert (shown.shards, shown.shards_per_worker) == (8, 2.0)
    (warning,) = shown.warnings
    assert "prompts_per_shard to 2" in warning


def test_a_limit_reads_only_the_first_rows(tmp_path: Path) -> None:
    """As a pilot does; the bad row behind them is not met."""
    shown = preview(recipe_over(tmp_path, [*questions(7), "{torn"]), limit=6)
    assert (shown.prompts, shown.bad, shown.shards) == (6, 0, 2)


def test_hostile_text_is_inert_and_long_text_is_cut(tmp_path: Path) -> None:
    """No control character, no bidi override, no forged line reaches the terminal; JSON keeps what was asked."""
    hostile = f"{ESC}red{BIDI}\r\u2028warning: forged\nsecond line"
    shown = preview(recipe_over(tmp_path, [{"q": hostile}, {"q": "x" * 5000}]))
    text = render(shown)
    assert all(char.isprintable() for char in text.replace("\n", ""))
    assert r"\x1b[31mred\u202e\r\u2028warning: forged" in text
    assert "    second line" in text
    assert "(4,000 more characters)" in text
    assert shown.examples[0].messages == (("user", hostile),)
    assert json.loads(shown.model_dump_json())["examples"][0]["messages"] == [["user", hostile]]


def test_examples_are_the_messages_as_sent(tmp_path: Path) -> None:
    """At most three, with the system message and the rendered template."""
    recipe = recipe_over(tmp_path, questions(5), ask={"system": "Be brief.", "template": "{{ q }}?"})
    examples = preview(recipe).examples
    assert len(examples) == 3
    assert examples[0].messages == (("system", "Be brief."), ("user", "00000000?"))


def test_mistakes_are_refused_as_by_a_run(tmp_path: Path) -> None:
    """No source, a template that can't be compiled, a kept column with a name of ours."""
    with pytest.raises(SourceError):
        preview(recipe_over(tmp_path, [], source={"path": str(tmp_path / "none.jsonl")}))
    with pytest.raises(UsageError, match="template"):
        preview(recipe_over(tmp_path, questions(1), ask={"template": "{{ q"}))
    with pytest.raises(UsageError, match="sample"):
        preview(recipe_over(tmp_path, questions(1), source={"keep": ["sample"]}))


def test_batches_are_shown_with_what_they_save(tmp_path: Path) -> None:
    """How many, how many at a time and for how long; a line for each mode."""
    teacher = {"api": "simulator", "mode": "batch", "batch": {"max_open": 2}, "price": {"input": 1.0, "output": 2.0}}
    recipe = recipe_over(tmp_path, questions(20), ask={"samples": 2, "max_tokens": 1000}, teachers={"sim": teacher})
    shown = preview(recipe)
    assert shown.seconds == 2 * 24 * 3600
    text = render(shown)
    assert "time          4 batches, 2 at a time, at most 2 days (by batches of sim)" in text
    assert "if online     at most $0.16 (twice the price in the recipe); time unknown" in text
    assert "if batch      at most $0.08 (the recipe); 4 batches, 2 at a time, at most 2 days" in text
    assert "if batch" not in render(preview(recipe_over(tmp_path, questions(20))))
