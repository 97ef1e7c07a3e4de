"""Identities as they are stored: no later version may make an existing dataset another recipe's."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import recipe_of
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gen.dataset.binding import bind, parse_binding
from stillhouse.gen.dataset.layout import open_dataset, plan_key
from stillhouse.gen.errors import DatasetError
from stillhouse.schemas.identity import reduced
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.recipe_file import dump_recipe, load_recipe, read_recipe

ROOT = Path(__file__).parents[2]
STORED = Path(__file__).parents[1] / "fixtures" / "identities.json"
FIXTURE = Path(__file__).parents[1] / "fixtures" / "first_format"

RECIPES: dict[str, dict[str, Any]] = {
    "least": {},
    "samples": {"ask": {"samples": 4}},
    "parameters": {
        "ask": {
            "temperature": 0.7,
            "top_p": 0.9,
            "stop": ["a", "b"],
            "seed": 3,
            "max_tokens": 9,
            "reasoning_effort": "low",
        }
    },
    "soft labels": {"ask": {"top_logprobs": 5}},
    "extra": {"ask": {"extra": {"a": {"b": [1, None]}}}},
    "system": {"ask": {"system": "Be\u2028brief.", "template": "{{ question }}!"}},
    "messages": {"source": {"prompt": None, "messages": "conversation", "id": None}},
    "keep": {"source": {"keep": ["answer", {"level": "int64"}, {"name": "prompt", "as": "theirs", "type": "string"}]}},
    "two teachers": {"teachers": [{"name": "a", "api": "simulator"}, {"name": "b", "api": "simulator", "weight": 3}]},
    "dedup": {"dedup": {"answers": False}},
    "inline": {"dataset": {"reasoning": "inline", "prompts_per_shard": 50}},
    "one conversation": {"dataset": {"messages": True}},
}


def identities() -> dict[str, Any]:
    """By name, of the recipes above and of those that the repository holds."""
    found = {name: recipe_of(Path("/data"), **changes).identity() for name, changes in RECIPES.items()}
    for path in ("tests/fixtures/first_quickstart.yaml", "tests/fixtures/first_format/recipe.yaml"):
        found[path] = read_recipe(ROOT / path).identity()
    config, _ = yaml.safe_load_all((ROOT / "cluster/deploy/rayjob.yaml").read_text())
    found["cluster/deploy/rayjob.yaml"] = load_recipe(config["data"]["recipe.yaml"], origin="rayjob.yaml").identity()
    return found


def test_identities_never_change() -> None:
    """Only new names may be added to the stored copy: what is in it is in users' datasets."""
    assert identities() == json.loads(STORED.read_text())


def test_defaults_are_left_out_of_the_identity() -> None:
    """So that a field that is added later changes no identity of a recipe without it."""
    assert recipe_of(Path("/data"), source={"id": None}).identity() == {
        "source": {"prompt": "question"},
        "teachers": [{"name": "sim", "model": "simulator"}],
        "prompts_per_shard": 10,
    }


def test_an_identity_of_the_first_form_is_reduced_by_the_same_rule() -> None:
    """The first format's dataset is bound to what its recipe says today, and to the samples it was made with."""
    bound = parse_binding((FIXTURE / "dataset/_stillhouse/recipe.yaml").read_bytes(), origin="fixture")
    assert (bound.version, bound.samples) == (1, 3)
    assert bound.identity == read_recipe(FIXTURE / "recipe.yaml").identity()


def in_full(recipe: Recipe) -> dict[str, Any]:
    """The identity as schema version 1 wrote it."""
    dump = recipe.model_dump(mode="json")
    keep = [{"name": each["name"], "type": each["type"]} for each in dump["source"]["keep"]]
    ask = ["system", "template", "samples", "temperature", "top_p", "stop", "seed", "reasoning_effort"]
    ask += ["top_logprobs", "max_tokens", "extra"]
    teachers = [
        {"name": t.name, "model": t.model_name} | ({"weight": t.weight} if len(recipe.teachers) > 1 else {})
        for t in recipe.teachers
    ]
    return {
        "source": {name: dump["source"][name] for name in ("prompt", "messages", "id")} | {"keep": keep},
        "ask": {name: dump["ask"][name] for name in ask},
        "teachers": teachers,
        "dedup": {"answers": dump["dedup"]["answers"]},
        "prompts_per_shard": recipe.prompts_per_shard,
        "reasoning": dump["dataset"]["reasoning"],
    }


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("keep", "one conversation")])
def test_both_forms_give_the_same_identity(name: str) -> None:
    """Whatever the recipe says."""
    recipe = recipe_of(Path("/data"), **RECIPES[name])
    assert reduced(in_full(recipe)) == recipe.identity() == reduced(recipe.identity())


