"""`checks:` in a recipe: read or refused with its line, part of the identity, and with its files inside."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from builders import index, questions, recipe_of, write_source

from stillhouse.gen.checks.preflight import check_references
from stillhouse.gen.checks.registry import require
from stillhouse.gen.dataset.chunk import ChunkReader
from stillhouse.gen.dataset.first_rows import check_first_rows
from stillhouse.gen.dataset.last_run import read_last_run, store_last_run
from stillhouse.gen.dataset.layout import ChunkId, open_dataset
from stillhouse.gen.errors import SourceError, UsageError
from stillhouse.gen.source.survey import survey
from stillhouse.gen.views.preview import preview
from stillhouse.schemas.checks import references_of
from stillhouse.schemas.json_schema import document_of
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.recipe_file import RecipeError, dump_recipe, load_recipe, recipe_json_schema

HEAD = """\
name: checked
source: {path: prompts.jsonl, prompt: question}
teachers: [{name: sim, api: simulator}]
dataset: {path: out}
checks:
"""


def problems(check: str) -> str:
    """The faults of a recipe whose only check is written like this, on line 6."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(f"{HEAD}  - {check}\n", origin="r.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ("maths: {answer: a}", "checks.0.maths: unknown field; did you mean math?"),
        ("math: {anwser: a}", "checks.0.math.anwser: unknown field; did you mean answer?"),
        ("math: {answer: a, tolerance: 1}", "checks.0.math.tolerance: unknown field; expected one of name, answer"),
        ("math: {}", "checks.0.math.answer: missing; add it: The column with the known answer"),
        ("math: {answer: 3}", "checks.0.math.answer: expected text, got the number 3"),
        ("math", "checks.0: expected a mapping"),
        ("{}", "checks.0: expected one check per item, such as `math: {answer: answer}`, got none"),
        ("{math: {answer: a}, length: {max: 3}}", "checks.0: expected one check per item"),
        ("math: {answer: a, name: ''}", "checks.0.math.name: expected a short name"),
        ("choice: {answer: a, options: [AB, C]}", "checks.0.choice.options: expected different single letters"),
        ("choice: {answer: a, options: [A, A]}", "checks.0.choice.options: expected different single letters"),
        ("contains: {}", "checks.0.contains: expected one of `text` (the same for all rows) and `column`"),
        ("contains: {text: a, column: b}", "checks.0.contains: expected one of `text`"),
        (
            "regex: {pattern: '('}",
            "checks.0.regex.pattern: expected a regular expression in RE2's syntax, got one that ",
        ),
        ("regex: {pattern: '(?=a)'}", "does not compile: invalid perl operator: (?=; RE2 has no lookaround"),
        ("regex: {pattern: '(a{1000}){1000}'}", "does not compile: invalid repetition size: {1000}"),
        (
            "json_schema: {schema: nope.json}",
            "checks.0.json_schema.schema: expected a JSON Schema (a mapping) or the path of a file",
        ),
        ("json_schema: {schema: 5}", "checks.0.json_schema.schema: expected a JSON Schema (a mapping) or the path"),
        ("json_schema: {schema: {type: objekt}}", "got one that is not valid at /type: "),
        (
            "json_schema: {schema: {$ref: 'http://127.0.0.1:9/x'}}",
            "checks.0.json_schema.schema.$ref: expected only references",
        ),
        ("json_schema: {schema: {pattern: '(?=a)'}}", 'is not a "regex"'),
        ("json_schema: {}", "checks.0.json_schema.schema: missing; add it: The JSON Schema itself, or the path"),
        ("length: {}", "checks.0.length: expected `min` or `max`, or both, got neither"),
        ("length: {min: 5, max: 3}", "checks.0.length: expected `min` to be at most `max`, got 5 and 3"),
        ("length: {max: 3, unit: lines}", "checks.0.length.unit: expected `chars`, `words` or `tokens`"),
        (
            "language: {is: german}",
            "checks.0.language.is: expected a language code that is known, got 'german'; did you ",
        ),
        ("language: {is: en-GB}", "did you mean en?"),
        ("language: {is: [en, qq]}", "got 'qq'; the codes are af, "),
        ("language: {iz: en}", "checks.0.language.is: missing; add it: The language's ISO 639-1 code"),
        ("reasoning: {min_chars: 0}", "checks.0.reasoning.min_chars: expected at least 1, got the number 0"),
        ("repetition: {max: 30}", "checks.0.repetition.max: expected less than 1, got the number 30"),
        ("python: {tests: t, isolation: docker}", "checks.0.python.isolation: expected `bubblewrap` or `process`"),
    ],
)
def test_a_wrong_check_is_refused_with_its_line(check: str, message: str) -> None:
    """What was expected, what came and what to do."""
    found = problems(check)
    assert message in found
    assert all(line.startswith("r.yaml:6: checks.0") for line in found.splitlines())


