"""`ask.schema`: read or refused with its line, sent as each API takes it, and checked in any case."""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from builders import answer, body_of, chunk_of, questions, recipe_of, sealed, write_source
from harness import run_in_process

from stillhouse.gen.checks.base import Answer, answer_of
from stillhouse.gen.checks.registry import built
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.outcome import BadRequest
from stillhouse.gen.teachers.protocols.answer_schema import schema_notes
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.refused_parameters import refused_parameter
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.views.checked import check
from stillhouse.gen.views.preview import preview
from stillhouse.gen.worker.verdict_frames import text_hash
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.recipe_file import RecipeError, dump_recipe, load_recipe, recipe_json_schema

INTEGER = {"type": "integer"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"answer": INTEGER, "why": {"type": "string"}},
    "required": ["answer", "why"],
    "additionalProperties": False,
}
OPEN: dict[str, Any] = {"type": "object", "properties": {"answer": {"type": "integer", "minimum": 1}}}
TERMS = {"training_use": "by-authorisation", "authorisation": "letter 1"}
HEAD = """\
name: shaped
source: {path: prompts.jsonl, prompt: question}
teachers:
  - {name: sim, api: simulator}
dataset: {path: out}
ask:
"""


def problems(lines: str, head: str = HEAD) -> str:
    """What is wrong with a recipe whose `ask` has these lines, from line 7 on."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(f"{head}{lines}", origin="r.yaml")
    return str(caught.value)


def teacher(api: str, **changes: Any) -> dict[str, Any]:
    """A teacher over this API."""
    return {"name": api, "api": api, "base_url": "http://localhost:1/v1", "model": "m", "terms": TERMS} | changes


def with_schema(tmp_path: Path, *teachers: dict[str, Any], schema: Any = None, **changes: Any) -> Recipe:
    """A recipe whose teachers are asked for this schema."""
    ask = {"schema": SCHEMA if schema is None else schema, "max_tokens": 100}
    return recipe_of(tmp_path, ask=ask, **({"teachers": list(teachers)} if teachers else {}), **changes)


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ('{\n "type": "object",\n "properties": {\n  "a": {"type": "objekt"}\n }\n}', 4, "at /properties/a/type: "),
        ('{\n "a": 1,\n "properties": {"x": {},\n  "y": [\n]}}', 4, "at /properties/y: "),
        ('{\n "$defs": {\n  "a": {"$ref": "https://example.com/a.json"}}}', 3, "got one that is not valid: https://"),
        ('{"properties": {\n "a": {"$ref":\n "#/$defs/none"}}}', 3, "not valid: #/$defs/none; nothing is fetched"),
        ('{\n "$schema": "http://example.com/own"}', 2, "not valid: http://example.com/own"),
        ('{\n "type": "object"\n "properties": {}}', 3, "text that is not JSON: Expecting ',' delimiter at column 2"),
        ("[1]", 1, "expected a JSON Schema (an object), got another value"),
        ('{"maximum": 18446744073709551616}', 1, "an integer of more than 64 bits"),
        ('{"a":' * 101 + "1" + "}" * 101, 1, "nested too deeply; at most 100 levels"),
        ('{"a":' * 40_000, 0, "JSON"),
        ('{"type": "object", "type": "array"}', 0, "JSON with the name 'type' twice in one object"),
        ('{"maximum": 1e999}', 0, "a number that is too large: 1e999"),
        ('{"maximum": ' + "9" * 5000 + "}", 0, "JSON that can't be read"),
        ('{"maximum": NaN}', 0, "NaN is not a JSON number"),
    ],
)
def test_a_file_that_is_not_a_schema_is_refused_with_both_lines(
    tmp_path: Path, content: str, line: int, message: str
) -> None:
    """That of the recipe, and that of the file."""
    path = tmp_path / "answer.schema.json"
    path.write_text(content)
    found = problems(f"  samples: 1\n  schema: {path}\n")
    assert found.startswith(f"r.yaml:8: ask.schema: {path}:")
    assert message in found
    assert not line or f"{path}:{line}: " in found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" " * 200_001, "it has 200,001 bytes, and at most 200,000 are carried"),
        (b'{"title": "\xff"}', "it is not UTF-8"),
        (None, "there is no such file"),
    ],
)
def test_a_schema_file_that_cannot_be_embedded_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    """With the reason."""
    path = tmp_path / "answer.schema.json"
    if content is not None:
        path.write_bytes(content)
    found = problems(f"  schema: {path}\n")
    assert found.startswith(
        "r.yaml:7: ask.schema: expected a JSON Schema (a mapping) or the path of a file that holds one"
    )
    assert message in found


def test_a_schema_in_the_recipe_is_refused_at_its_own_line() -> None:
    """At the fault's line, not where the schema begins."""
    found = problems("  schema:\n    type: object\n    properties:\n      a: {type: objekt}\n")
    assert found.startswith(
        "r.yaml:10: ask.schema.properties.a.type: expected a JSON Schema, got one that is not valid"
    )