def test_a_recipe_without_a_setting_takes_the_datasets(tmp_path: Path) -> None:
    """`messages` is settled when a dataset is bound, like `prompts_per_shard`; another value is refused by name."""
    given = recipe_of(tmp_path, dataset={"messages": True, "prompts_per_shard": 20})
    open_ = recipe_of(tmp_path, dataset={"messages": None, "prompts_per_shard": None})
    store = open_dataset(given)
    store.put_new(plan_key(0), b"{}")
    assert (bind(store, given).messages, bind(store, open_).messages) == (True, True)
    assert bind(store, open_).identity() == given.identity()
    with pytest.raises(DatasetError, match="differ in messages"):
        bind(store, recipe_of(tmp_path, dataset={"messages": False, "prompts_per_shard": 20}))
    new = recipe_of(tmp_path / "new", dataset={"messages": None})
    assert bind(open_dataset(new), new).dataset.messages is False


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.floats(0, 2),
            "top_p": st.floats(0.01, 1),
            "seed": st.integers(-9, 9),
            "max_tokens": st.integers(1, 9),
            "system": st.text(max_size=9),
            "stop": st.lists(st.text(max_size=3), max_size=2),
            "samples": st.integers(1, 9),
        },
    )
)
def test_any_ask_has_one_identity_in_both_forms(ask: dict[str, Any]) -> None:
    """And one that does not depend on how many samples are wanted."""
    recipe = recipe_of(Path("/data"), ask=ask)
    assert reduced(in_full(recipe)) == recipe.identity()
    assert recipe_of(Path("/data"), ask=ask | {"samples": 7}).identity() == recipe.identity()


def test_per_teacher_settings_are_in_the_identity_and_the_ids() -> None:
    """Less what changes nothing; a null that removes a parameter is kept, through the recipe's own dump too."""
    own = {"temperature": None, "top_p": 0.5, "seed": None}
    recipe = recipe_of(
        Path("/data"),
        ask={"temperature": 0.7, "top_p": 0.5, "max_tokens": 9, "extra": {"a": 1}},
        teachers=[
            {"name": "a", "api": "simulator"},
            {"name": "b", "api": "simulator", "ask": own, "extra": {"a": 1, "b": None}, "cache_prompt": False},
        ],
    )
    plain, changed = recipe.identity()["teachers"]
    assert plain == {"name": "a", "model": "simulator"}
    assert changed == {"name": "b", "model": "simulator", "ask": {"temperature": None}, "extra": {"b": None}}
    assert load_recipe(dump_recipe(recipe), origin="dumped").identity() == recipe.identity()
    assert reduced(recipe.identity()) == recipe.identity()
    assert [recipe.ask.of(teacher).parameters() for teacher in recipe.teachers] == [
        {"temperature": 0.7, "top_p": 0.5, "max_tokens": 9, "extra": {"a": 1}},
        {"top_p": 0.5, "max_tokens": 9, "extra": {"a": 1, "b": None}},
    ]


@pytest.mark.parametrize(("api", "details"), [("openai-chat", False), ("anthropic", True), ("gemini", True)])
def test_provider_specific_columns_exist_if_a_teacher_can_fill_them(tmp_path: Path, api: str, details: bool) -> None:
    """Settled when a dataset is bound: a teacher that is asked over another API later changes nothing."""
    given = {"name": "t", "base_url": "http://t", "model": "m", "terms": {"training_use": "permitted"}}
    asked = {name: {**given, "api": name} for name in (api, "openai-chat", "anthropic")}
    recipes = {name: recipe_of(tmp_path, teachers=[asked[name]], ask={"max_tokens": 9}) for name in asked}
    store = open_dataset(recipes[api])
    store.put_new(plan_key(0), b"{}")
    assert bind(store, recipes[api]).provider_details is details
    assert [bind(store, recipe).provider_details for recipe in recipes.values()] == [details] * len(recipes)
    assert ("provider_details" in recipes[api].identity()) is details
