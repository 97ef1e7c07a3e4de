"""The recipe's file: what is read, what is refused, and the messages."""

import textwrap
from contextlib import suppress
from datetime import date
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from stillhouse.schemas.ask import Ask
from stillhouse.schemas.recipe_file import RecipeError, load_recipe, read_recipe, recipe_json_schema

SMALL = """\
name: small
source: {path: prompts.jsonl, prompt: question}
teachers:
  - {name: r1, api: simulator}
dataset:
  path: out/small
"""

FULL = """\
name: gsm8k-from-r1
source:
  path: s3://lake/prompts/*.parquet
  prompt: question
  id: id
  keep: [answer, level: int64]
ask:
  system: You are a careful mathematician.
  template: "{{ question }}\\nGive the final answer after ####."
  samples: 4
  temperature: 0.7
  top_p: 0.95
  max_tokens: 2048
  extra: {chat_template_kwargs: {enable_thinking: true}, logit_bias: {50256: -100}}
teachers:
  - name: r1
    api: openai-chat
    base_url: http://vllm-0:8000/v1
    model: deepseek-ai/DeepSeek-R1
    api_key: env:R1_API_KEY
    account: r1-prod
    limits: {requests_per_minute: 3000, output_tokens_per_minute: 400000, in_flight: 512}
    timeout_s: 600
    max_attempts: 6
    price: {input: 0.55, output: 2.19}
    terms: {license: MIT, training_use: permitted, url: https://example.com/LICENSE, seen_on: 2026-11-22}
dedup: {answers: true}
dataset:
  path: s3://lake/datasets/gsm8k-from-r1
  prompts_per_shard: 1000
  reasoning: column
  keep_raw: true
  endpoint_url: http://127.0.0.1:9000
run: {workers: auto, ship_every_s: 2}
"""

CANARY = "sk-canary-0123456789"