def test_two_checks_of_one_name_are_refused() -> None:
    """By default the name is the kind; another name is the way out."""
    with pytest.raises(RecipeError, match=r"checks 1 and 3 of the list share the name math.* `name: math_2`"):
        load_recipe(
            f"{HEAD}  - math: {{answer: a}}\n  - length: {{max: 3}}\n  - math: {{answer: b}}\n", origin="r.yaml"
        )
    recipe = load_recipe(f"{HEAD}  - math: {{answer: a}}\n  - math: {{answer: b, name: math_2}}\n", origin="r.yaml")
    assert [check.name for check in recipe.checks] == ["math", "math_2"]


def with_checks(tmp_path: Path, *checks: dict[str, Any], **changes: Any) -> Recipe:
    """A recipe with these checks."""
    return recipe_of(tmp_path, checks=list(checks), **changes)


def test_checks_are_part_of_the_identity_without_their_defaults(tmp_path: Path) -> None:
    """A recipe without checks keeps the identity that it always had."""
    assert with_checks(tmp_path).identity() == recipe_of(tmp_path).identity()
    recipe = with_checks(
        tmp_path,
        {"math": {"answer": "a", "name": "math"}},
        {"length": {"max": 9, "unit": "chars"}},
        {"reasoning": {"min_chars": 1}},
        {"json_schema": {"schema": {"type": "object"}}},
    )
    assert recipe.identity()["checks"] == [
        {"math": {"answer": "a"}},
        {"length": {"max": 9}},
        {"reasoning": {}},
        {"json_schema": {"schema": {"type": "object"}}},
    ]


def test_a_schema_file_is_embedded_and_identified_by_its_hash(tmp_path: Path) -> None:
    """Wherever the file is, and also when it is gone."""
    path = tmp_path / "answer.schema.json"
    path.write_text('{"type": "object"}')
    recipe = with_checks(tmp_path, {"json_schema": {"schema": str(path)}})
    elsewhere = tmp_path / "moved.json"
    path.rename(elsewhere)
    digest = hashlib.sha256(b'{"type": "object"}').hexdigest()
    moved = with_checks(tmp_path, {"json_schema": {"schema": str(elsewhere)}})
    assert (
        recipe.identity()["checks"] == moved.identity()["checks"] == [{"json_schema": {"schema": {"sha256": digest}}}]
    )
    elsewhere.unlink()
    store = open_dataset(recipe)
    store_last_run(store, recipe)
    assert read_last_run(store).checks == recipe.checks
    assert document_of(recipe.checks[0].settings.fits) == {"type": "object"}
    torn = dump_recipe(recipe).replace("object", "string")
    with pytest.raises(RecipeError, match=r"answer\.schema\.json: its content has changed"):
        load_recipe(torn, origin="r.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "text that is not JSON"),
        ("[1]", "is not valid"),
        ("[" * 100_000, "JSON"),
        ("x" * 200_001, "at most 200,000"),
    ],
)
def test_a_file_that_is_no_schema_is_refused(tmp_path: Path, content: str, message: str) -> None:
    """The message names its path, before anything is asked."""
    path = tmp_path / "answer.schema.json"
    path.write_text(content)
    assert message in problems(f"json_schema: {{schema: {path}}}")
    assert str(path) in problems(f"json_schema: {{schema: {path}}}")