def test_a_check_of_the_same_name_is_refused() -> None:
    """The schema adds a check of this name itself."""
    head = HEAD.replace("ask:\n", "checks:\n  - length: {max: 9, name: schema}\nask:\n")
    found = problems("  schema: {type: object}\n", head)
    assert found == (
        "r.yaml:7: checks.0.length.name: the name schema belongs to the check of `ask.schema`; choose another"
    )


def test_a_schema_file_is_embedded_and_identified_by_its_hash(tmp_path: Path) -> None:
    """Wherever it is, and also when it is gone; so do ids of records."""
    path = tmp_path / "answer.schema.json"
    path.write_text(json.dumps(SCHEMA))
    recipe = with_schema(tmp_path, schema=str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    assert recipe.identity()["ask"]["schema"] == {"sha256": digest}
    assert recipe.ask.parameters()["schema"] == {"sha256": digest}
    again = load_recipe(dump_recipe(recipe), origin="again")
    assert (again.ask, again.identity()) == (recipe.ask, recipe.identity())
    assert again.ask.schema_document == SCHEMA
    # `verify` makes the ids of records from the identity alone.
    assert Ask.model_validate(recipe.identity()["ask"]).parameters() == recipe.ask.parameters()


def test_a_recipe_without_a_schema_keeps_its_identity(tmp_path: Path) -> None:
    """With the same identity, parameters and checks."""
    recipe = recipe_of(tmp_path, teachers=[{"name": "sim", "api": "simulator", "ask": {"temperature": 1.0}}])
    assert "schema" not in json.dumps([recipe.identity(), recipe.ask.parameters()])
    assert (recipe.all_checks, recipe.asked_schema) == ((), None)
    assert recipe.teachers[0].ask.model_dump() == {"temperature": 1.0}


def test_a_teacher_can_have_its_own_schema_or_none(tmp_path: Path) -> None:
    """Each answer is judged by that of its teacher."""
    recipe = with_schema(
        tmp_path,
        {"name": "a", "api": "simulator"},
        {"name": "b", "api": "simulator", "ask": {"schema": OPEN}},
        {"name": "c", "api": "simulator", "ask": {"schema": None}},
    )
    assert recipe.asked_schema is not None
    assert len(recipe.asked_schema.by_key) == 2
    (named,) = built(recipe.all_checks)
    readers = [Interpreter(each, recipe.ask) for each in recipe.teachers]
    said = []
    for reader in readers:
        outcome = reader.read(reply_of('{"answer": 7}'))
        assert isinstance(outcome, Completion)
        verdict = named.check.judge(answer_of(outcome), {})
        said.append((verdict.accepted, verdict.detail))
    assert said == [(False, 'the answer: "why" is a required property'), (True, "fits"), (True, "no schema to fit")]


def reply_of(text: str) -> Reply:
    """A reply that says this."""
    return Reply(200, {}, body_of(text), 0.1)


def test_a_tool_call_need_not_fit_the_schema() -> None:
    """It is not an answer yet; a call with text is."""
    assert answer_of(Completion(None, "tool_calls", None, tool_calls="[]", schema_key="k")).schema_key is None
    assert answer_of(Completion("{}", "tool_calls", None, tool_calls="[]", schema_key="k")).schema_key == "k"
    assert text_hash(Answer("x")) != text_hash(Answer("x", schema_key="k"))


FORM = {"type": "json_schema", "schema": SCHEMA}
BODIES: dict[str, Any] = {
    "openai-chat": {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": True}}},
    "openai-responses": {"text": {"format": FORM | {"name": "answer", "strict": True}}},
    "anthropic": {"output_config": {"format": FORM}},
    "gemini": {"generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}},
    "bedrock": {
        "outputConfig": {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"name": "answer"}}}}
    },
}
BODIES["openai-chat"]["response_format"]["json_schema"]["schema"] = SCHEMA
BODIES["bedrock"]["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"] = orjson.dumps(SCHEMA).decode()