def problems(text: str, *overrides: str) -> list[str]:
    """What is wrong with a recipe, a line each."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(text, origin="recipe.yaml", overrides=overrides)
    return str(caught.value).splitlines()


def only(text: str, *overrides: str) -> str:
    """The one thing wrong with a recipe."""
    found = problems(text, *overrides)
    assert len(found) == 1, found
    return found[0]


def with_line(old: str, new: str) -> str:
    """The full recipe with one line replaced."""
    assert FULL.count(old) == 1
    return FULL.replace(old, new)


def test_a_full_recipe_is_read() -> None:
    """Every field of a recipe arrives with its type."""
    recipe = load_recipe(FULL, origin="recipe.yaml")
    (teacher,) = recipe.teachers
    assert [(keep.name, keep.type) for keep in recipe.source.keep] == [("answer", None), ("level", "int64")]
    assert recipe.ask.extra == {"chat_template_kwargs": {"enable_thinking": True}, "logit_bias": {"50256": -100}}
    assert teacher.terms is not None
    assert teacher.terms.seen_on == date(2026, 11, 22)
    assert (teacher.timeout_s, recipe.run.workers) == (600.0, "auto")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("timeout_s: 600", "timeout: 600", "teachers.0.timeout: unknown field; did you mean timeout_s?"),
        ("samples: 4", "sampels: 4", "ask.sampels: unknown field; did you mean samples?"),
        ("samples: 4", "in_flight: 4", "ask.in_flight: unknown field here; did you mean teachers.0.limits.in_flight?"),
        ("in_flight: 512", "requests_per_second: 5", "did you mean requests_per_minute? Write 60 times the number"),
        (
            "account: r1-prod",
            "account: r1-prod\n    ask: {temprature: null}",
            "ask.temprature: unknown field; did you mean temperature?",
        ),
        (
            "account: r1-prod",
            "account: r1-prod\n    ask: {samples: 2}",
            "ask.samples: unknown field here; did you mean ask.samples?",
        ),
        (
            "account: r1-prod",
            "account: r1-prod\n    headers: {Host: x}",
            "host: set by Stillhouse itself; leave it out of `headers`",
        ),
        (
            "account: r1-prod",
            "account: r1-prod\n    headers: {x-a: a, X-A: b}",
            "x-a: given twice; the case of a header's name does not matter",
        ),
        ("account: r1-prod", "account: r1-prod\n    extra: {messages: []}", "leave it out of `extra`"),
        (
            "base_url: http://vllm-0:8000/v1",
            "base_url: http://vllm-0:8000/v1/chat/completions",
            "base_url: expected the API's base URL, without `/chat/completions`",
        ),
        ("samples: 4", "samples: 0", "ask.samples: expected at least 1, got the number 0"),
        ("samples: 4", "samples: true", "ask.samples: expected a whole number, got true"),
        ("samples: 4", "samples:", "got nothing; give it a value, or leave the line out"),
        ("temperature: 0.7", 'temperature: "0.7"', "expected a number, got the text '0.7'; write 0.7, without quotes"),
        ("max_tokens: 2048", "max_tokens: 2k", "write the number alone: the field's name says its unit"),
        ("name: gsm8k-from-r1", "name: 1:30", "name: expected text, got the number 90; put it in quotes"),
        ("keep_raw: true", "keep_raw: 'yes'", "expected true or false, got the text 'yes'; write it without quotes"),
        ("reasoning: column", "reasoning: both", "expected `column` or `inline`, got the text 'both'"),
        ("seen_on: 2026-11-22", "seen_on: last week", "expected a date such as 2026-11-22, got the text 'last week'"),
        (
            "  prompts_per_shard: 1000\n",
            "  batch_size: 5\n",
            "dataset.batch_size: unknown field; expected one of path,",
        ),
        ("keep: [answer, level: int64]", "keep: [answer, 3]", "source.keep: expected one column per item"),
        ("keep: [answer, level: int64]", "keep: [level: int8]", "expected a type of string, int64, float64, bool"),
        ("workers: auto", "workers: many", "run.workers: expected a whole number or `auto`, got the text 'many'"),
        ("workers: auto", "workers: 0", "run.workers: expected at least 1 or `auto`, got the number 0"),
        ("path: s3://lake/prompts/*.parquet", "path: [a, 5]", "source.path.1: expected text, got the number 5"),
        (
            "path: s3://lake/prompts/*.parquet",
            "path: []",
            "source.path: expected text or at least 1 in the list, got an empty list",
        ),
        ("path: s3://lake/prompts/*.parquet", "path: {a: b}", "source.path: expected text or a list, got a mapping"),
    ],
)
def test_a_problem_is_reported_with_line_path_and_advice(old: str, new: str, message: str) -> None:
    """One wrong field is one line: where, which, what was expected, what came, what to do."""
    found = only(with_line(old, new))
    line = FULL[: FULL.index(old)].count("\n") + 1 + new.count("\n", 0, -1)
    assert found.startswith(f"recipe.yaml:{line}: ")
    assert message in found


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("accept: 2", "accept: 2 needs `at_most`, the maximum number of answers asked for a prompt; add it"),
        ("at_most: 2", "at_most: 2 needs `accept`, the answers wanted for each prompt; add it"),
        ("accept: 3\n  at_most: 2", "expected accept to be no more than at_most, got 3 and 2"),
        ("samples: 4\n  accept: 1\n  at_most: 2", "expected either `samples` or `accept` with `at_most`, got both"),
    ],
)
def test_accept_and_at_most_go_together(fields: str, message: str) -> None:
    """Instead of samples."""
    assert f": ask: {message}" in only(with_line("samples: 4", fields))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (FULL + "decontaminate: {}\n", "decontaminate"),
        (FULL + "scrub: true\n", "scrub"),
        (with_line("dedup: {answers: true}", "dedup: {prompts: near}"), "dedup.prompts"),
    ],
)
def test_planned_features_are_refused_as_not_built_yet(text: str, path: str) -> None:
    """A key of a later version is distinguished from a misspelt one."""
    assert only(text).endswith(f" {path}: not available yet; leave it out")


def test_all_problems_are_reported_at_once_in_file_order() -> None:
    """A user fixes a recipe in one go."""
    text = """\
        name: x
        source: {prompt: question}
        ask: {samples: many}
        teachers:
          - {name: a, base_url: http://example.com/v1}
          - {name: b, api: simulator, wieght: 2}
        dataset: {}
        """
    assert [line.split(": ", 2)[:2] for line in problems(textwrap.dedent(text))] == [
        ["recipe.yaml:2", "source.path"],
        ["recipe.yaml:3", "ask.samples"],
        ["recipe.yaml:5", "teachers.0"],
        ["recipe.yaml:5", "teachers.0"],
        ["recipe.yaml:5", "teachers.0"],
        ["recipe.yaml:6", "teachers.1.wieght"],
        ["recipe.yaml:7", "dataset.path"],
    ]


def test_messages_are_plain() -> None:
    """No message is the validator's own."""
    text = "name: 3\nsource: 4\nask: []\nteachers: {}\ndedup: no\ndataset: null\nrun: {workers: {}, ship_every_s: []}\n"
    told = "\n".join(problems(text))
    assert not any(word in told for word in ("Input", "pydantic", "https://errors", "valid", "literal", "constrained"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "recipe.yaml: empty"),
        ("# only a comment\n", "recipe.yaml: empty"),
        ("- a\n- b\n", "recipe.yaml:1: expected a mapping"),
        ("name: x\nask:\n\tsamples: 1\n", "recipe.yaml:3, column 1: not valid YAML: a tab; indent with spaces"),
        ("name: [x\n", "recipe.yaml:2, column 1: not valid YAML: "),
        ("name: x\n---\nname: y\n", "recipe.yaml:2, column 1: not valid YAML: a second document"),
        ("name: x\nask: {}\nname: y\n", "recipe.yaml:3: name: given twice, first at recipe.yaml:1; keep one"),
        ("ask: {template: {{ question }}}\n", "put text that begins with { or [ in quotes"),
        ("name: !!python/object/apply:os.getcwd []\n", "recipe.yaml:1: expected a plain value, got a YAML tag"),
        ("name: *gone\n", "an alias (`*name`) without its anchor"),
        ("a: &a [*a]\n", "does an alias contain itself?"),
        ("name: \x00\n", "recipe.yaml:1: a character that YAML forbids"),
        ('name: "\\ud800"\n', "recipe.yaml:1: expected Unicode text"),
        ("seed: 1" + 5000 * "0", "put text in quotes"),
        ("seed: .inf", "expected a finite number"),
        ("[" * 5000, "nested too deeply"),
        ("x" * 1_000_001, "is it the prompts file?"),
    ],
)
def test_text_that_is_not_a_recipe_gets_one_clear_line(text: str, message: str) -> None:
    """Syntax errors are reported by line and column, in terms of the file."""
    assert message in only(text)


