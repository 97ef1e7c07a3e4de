"""After a pilot, `plan` projects the rest from the existing answers, and says how certain that is."""

import json
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from harness import run_in_process

from stillhouse.gen.views.preview import Preview, preview, render
from stillhouse.gen.views.projection import Projection
from stillhouse.schemas.limits import Limits
from stillhouse.schemas.recipe import Recipe


def recipe_of(tmp_path: Path, *, rows: int = 200, teacher: dict[str, Any] | None = None, **ask: Any) -> Recipe:
    """Different prompts, asked of the simulator; `teacher` adds to it."""
    lines = [json.dumps({"q": f"How much is {n} + {n}?"}) + "\n" for n in range(rows)]
    (tmp_path / "prompts.jsonl").write_text("".join(lines))
    return Recipe.model_validate(
        {
            "name": "projected",
            "source": {"path": str(tmp_path / "prompts.jsonl"), "prompt": "q"},
            "ask": {"samples": 2} | ask,
            "teachers": [{"name": "sim", "api": "simulator", "limits": {"in_flight": 16}} | (teacher or {})],
            "dataset": {"path": str(tmp_path / "out"), "prompts_per_shard": 20},
        }
    )


def projected(shown: Preview) -> Projection:
    """The projection, which there must be."""
    assert shown.projection is not None, shown.no_projection
    return shown.projection


def test_there_is_no_projection_before_an_answer(tmp_path: Path) -> None:
    """And the plan says how to get one."""
    shown = preview(recipe_of(tmp_path))
    assert shown.projection is None
    assert "projection    `plan --sample 100` asks 100 rows first" in render(shown)


async def test_a_few_answers_are_too_few(tmp_path: Path) -> None:
    """Nine prompts tell nothing of two hundred."""
    recipe = recipe_of(tmp_path)
    await run_in_process(recipe, limit=9)
    shown = preview(recipe)
    assert (shown.projection, shown.no_projection) == (None, "fewer than 10 prompts are answered with token counts")


async def test_identical_answers_leave_no_uncertainty(tmp_path: Path) -> None:
    """20 tokens out each: what is left, at the price and at the limit, with a range of nothing."""
    settings = {"output_tokens": [20, 20]}
    price, limits = {"input": 0, "output": 3}, {"requests_per_minute": 6000}
    recipe = recipe_of(tmp_path, teacher={"simulator": settings, "price": price, "limits": limits})
    summary = await run_in_process(recipe, limit=40)
    shown = projected(preview(recipe))
    assert (shown.answers, shown.prompts) == (80, 40)
    each = summary.output_tokens / 80
    assert shown.output_tokens.likely == pytest.approx(each * 320)
    assert shown.output_tokens.low == shown.output_tokens.high == shown.output_tokens.likely
    assert shown.usd is not None
    assert shown.whole_usd is not None
    assert shown.usd.likely == pytest.approx(each * 320 * 3 / 1e6)
    assert shown.whole_usd.likely == pytest.approx(each * 400 * 3 / 1e6)
    assert shown.seconds is not None
    assert shown.seconds.likely == pytest.approx(320 / 100)
    assert shown.bound_by == "limits.requests_per_minute of simulator/sim"


async def test_the_full_run_costs_what_was_projected(tmp_path: Path) -> None:
    """Answers of 8 to 200 tokens: the range is narrow, and has the truth in it or close by."""
    recipe = recipe_of(tmp_path, teacher={"simulator": {"output_tokens": [8, 200]}})
    before = await run_in_process(recipe, limit=60)
    shown = projected(preview(recipe))
    after = await run_in_process(recipe)
    rest = after.output_tokens - before.output_tokens
    figure = shown.output_tokens
    assert figure.low < figure.likely < figure.high < 1.6 * figure.low
    factor = figure.high / figure.likely  # nine in ten runs end within one; none within two would be odd
    assert figure.low / factor < rest < figure.high * factor


async def test_without_limits_the_latency_decides_the_time(tmp_path: Path) -> None:
    """320 answers of 50 ms, 16 at a time as declared, or as many as there were."""
    recipe = recipe_of(tmp_path, teacher={"simulator": {"latency_s": 0.05}})
    await run_in_process(recipe, limit=40)
    table = ds.dataset(tmp_path / "out" / "data", format="parquet").to_table(columns=["latency_s"])
    each = sum(table["latency_s"].to_pylist()) / 80
    shown = projected(preview(recipe))
    assert shown.seconds is not None
    assert shown.seconds.likely == pytest.approx(320 * each / 16)
    assert "limits.in_flight and the latency so far" in shown.bound_by
    undeclared = recipe.teachers[0].model_copy(update={"limits": Limits()})
    shown = projected(preview(recipe.model_copy(update={"teachers": (undeclared,)})))
    assert "requests in flight so far" in shown.bound_by


async def test_unknown_figures_are_reported_as_unknown(tmp_path: Path) -> None:
    """Without a price there is no cost; the projection replaces unknown bounds."""
    recipe = recipe_of(tmp_path)
    await run_in_process(recipe, limit=20)
    shown = preview(recipe)
    assert projected(shown).usd is None
    text = render(shown)
    assert "projection    of what is left, from 40 answers to 20 prompts, if it is like them" in text
    assert "  cost          unknown without teachers.sim.price\n" in text
    assert "max_tokens" not in text
    await run_in_process(recipe)
    shown = preview(recipe)
    assert (shown.to_ask, shown.projection, shown.no_projection) == (0, None, "")
    assert "projection" not in render(shown)


def test_a_missing_key_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the variable or the file; another machine may have it."""
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    terms = {"training_use": "permitted", "license": "MIT"}
    real = {"api": "openai-chat", "base_url": "http://localhost:1/v1", "model": "m", "terms": terms}
    for reference, told in (("env:NO_SUCH_KEY", "NO_SUCH_KEY"), (f"file:{tmp_path}/key", f"{tmp_path}/key")):
        shown = preview(recipe_of(tmp_path, rows=3, teacher=real | {"api_key": reference}))
        (warning,) = shown.warnings
        assert warning.startswith("teachers.sim.api_key: ")
        assert told in warning
    monkeypatch.setenv("NO_SUCH_KEY", "k" * 20)
    assert preview(recipe_of(tmp_path, rows=3, teacher=real | {"api_key": "env:NO_SUCH_KEY"})).warnings == ()
