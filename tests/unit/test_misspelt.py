"""A column or template that the recipe misspells is reported with the recipe's line and what may be meant."""

import json
from pathlib import Path

import pytest
from harness import run_in_process

from stillhouse.cluster.driver import run
from stillhouse.gen.errors import OtherRecipe, UsageError
from stillhouse.gen.views.preview import preview
from stillhouse.schemas.recipe_file import RecipeError, dump_recipe, read_recipe

ROWS = [{"id": str(n), "question": f"{n} + {n}?", "data": {"hint": "Add."}} for n in range(3)]

_RECIPE = """\
name: misspelt
source:
  path: {path}
  {source}
ask:
  {ask}
teachers: [{{name: sim, api: simulator}}]
dataset: {{path: out}}
"""


def recipe_file(
    tmp_path: Path, *, source: str = "prompt: question", ask: str = "samples: 1", rows: str = "jsonl"
) -> Path:
    """A recipe over the rows, whose line 4 is `source` and line 6 `ask`."""
    prompts = tmp_path / f"prompts.{rows}"
    if rows == "csv":
        prompts.write_text("id,question\n" + "".join(f"{row['id']},{row['question']}\n" for row in ROWS))
    else:
        prompts.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    path = tmp_path / "recipe.yaml"
    path.write_text(_RECIPE.format(path=prompts, source=source, ask=ask))
    return path


@pytest.mark.parametrize(
    ("written", "field", "meant"),
    [
        ({"source": "prompt: qestion"}, "4: source.prompt:", "question"),
        ({"source": "messages: QUESTION"}, "4: source.messages:", "question"),
        ({"source": "prompt: question\n  id: idd"}, "5: source.id:", "id"),
        ({"source": "prompt: question\n  keep: [id, questoin]"}, "5: source.keep:", "question"),
        ({"ask": 'template: "{{ questin }}"'}, "6: ask.template:", "question"),
        ({"ask": 'system: "{{ quetion }}"'}, "6: ask.system:", "question"),
    ],
)
@pytest.mark.parametrize("rows", ["jsonl", "csv"])
def test_a_misspelt_column_is_reported_with_line_and_suggestion(
    tmp_path: Path, rows: str, written: dict[str, str], field: str, meant: str
) -> None:
    """Everywhere that a column is named, with the columns that exist."""
    path = recipe_file(tmp_path, rows=rows, **written)
    with pytest.raises(UsageError, match=rf"^{path}:{field} .*; did you mean `{meant}`\? Columns: .*'question'"):
        preview(read_recipe(path))


def test_a_suggestion_can_be_a_path_into_a_struct(tmp_path: Path) -> None:
    """As the recipe would have to name it."""
    path = recipe_file(tmp_path, source="prompt: data.hnt")
    with pytest.raises(UsageError, match=r"recipe\.yaml:4: source\.prompt: .*did you mean `data\.hint`\?"):
        preview(read_recipe(path))


def test_a_template_that_does_not_compile_is_reported_with_its_line(tmp_path: Path) -> None:
    """The recipe's line, and the template's own if it has several."""
    path = recipe_file(tmp_path, ask='template: "{{ question"')
    with pytest.raises(UsageError, match=rf"^{path}:6: ask\.template, line 1: "):
        preview(read_recipe(path))


def test_a_mistake_in_an_override_names_the_override(tmp_path: Path) -> None:
    """It is in no file."""
    recipe = read_recipe(recipe_file(tmp_path), overrides=["source.prompt=qestion"])
    with pytest.raises(UsageError, match=r"^-o source\.prompt: none of .*did you mean `question`"):
        preview(recipe)
    recipe = read_recipe(recipe_file(tmp_path), overrides=["ask.template='{{ qestion }}'"])
    with pytest.raises(UsageError, match=r"^-o ask\.template: expected prompts, .* because: 'qestion' is undefined"):
        preview(recipe)


def test_a_stored_recipe_has_no_line_numbers(tmp_path: Path) -> None:
    """A job gets it so; the lines of that text would mislead. Places are not part of what a recipe means."""
    path = recipe_file(tmp_path, source="prompt: qestion")
    recipe = read_recipe(path)
    path.write_text(dump_recipe(recipe))
    assert read_recipe(path) == recipe
    with pytest.raises(UsageError, match=r"^source\.prompt: none of "):
        preview(read_recipe(path))


def test_a_column_optional_in_a_template_may_be_missing(tmp_path: Path) -> None:
    """The template itself allows for it."""
    path = recipe_file(tmp_path, ask='template: "{{ question }}{{ hint is defined }}"')
    assert preview(read_recipe(path)).bad == 0


def test_a_misspelt_choice_gets_a_suggestion(tmp_path: Path) -> None:
    """If a field takes one of a few words, the closest one is suggested."""
    path = recipe_file(tmp_path, source="prompt: question\n  answer: dorp")
    with pytest.raises(RecipeError, match=r"recipe\.yaml:5: source\.answer: .*'dorp'; did you mean drop\?"):
        read_recipe(path)


async def test_a_misspelt_column_is_reported_even_if_the_dataset_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as a different recipe, by plan or run; what is different and right still is one, also without its source."""
    monkeypatch.chdir(tmp_path)
    await run_in_process(read_recipe(recipe_file(tmp_path)))
    misspelt = read_recipe(recipe_file(tmp_path, source="prompt: qestion"))
    for command in (preview, run):
        with pytest.raises(UsageError, match=r":4: source\.prompt: .*; did you mean `question`\?"):
            command(misspelt)
    different = read_recipe(recipe_file(tmp_path, source="prompt: id"))
    for _ in range(2):
        with pytest.raises(OtherRecipe, match=r"they differ in source\.prompt"):
            preview(different)
        (tmp_path / "prompts.jsonl").unlink(missing_ok=True)
