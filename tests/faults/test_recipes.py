"""Recipes that can't work, or would fill the machine: plan and run refuse them at once and write nothing."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from builders import index, questions, recipe_of, write_source
from click.testing import CliRunner
from unit.test_store_local import as_nobody

from stillhouse.cluster.cli import main
from stillhouse.gen.errors import SourceError, UsageError
from stillhouse.gen.source.prompt_maker import PromptMaker
from stillhouse.gen.store import open_store
from stillhouse.gen.views.preview import preview, render
from stillhouse.gen.views.verify import render as render_report
from stillhouse.gen.views.verify import verify
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.recipe_file import RecipeError, load_recipe
from stillhouse.schemas.source import Source

RECIPE = """\
name: small
source: {path: prompts.jsonl, prompt: question}
teachers:
  - name: r1
    base_url: BASE
    model: m
    limits: {requests_per_minute: 60}
    price: {input: 1, output: 2}
    terms: {training_use: permitted}
dataset: {path: out}
"""

BOMBS = [
    "{{ '%*d' % (n, 1) }}",
    "{{ '%*d'|format(n, 1) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ '{:{w}}'.format(1, w=n) }}",
    "{{ 'x'|center(n) }}",
    "{{ 'x'.zfill(n) }}",
    "{{ 'x'|indent(n, true) }}",
    "{{ [1]|batch(n, 0)|list }}",
    "{{ range(100000)|join('x' * 1000000) }}",
    "{{ ('x' * 1000000)|replace('x', 'y' * 1000000) }}",
    "{{ ('\t' * 1000000).expandtabs(1000000) }}",
    "{{ ('a' * 100000).translate({97: 'x' * 160000}) }}",
    "{{ 1|round(n, 'floor') }}",
    "{% set ns = namespace(x=q) %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[q]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=9) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% set x %}{% for i in range(100000) %}{{ 'y' * 1000000 }}{% endfor %}{% endset %}",
    "{{ range(100000)|map('center', 100000)|join }}",
]


def prompt_of(template: str, **values: Any) -> Prompt | str:
    """The row's prompt, or the reason that it has none."""
    return PromptMaker(Source(path="x", prompt="q"), Ask(template=template)).make({"q": "a", "n": 10**9} | values)


@pytest.mark.parametrize("template", BOMBS)
def test_a_template_that_uses_too_much_memory_or_time_makes_a_bad_row(template: str) -> None:
    """Whatever explodes: widths, products, loops, calls, lists of lists."""
    said = prompt_of(template)
    assert isinstance(said, str)
    assert any(words in said for words in ("too large", "steps", "not supported"))


def test_realistic_templates_stay_far_from_the_limits() -> None:
    """Loops with their counters, joins, JSON, formats and recursion over a large row stay well below them."""
    template = (
        "{% for c in cs %}{{ loop.index }}/{{ loop.length }} {{ '%05.1f'|format(c) }} {{ '{:>3}'.format(c) }}\n"
        "{% endfor %}"
        "{{ cs|map('string')|join(', ') }}{{ cs|tojson(indent=2) }}{{ q|replace('a', 'b')|upper ~ '!' }}"
        "{% for t in tree recursive %}{{ t.v }}{{ loop(t.sub) }}{% endfor %}"
    )
    made = prompt_of(template, cs=list(range(10_000)), tree=[{"v": "<", "sub": [{"v": ">", "sub": []}]}])
    assert isinstance(made, Prompt), made
    assert made.messages[0][1].startswith("1/10000 000.0   0\n")
    assert made.messages[0][1].endswith("B!<>")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("requests_per_minute: 60", "requests_per_minute: -5", "recipe.yaml:7: teachers.0.limits.requests_per_minute:"),
        ("BASE", "http://api.example.com/v1", "recipe.yaml:4: teachers.0: http:// to a public host"),
        ("BASE", "https://me:canary@host/v1", "recipe.yaml:5: teachers.0.base_url:"),
        ("BASE", "https://host/v1?key=canary", "recipe.yaml:5: teachers.0.base_url:"),
        ("terms: {training_use: permitted}", "weight: 1", "teachers.0: `terms` is missing"),
        ("training_use: permitted", "training_use: prohibited", "terms prohibit training on the answers"),
        ("training_use: permitted", "training_use: by-authorisation", "needs `authorisation`"),
    ],
)
def test_forbidden_settings_are_refused_by_field(old: str, new: str, told: str) -> None:
    """Rows 70 and 71: with its line and field, before anything is sent, and without the credential."""
    text = RECIPE.replace(old, new).replace("BASE", "http://127.0.0.1:9/v1")
    with pytest.raises(RecipeError) as refused:
        load_recipe(text, origin="recipe.yaml")
    assert told in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    "where", ["file", "file/below", "out/data is a file", "s3://b//x/../y", "/proc/out", "n" * 300]
)
def test_plan_refuses_a_dataset_path_that_run_refuses(tmp_path: Path, where: str) -> None:
    """Exit 2, and nothing is written."""
    write_source(tmp_path, questions(2))
    (tmp_path / "file").write_text("")
    if where == "out/data is a file":
        where = "out"
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "data").write_text("")
    path = where if where.startswith("s3:") else str(tmp_path / where)
    recipe = recipe_of(tmp_path).model_dump(mode="json", exclude_none=True)
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    before = sorted(tmp_path.rglob("*"))
    told = CliRunner().invoke(main, ["plan", str(tmp_path / "recipe.yaml"), "-o", f"dataset.path={path}"])
    assert told.exit_code == 2, told.output
    assert sorted(tmp_path.rglob("*")) == before