def test_aliases_are_read_but_never_multiply() -> None:
    """Anchors and merge keys work; a few lines that expand to millions of values are refused."""
    shared = SMALL.replace(
        "{name: r1, api: simulator}", "&t {name: r1, api: simulator}\n  - {<<: *t, name: r2, weight: 3}"
    )
    assert [teacher.weight for teacher in load_recipe(shared, origin="r").teachers] == [1.0, 3.0]
    rows = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]
    assert "with the aliases expanded" in only("\n".join(["a0: &a0 [1, 1]", *rows]))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("api_key: env:R1_API_KEY", f"api_key: {CANARY}"),
        ("api_key: env:R1_API_KEY", f"api_key: [{CANARY}]"),
        ("api_key: env:R1_API_KEY", f"apikey: {CANARY}"),
        ("base_url: http://vllm-0:8000/v1", f"base_url: {CANARY}"),
        ("base_url: http://vllm-0:8000/v1", f"base_url: https://me:{CANARY}@host/v1"),
        ("base_url: http://vllm-0:8000/v1", f"base_url: https://host/v1?key={CANARY}"),
        ("base_url: http://vllm-0:8000/v1", f"endpoints: [https://host/v1, '{CANARY}']"),
        ("base_url: http://vllm-0:8000/v1", f"endpoints: {CANARY}"),
        ("endpoint_url: http://127.0.0.1:9000", f"endpoint_url: http://{CANARY}@127.0.0.1:9000"),
        ("extra: {chat", f"extra: {{n: 2, headers: {{authorization: {CANARY}}}, chat"),
        ("extra: {chat", f"extra: {{password: !!int {CANARY}, chat"),
        ("temperature: 0.7", f"temperature: {CANARY}"),
        ("account: r1-prod", f"account: [{CANARY}]\n    api_key: {CANARY}"),
        ("account: r1-prod", f"account: *{CANARY}"),
        ("account: r1-prod", f"account: '{CANARY}"),
        ("account: r1-prod", f"\taccount: {CANARY}"),
        ("name: r1", f"name: r 1 {CANARY}"),
        ("account: r1-prod", f"headers: {{X-Api-Key: {CANARY}}}"),
        ("account: r1-prod", f"headers: {{x: [{CANARY}]}}"),
        ("account: r1-prod", f"headers: {{x: {CANARY}, host: y}}"),
        ("account: r1-prod", f"headers: {{Authorization: Bearer {CANARY}}}"),
        ("account: r1-prod", f"query: {{key: {CANARY}}}"),
        ("account: r1-prod", f"query: {{'a b': {CANARY}}}"),
    ],
)
def test_a_credential_is_never_repeated(old: str, new: str) -> None:
    """A key in the wrong place is refused without being shown."""
    assert CANARY not in "\n".join(problems(with_line(old, new)))