def test_editors_know_the_checks() -> None:
    """The JSON Schema takes what the reader takes, and no check of two kinds."""
    schema = recipe_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema | {"required": ["checks"]})
    good = [
        {"math": {"answer": "a"}},
        {"json_schema": {"schema": "a.json"}},
        {"json_schema": {"schema": {"type": "object"}, "name": "b"}},
        {"language": {"is": "en"}},
        {"language": {"is": ["en", "de"], "name": "c"}},
    ]
    recipe: dict[str, Any] = {"name": "x", "source": {"path": "p", "prompt": "q"}, "dataset": {"path": "o"}}
    recipe |= {"teachers": [{"name": "t", "api": "simulator"}]}
    assert not list(validator.iter_errors(recipe | {"checks": good}))
    both = {"math": {"answer": "a"}, "length": {"max": 3}}
    wrong: tuple[dict[str, Any], ...] = ({}, {"maths": {}}, both, {"language": {"is": "qq"}})
    for bad in wrong:
        assert list(validator.iter_errors(recipe | {"checks": [bad]})), bad


def test_the_line_of_a_wrong_column_is_named(tmp_path: Path) -> None:
    """As for a field with a fault of its own."""
    text = f"{HEAD}  - length: {{max: 9}}\n  - math:\n      answer: knwon\n".replace(
        "prompts.jsonl", str(tmp_path / "source")
    )
    recipe = load_recipe(text, origin="r.yaml", overrides=[f"dataset.path={tmp_path / 'out'}"])
    write_source(tmp_path, rows_with(1, 2))
    with pytest.raises(SourceError, match=r"^r\.yaml:8: checks\.1\.math\.answer: none of the first 2 rows"):
        preview(recipe)
    essay = load_recipe(text.replace("knwon", "essay"), origin="r.yaml")
    write_source(tmp_path, [row | {"essay": "so " * 50} for row in questions(2)])
    with pytest.raises(SourceError, match=r"^r\.yaml:8: checks\.1\.math\.answer: none of the first 2 rows has a known"):
        preview(essay)


def rows_with(*answers: Any) -> list[dict[str, Any]]:
    """Questions with these known answers; one without where it is `...`."""
    return [
        row | ({} if answer is ... else {"known": answer})
        for row, answer in zip(questions(len(answers)), answers, strict=True)
    ]


def test_a_missing_column_is_refused_before_any_request(tmp_path: Path) -> None:
    """By the field that names it, with what it may have meant."""
    write_source(tmp_path, rows_with(1, 2))
    recipe = with_checks(tmp_path, {"length": {"max": 9}}, {"math": {"answer": "knwon"}})
    with pytest.raises(
        SourceError, match=r"^checks\.1\.math\.answer: none of the first 2 rows .*; did you mean `known`\?"
    ):
        preview(recipe)
    recipe = with_checks(tmp_path, {"choice": {"answer": "known", "options": "letters"}})
    with pytest.raises(SourceError, match=r"^checks\.0\.choice\.options: none of the first 2 rows"):
        preview(recipe)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([1], "column 'known': expected text or a number to compare answers with, got list"),
        ({"a": 1}, "column 'known': expected text or a number to compare answers with, got dict"),
        (" ", "column 'known' is empty, and a check compares answers with it"),
        (None, "column 'known' is null, and a check compares answers with it"),
    ],
)
def test_an_unusable_column_is_refused_before_any_request(tmp_path: Path, value: object, why: str) -> None:
    """When no row has what a check could compare with."""
    write_source(tmp_path, rows_with(value, value))
    recipe = with_checks(tmp_path, {"math": {"answer": "known"}})
    with pytest.raises(SourceError, match="none of the first 2 rows makes one") as caught:
        check_first_rows(survey(recipe.source).files, recipe)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("check", "value", "why"),
    [
        ({"math": {"answer": "question"}}, 1, None),
        (
            {"math": {"answer": "known"}},
            "How many of the clips did she sell to all of her friends in April and in May?",
            "got prose",
        ),
        (
            {"choice": {"answer": "known"}},
            2,
            "expected one of A to Z, got other text; a number is not used as a position",
        ),
        ({"choice": {"answer": "known"}}, "(b)", None),
    ],
)
def test_a_column_without_known_answers_is_refused_before_any_request(
    tmp_path: Path, check: dict[str, Any], value: object, why: str | None
) -> None:
    """When not one of the first rows has one, it is the wrong column."""
    write_source(tmp_path, rows_with(value, value))
    recipe = with_checks(tmp_path, check)
    prompts = check_first_rows(survey(recipe.source).files, recipe)
    if why is None:
        check_references(recipe, prompts)
        return
    with pytest.raises(
        SourceError, match=r"^checks\.0\.\w+\.answer: none of the first 2 rows has a known answer"
    ) as caught:
        check_references(recipe, prompts)
    assert why in str(caught.value)