def test_plan_refuses_an_unwritable_folder(tmp_path: Path) -> None:
    """Just as the run's first write would fail."""
    recipe = recipe_of(tmp_path, dataset={"path": str(tmp_path / "locked" / "out")})
    (tmp_path / "locked").mkdir(mode=0o700)
    source = write_source(tmp_path, questions(1))
    for path in (tmp_path, source.parent):
        path.chmod(0o755)
    with as_nobody(tmp_path / "locked"), pytest.raises(UsageError, match="give this user access"):
        preview(recipe)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.arrow"])
def test_a_misspelt_column_is_refused_before_anything_is_planned(tmp_path: Path, name: str) -> None:
    """The message lists the existing columns, in plan and in run; a column that only some rows have is fine."""
    path = write_source(tmp_path, questions(3), name=name)
    if name == "a.csv":
        path.write_text("id,question\na,why?\n")
    elif name == "a.arrow":
        table = pa.Table.from_pylist(questions(3))
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    recipe = recipe_of(tmp_path, source={"keep": ["anwser"]})
    for act in (preview, index):
        with pytest.raises(SourceError, match=r"'anwser'.*'id', 'question'"):
            act(recipe)
    assert not list((tmp_path / "out").rglob("plan-*"))
    if name == "a.jsonl":
        write_source(tmp_path, [*questions(3), {"id": "x", "question": "?", "anwser": "42"}], name=name)
        assert preview(recipe).prompts == 4


@pytest.mark.parametrize(
    ("rows", "changes", "said"),
    [
        (questions(3), {"ask": {"template": "{{ qestion }}"}}, "none of the first 3 rows makes one.*'qestion'"),
        (["{"] * 3, {}, "none of the first 3 rows makes one, 3 of them because: not valid JSON"),
    ],
    ids=["template", "rows"],
)
def test_a_recipe_that_makes_no_prompt_is_refused(
    tmp_path: Path, rows: list[Any], changes: dict[str, Any], said: str
) -> None:
    """By plan and run, before the dataset is bound to the mistake; nothing stands in the way of a fixed recipe."""
    write_source(tmp_path, rows)
    for act in (preview, index):
        with pytest.raises(SourceError, match=said):
            act(recipe_of(tmp_path, **changes))
    write_source(tmp_path, questions(3))
    assert index(recipe_of(tmp_path)) is not None
    write_source(tmp_path, ["{"] * 3, name="b.jsonl")  # the recipe is proven: these are bad rows
    assert index(recipe_of(tmp_path)) is not None


def test_a_missing_price_is_named_beside_the_cost(tmp_path: Path) -> None:
    """A teacher's price, max_tokens, or both."""
    write_source(tmp_path, questions(1))
    priced = [{"name": "sim", "api": "simulator", "price": {"input": 1, "output": 2}}]
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({}, {}, "teachers.sim.price and ask.max_tokens"),
        ({"max_tokens": 9}, {}, "teachers.sim.price"),
    ]
    for ask, teachers, lacks in [*cases, ({}, {"teachers": priced}, "ask.max_tokens")]:
        assert f"unknown without {lacks}\n" in render(preview(recipe_of(tmp_path, ask=ask, **teachers)))


def test_verify_names_a_damaged_recipe_once(tmp_path: Path) -> None:
    """A finding is shown with its key, so its message does not repeat it."""
    write_source(tmp_path, questions(1))
    index(recipe_of(tmp_path))
    (tmp_path / "out" / "_stillhouse" / "recipe.yaml").write_text("{")
    told = render_report(verify(open_store(str(tmp_path / "out"))))
    assert told.count("recipe.yaml") == 1