@pytest.mark.parametrize(
    ("extra", "where"),
    [
        ("{api_key: hunter2}", "api_key"),
        ("{apiKey: 'env:R1_API_KEY'}", "apiKey"),
        ("{litellm: {vertex_credentials: '{}'}}", "litellm.vertex_credentials"),
        ("{tools: [{type: mcp, authorization: hunter2}]}", "tools.0.authorization"),
        (f"{{note: [a, 'use {CANARY}']}}", "note.1"),
        (f"{{note: {{{CANARY}: 1}}}}", "a name in note"),
        ("{note: Bearer 0123456789abcdef}", "note"),
    ],
)
def test_extra_must_not_hold_a_secret(extra: str, where: str) -> None:
    """It is stored with the dataset; the complaint says what to use instead, and never what was there."""
    account, shared = "account: r1-prod", next(line.strip() for line in FULL.splitlines() if "extra: {chat" in line)
    for recipe in (with_line(account, f"{account}\n    extra: {extra}"), with_line(shared, f"extra: {extra}")):
        text = only(recipe)
        assert f"extra: {where}: expected no secret" in text
        assert "headers: {name: env:NAME}" in text
        assert not any(secret in text for secret in (CANARY, "hunter2", "0123456789"))


def test_extra_may_hold_values_that_only_look_secret() -> None:
    """Fields of ordinary requests, and schemas of tools that ask for one."""
    token: dict[str, JsonValue] = {"type": "string", "description": "a Bearer token; sk-learn"}
    properties: dict[str, JsonValue] = {"password": {"type": "string"}, "token": token}
    extra: dict[str, JsonValue] = {
        "prompt_cache_key": "prompts-of-2026",
        "eos_token": "</s>",
        "chat_template_kwargs": {"bos_token": "<s>", "image_url": "https://host/a.png"},
        "tools": [{"function": {"parameters": {"properties": properties, "required": ["password"]}}}],
    }
    assert Ask.model_validate({"extra": extra}).extra == extra