def body(recipe: Recipe, place: int = 0) -> dict[str, Any]:
    """What a teacher of the recipe is sent."""
    protocol = Interpreter(recipe.teachers[place], recipe.ask).protocol
    request = protocol.request(
        Request((("user", "hi"),)), base_url="http://localhost:1/v1", key=Credentials("k"), now=0.0
    )
    found: dict[str, Any] = orjson.loads(request.body)
    return found


@pytest.mark.parametrize("api", BODIES)
def test_each_api_is_sent_its_own_structured_output(tmp_path: Path, api: str) -> None:
    """And nothing else from the schema; `extra` still takes precedence."""
    region = {"aws": {"region": "us-east-1"}} if api == "bedrock" else {}
    sent = body(with_schema(tmp_path, teacher(api, **region)))
    without = body(recipe_of(tmp_path, ask={"max_tokens": 100}, teachers=[teacher(api, **region)]))
    if api == "gemini":
        BODIES[api]["generationConfig"] |= without["generationConfig"]
    assert sent == without | BODIES[api]


def test_the_effort_is_sent_beside_the_schema(tmp_path: Path) -> None:
    """Anthropic groups both."""
    changed = teacher("anthropic", model="claude-opus-5-5", ask={"reasoning_effort": "low"})
    assert body(with_schema(tmp_path, changed))["output_config"] == {"effort": "low", "format": FORM}


@pytest.mark.parametrize(
    ("changes", "strict", "note"),
    [
        ({"base_url": "https://api.openai.com/v1"}, False, "is sent without `strict`, because the schema lacks"),
        ({"api": "openai-responses", "base_url": "https://api.openai.com/v1"}, False, "is sent without `strict`"),
        ({"profile": "vllm"}, False, None),
        ({"profile": "deepseek"}, None, "its API takes no schema, so none is sent: describe the answer's form"),
        ({"api": "anthropic"}, None, None),
    ],
)
def test_parts_of_a_schema_that_are_not_sent_are_named(
    tmp_path: Path, changes: dict[str, Any], strict: bool | None, note: str | None
) -> None:
    """Where it makes a difference to the answers."""
    recipe = with_schema(tmp_path, teacher("openai-chat", model="gpt-4.1") | changes, schema=OPEN)
    form = {**body(recipe).get("response_format", {}).get("json_schema", {}), **body(recipe).get("text", {})}
    assert form.get("format", form).get("strict") is strict
    notes = list(schema_notes(recipe))
    assert [note in each for each in notes] == [True] if note else notes == []


def test_a_response_format_in_extra_is_sent_verbatim(tmp_path: Path) -> None:
    """Answers are still checked."""
    own = {"type": "json_object"}
    recipe = with_schema(tmp_path, teacher("openai-chat", extra={"response_format": own}))
    assert body(recipe)["response_format"] == own
    assert recipe.asked_schema is not None


def test_plan_names_the_parts_of_a_schema_that_are_not_sent(tmp_path: Path) -> None:
    """Before anything is asked."""
    write_source(tmp_path, questions(2))
    shown = preview(with_schema(tmp_path, teacher("openai-chat", profile="deepseek")))
    assert any("its API takes no schema, so none is sent" in warning for warning in shown.warnings)


def test_editors_know_the_schema() -> None:
    """As a path, as a mapping, or as null to remove it for a teacher."""
    validator = jsonschema.Draft202012Validator(recipe_json_schema())
    recipe: dict[str, Any] = {"name": "x", "source": {"path": "p", "prompt": "q"}, "dataset": {"path": "o"}}
    for value, is_good in (("a.json", True), ({"type": "object"}, True), (None, True), (5, False)):
        recipe |= {"ask": {"schema": value}, "teachers": [{"name": "t", "api": "simulator", "ask": {"schema": value}}]}
        assert (not list(validator.iter_errors(recipe))) == is_good, value