def test_a_row_without_its_reference_is_a_bad_row(tmp_path: Path) -> None:
    """It would be paid for and could not be checked; all others carry what checks compare with."""
    write_source(tmp_path, rows_with("72", ..., 3, "", 0.5))
    recipe = with_checks(tmp_path, {"math": {"answer": "known"}}, {"exact": {"answer": "known"}})
    index(recipe)
    chunk = ChunkReader(open_dataset(recipe), recipe).read(ChunkId(0, 0))
    assert [(prompt.id, prompt.references) for prompt in chunk.prompts] == [
        ("q0", ("72",)),
        ("q2", ("3",)),
        ("q4", ("0.5",)),
    ]
    assert [(bad.prompt_id, bad.message.split(",")[0]) for bad in chunk.bad] == [
        ("q1", "column 'known' is missing"),
        ("q3", "column 'known' is empty"),
    ]


def test_options_are_read_as_texts(tmp_path: Path) -> None:
    """From a list, or from a struct of texts and labels as some data sets have it."""
    rows = [
        row | {"known": "A", "options": options}
        for row, options in zip(questions(3), (["x", 2], {"text": ["x", "y"], "label": ["A", "B"]}, ["x"]), strict=True)
    ]
    write_source(tmp_path, rows)
    recipe = with_checks(tmp_path, {"choice": {"answer": "known", "options": "options"}})
    assert [reference.column for reference in references_of(recipe.checks)] == ["known", "options"]
    index(recipe)
    chunk = ChunkReader(open_dataset(recipe), recipe).read(ChunkId(0, 0))
    assert [prompt.references for prompt in chunk.prompts] == [("A", ("x", "2")), ("A", ("x", "y"))]
    assert [bad.message for bad in chunk.bad] == ["column 'options': expected 2 to 26 options, got 1"]


@pytest.mark.filterwarnings("ignore:sys.meta_path is empty:ImportWarning")  # as it is made to be
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message says how to install it; checks that need no extra still run."""
    for module in ("math_verify", "py3langid"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.meta_path", [])
    recipe = with_checks(tmp_path, {"math": {"answer": "a"}}, {"language": {"is": "en"}}, {"length": {"max": 3}})
    with pytest.raises(UsageError, match=r"^checks: language and math need .* pip install 'stillhouse\[checks\]'$"):
        require(recipe.checks)
    require(recipe.checks[2:])


def test_a_recipe_with_checks_survives_a_round_trip(tmp_path: Path) -> None:
    """In YAML, as a cluster and a dataset are given it."""
    recipe = with_checks(
        tmp_path,
        {"choice": {"answer": "a", "options": ["A", "B"]}},
        {"language": {"is": ["en", "de"]}},
        {"regex": {"pattern": "\\d+$", "name": "number"}},
        {"json_schema": {"schema": json.loads('{"properties": {"a": {"type": ["null", "integer"]}}}')}},
    )
    assert load_recipe(dump_recipe(recipe), origin="again").checks == recipe.checks
