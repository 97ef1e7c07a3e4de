"""A dataset keeps the recipe of its last run: read back, it is that recipe."""

from pathlib import Path
from typing import Any

import pytest
from builders import recipe_of
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.gen.dataset.last_run import read_last_run, store_last_run
from stillhouse.gen.dataset.layout import LAST_RUN_KEY, open_dataset
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.simulator.known import KnownAnswers
from stillhouse.schemas.carried_file import MAX_BYTES, carried
from stillhouse.schemas.extra import RESERVED
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.recipe_file import RecipeError, dump_recipe, load_recipe
from stillhouse.schemas.secret_patterns import is_secret_body_field
from stillhouse.schemas.simulator import HangFault, SimulatorSettings

REAL = {
    "name": "r1",
    "endpoints": ["http://10.0.0.1:8000/v1", "http://10.0.0.2:8000/v1"],
    "model": "deepseek-ai/DeepSeek-R1",
    "api_key": "env:R1_API_KEY",
    "account": "r1-prod",
    "limits": {"requests_per_minute": 3000, "in_flight": 512},
    "timeout_s": 1e-05,
    "price": {"input": 0.55, "output": 2.19},
    "weight": 0.5,
    "terms": {
        "training_use": "permitted",
        "license": "MIT",
        "seen_on": "2026-11-22",
        "obligations": ["cite: us", "no"],
    },
}
SIMULATED = {
    "name": "sim",
    "api": "simulator",
    "simulator": {
        "output_tokens": [4, 8],
        "limits": {"in_flight": 3},
        "faults": [
            {"kind": "status", "status": 503, "headers": {"retry-after": "1"}, "share": 0.1, "stop_s": 4.5},
            {"kind": "reset", "when": "body"},
            {"kind": "trickle"},
        ],
    },
}
FULL: dict[str, Any] = {
    "name": "1e5",
    "source": {
        "path": ["a/*.jsonl", "s3://b/c d#e/"],
        "prompt": "no",
        "id": "id",
        "keep": [{"level": "int64"}, "name", "type"],
        "endpoint_url": "http://127.0.0.1:9000",
    },
    "ask": {
        "system": "You are: {careful}\n\n  - yes\t\u00e4 \u2028 \U0001f600 ",
        "template": "{{ no }}\nanswer after ####.",
        "samples": 4,
        "temperature": 0.7,
        "stop": ["\n", "null", "0x1F"],
        "extra": {"chat_template_kwargs": {"on": True, "off": None, "1": [1, 1.0, "1", "2026-11-22"]}},
    },
    "teachers": [REAL, SIMULATED],
    "dedup": {"answers": False},
    "dataset": {"path": "s3://lake/x", "reasoning": "inline", "path_style": False},
    "run": {"workers": 3, "journal_dir": "/tmp/j: x"},
}


def read_back(recipe: Recipe) -> Recipe:
    """The recipe through its file."""
    return load_recipe(dump_recipe(recipe), origin="x")


def test_a_whole_recipe_survives_a_round_trip() -> None:
    """Types of kept columns, lists, dates, faults, and text that YAML would read as something else."""
    recipe = Recipe.model_validate(FULL)
    assert read_back(recipe) == recipe
    assert dump_recipe(read_back(recipe)) == dump_recipe(recipe)
    assert read_back(recipe).identity() == recipe.identity()


def test_a_recipe_made_in_python_survives_a_round_trip(tmp_path: Path) -> None:
    """Values that were left to their defaults, such as a fault's kind, are written out."""
    recipe = recipe_of(tmp_path)
    simulator = SimulatorSettings(faults=(HangFault(), HangFault()))
    teacher = recipe.teachers[0].model_copy(update={"simulator": simulator})
    recipe = recipe.model_copy(update={"teachers": (teacher,)})
    assert read_back(recipe) == recipe


_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_NUMBER = st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
_NAME = _TEXT.filter(
    lambda text: 0 < len(text) <= 200 and text.isprintable() and text not in RESERVED and not is_secret_body_field(text)
)
_JSON = st.recursive(
    st.none() | st.booleans() | _NUMBER | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAME, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(system=_TEXT, extra=st.dictionaries(_NAME, _JSON, max_size=3))
def test_any_text_survives_a_round_trip(system: str, extra: dict[str, Any]) -> None:
    """Whatever is in the system message and in `extra`."""
    ask = {"system": system, "extra": extra}
    recipe = Recipe.model_validate(FULL | {"ask": ask})
    assert read_back(recipe) == recipe


def test_a_dataset_keeps_its_last_run(tmp_path: Path) -> None:
    """Written once, replaced when it changes; overrides hold when it is read."""
    recipe = recipe_of(tmp_path)
    store = open_dataset(recipe)
    store_last_run(store, recipe)
    first = store.stat(LAST_RUN_KEY)
    path = Path(recipe.dataset.path) / LAST_RUN_KEY
    written = path.stat().st_mtime_ns
    store_last_run(store, recipe)
    assert (store.stat(LAST_RUN_KEY), path.stat().st_mtime_ns) == (first, written)
    assert read_last_run(store) == recipe
    other = recipe_of(tmp_path, run={"workers": 2})
    store_last_run(store, other)
    assert read_last_run(store) == other
    assert read_last_run(store, overrides=["teachers.sim.max_attempts=9"]).teachers[0].max_attempts == 9


def test_no_last_run_is_refused(tmp_path: Path) -> None:
    """With what to do; a damaged one names its line."""
    store = open_dataset(recipe_of(tmp_path))
    with pytest.raises(DatasetError, match="give the recipe instead"):
        read_last_run(store)
    store.put(LAST_RUN_KEY, b"\xff: [")
    with pytest.raises(RecipeError, match=r"last_run\.yaml:1, "):
        read_last_run(store)


def test_files_named_in_a_recipe_are_embedded(tmp_path: Path) -> None:
    """Anyone with the dataset can resume it without the files; an edited copy of one is refused."""
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"prompt": "why?", "answer": "because \\u2028 of it"}\n')
    teacher = {"name": "sim", "api": "simulator", "simulator": {"answers": str(answers)}}
    recipe = recipe_of(tmp_path, teachers=[teacher])
    store = open_dataset(recipe)
    store_last_run(store, recipe)
    answers.unlink()
    (again,) = read_last_run(store).teachers
    assert again.simulator is not None
    assert again.simulator.answers is not None
    assert KnownAnswers.read(again.simulator.answers).find("why?") == "because \u2028 of it"
    changed = (store.get(LAST_RUN_KEY) or b"").replace(b"because", b"whatever")
    store.put(LAST_RUN_KEY, changed)
    with pytest.raises(RecipeError, match=r"answers\.jsonl: its content has changed"):
        read_last_run(store)


def test_a_file_too_large_to_embed_stays_in_place(tmp_path: Path) -> None:
    """So does a missing one: what needs it reports it."""
    large = tmp_path / "large.jsonl"
    large.write_text("x" * (MAX_BYTES + 1))
    assert (carried(str(large)), carried("none.jsonl")) == (str(large), "none.jsonl")