async def test_stored_answers_are_checked_against_the_schema(tmp_path: Path) -> None:
    """`stillhouse check` says so of a dataset that was made without one."""
    write_source(tmp_path, questions(4))
    recipe = recipe_of(tmp_path)
    await run_in_process(recipe)
    asked = recipe.model_copy(update={"ask": recipe.ask.model_copy(update={"answer_schema": SCHEMA})})
    found = await asyncio.to_thread(check, asked, DatasetReader(open_dataset(recipe)), sample=4)
    assert [(each.name, each.accepted, each.rejected) for each in found.checks] == [("schema", 0, 4)]


def test_groq_gets_strict_schemas_for_models_that_accept_them(tmp_path: Path) -> None:
    """The others refuse it."""
    groq = {"base_url": "https://api.groq.com/openai/v1"}
    for model, strict in (("openai/gpt-oss-120b", True), ("qwen/qwen3-32b", False)):
        sent = body(with_schema(tmp_path, teacher("openai-chat", model=model, **groq)))
        assert sent["response_format"]["json_schema"]["strict"] is strict


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("api: anthropic, model: claude-3-5-sonnet", "sonnet takes no schema. This was true in November 2026"),
        (
            "api: bedrock, model: us.anthropic.claude-opus-4-7-v1, aws: {region: us-east-1}",
            "Converse API takes no schema for us",
        ),
        ("api: anthropic, model: claude-opus-5-5", "the schema is an object that does not list its `properties`"),
        ("base_url: 'https://api.openai.com/v1', model: gpt-4.1, ask: {schema: {type: array}}", "schema of an object"),
    ],
)
def test_a_schema_that_a_teacher_cannot_accept_is_refused(fields: str, message: str) -> None:
    """With both ways out, at the place where it is written."""
    api = "" if "api:" in fields else "api: openai-chat, "
    terms = "terms: {training_use: by-authorisation, authorisation: x}"
    head = HEAD.replace("{name: sim, api: simulator}", f"{{name: t, {api}{fields}, {terms}}}")
    found = problems("  max_tokens: 9\n  schema: {type: object}\n", head)
    where = "r.yaml:4: teachers.0.ask.schema" if "ask:" in fields else "r.yaml:8: ask.schema"
    assert found.startswith(f"{where}: teacher t: ")
    assert message in found
    assert "or none with `ask: {schema: null}`, and have its answers checked by `json_schema`" in found


def test_a_refusal_that_names_the_field_is_about_the_schema(tmp_path: Path) -> None:
    """By the names of all wires."""
    ask = with_schema(tmp_path).ask
    for words in ("Invalid schema for response_format 'answer'", "output_config.format.schema: no", "outputConfig: x"):
        assert refused_parameter(BadRequest(words, 400), ask) == "schema", words


def test_an_answer_that_does_not_fit_the_schema_is_rejected_as_such(tmp_path: Path) -> None:
    """The column, the reason and the counts are those of a check named `schema`, before the recipe's own."""
    recipe, held = chunk_of(tmp_path, questions(2), ask={"schema": SCHEMA}, checks=[{"length": {"max": 1000}}])
    for ordinal, text in enumerate(('{"answer": 1, "why": "so"}', "It is 1.")):
        answer(held, ordinal, body_of(text))
    checks = built(recipe.all_checks)
    for ordinal in held.state.verdicts.take():
        found = []
        for named in checks:
            found.append(named.check.judge(held.answer_to_judge(ordinal), {}))
            if not found[-1].accepted:
                break
        held.judged(ordinal, found, at=1.0)
    meta, rows = sealed(recipe, held)
    (kept,), (rejected,) = rows["data"], rows["rejected"]
    assert list(kept["checks"]) == ["schema", "length"]
    assert kept["checks"]["schema"] == {"accepted": True, "score": 1.0, "detail": "fits"}
    assert rejected["reject_reason"] == "check:schema"
    assert rejected["checks"]["schema"]["detail"].startswith("not JSON: ")
    assert rejected["checks"]["length"] is None
    assert (meta.counts.records, meta.counts.rejected) == (1, {"check:schema": 1})