def test_overrides_set_fields_by_path_number_and_name() -> None:
    """Values are YAML, missing mappings are made, the last word counts."""
    recipe = load_recipe(
        SMALL,
        origin="recipe.yaml",
        overrides=[
            "dataset.path=out/first",
            "dataset.path=out/second",
            "teachers.r1.timeout_s=5",
            "teachers.0.weight=2",
            "ask.extra.a.b=[1, 2]",
            "source.keep=[answer, level: int64]",
            "run.workers=3",
        ],
    )
    assert recipe.dataset.path == "out/second"
    assert (recipe.teachers[0].timeout_s, recipe.teachers[0].weight) == (5.0, 2.0)
    assert recipe.ask.extra == {"a": {"b": [1, 2]}}
    assert [keep.type for keep in recipe.source.keep] == [None, "int64"]
    assert recipe.run.workers == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset.path", "-o: expected KEY=VALUE, such as dataset.path=out/x, got 'dataset.path'"),
        ("=5", "-o: expected KEY=VALUE"),
        ("ask..samples=5", "-o: expected KEY=VALUE"),
        (f"teachers.r1.api_key {CANARY}", "-o: expected KEY=VALUE"),
        ("ask.sampels=5", "-o ask.sampels: unknown field; did you mean samples?"),
        ("ask.samples=many", "-o ask.samples: expected a whole number, got the text 'many'"),
        ("ask.template={{ question }}", "-o ask.template: expected a field's name"),
        ("ask.stop=[a", "-o ask.stop: not valid YAML: "),
        ("teachers.r2.model=x", "-o teachers.r2.model: expected a list item, by its position (0) or its name (r1)"),
        ("teachers.1.model=x", "-o teachers.1.model: expected a list item, by its position (0) or its name (r1)"),
        ("name.first=x", "-o name.first: expected a mapping or a list above `first`, got a single value"),
        (f"teachers.0.api_key={CANARY}", "-o teachers.0.api_key: expected a reference"),
        ("a." * 500 + "b=1", "…: expected a field, got 501 levels"),
    ],
)
def test_a_bad_override_is_named(override: str, message: str) -> None:
    """The message names the override and shows no credential."""
    (found,) = problems(FULL, override)
    assert message in found
    assert CANARY not in found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"name: x\nask: {system: \xff\xfe}\n",
            "recipe.yaml:2: expected UTF-8, got other bytes; save the file as UTF-8",
        ),
        (SMALL.encode("utf-16"), "expected UTF-8"),
        (None, "no such file; expected the path of a recipe (YAML)"),
    ],
)
def test_an_unreadable_file_is_reported(tmp_path: Path, content: bytes | None, message: str) -> None:
    """A missing file and other encodings are the user's to fix."""
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    assert message in str(caught.value)


def test_a_folder_is_not_a_recipe(tmp_path: Path) -> None:
    """A folder is refused as one."""
    with pytest.raises(RecipeError, match="is a folder"):
        read_recipe(tmp_path)


def test_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    """What other editors save is a recipe too."""
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert read_recipe(path, overrides=["name=other"]).name == "other"


def test_the_json_schema_accepts_valid_recipes_and_refuses_wrong_ones() -> None:
    """An editor that knows the schema agrees with the loader, and shows what fields are for."""
    schema = recipe_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    as_json = FULL.replace("2026-11-22", "'2026-11-22'").replace("50256", "'50256'")
    for text in (SMALL, as_json, as_json.replace("level: int64", "{name: level, type: int64}")):
        validator.validate(yaml.safe_load(text))
    for text in (
        as_json.replace("samples: 4", "sampels: 4"),
        as_json.replace("int64", "int8"),
        SMALL.replace("prompt:", "id:"),
    ):
        assert not validator.is_valid(yaml.safe_load(text))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert all("description" in field for field in schema["$defs"]["Ask"]["properties"].values())


_FRAGMENTS = st.sampled_from(
    [*"\n\t :-[]{}&*!|>'\"%@`#,?=<", "\n  ", "- ", ": ", "&a ", "*a", "<<: ", "--- ", "!!int ", "0x_", "2026-02-30"]
)
_WORDS = st.sampled_from(
    ["name", "source", "ask", "teachers", "dataset", "keep", "path", "workers", "1", "-.5", "yes", "~"]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3),
    max_leaves=8,
)


def is_read_or_refused(text: str, *overrides: str) -> None:
    """Reading ends in a recipe or in a RecipeError."""
    with suppress(RecipeError):
        load_recipe(text, origin="fuzz.yaml", overrides=overrides)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.lists(_FRAGMENTS | _WORDS, max_size=30).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text gets past RecipeError."""
    is_read_or_refused(text)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_value_in_any_field_is_read_or_refused(data: st.DataObject) -> None:
    """A valid recipe with one field replaced by anything is read or refused."""
    recipe = yaml.safe_load(FULL)
    place, key = recipe, data.draw(st.sampled_from(list(recipe)))
    while isinstance(place[key], (dict, list)) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
    place[key] = data.draw(_VALUES)
    is_read_or_refused(yaml.safe_dump(recipe, allow_unicode=True))


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_any_override_is_applied_or_refused(key: str, value: str) -> None:
    """No override gets past RecipeError."""
    for override in (f"{key}={value}", f"ask.{key}={value}", f"dataset.path={value}", key):
        is_read_or_refused(SMALL, override)
