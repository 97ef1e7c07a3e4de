"""Schemas of answers as each API takes them: what is sent is never narrower than asked, but for closed objects."""

import json
from typing import Any

import orjson
import pytest

from stillhouse.gen.simulator.dialects.base import BadRequest
from stillhouse.gen.simulator.dialects.schemas import checked
from stillhouse.gen.simulator.shaped import value_of
from stillhouse.schemas.json_schema import schema_validator
from stillhouse.schemas.schema_dialects import (
    ANTHROPIC,
    BEDROCK,
    GEMINI,
    CantSend,
    SchemaDialect,
    sendable,
    strict_fault,
)


def closed(**properties: Any) -> dict[str, Any]:
    """A closed object that requires all of these."""
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


INTEGER = {"type": "integer"}
SCHEMAS: dict[str, dict[str, Any]] = {
    "flat": closed(answer=INTEGER, why={"type": "string"}),
    "bounds": closed(
        a={"type": "integer", "minimum": 10, "maximum": 12},
        b={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        c={"type": "string", "minLength": 12, "maxLength": 14},
        d={"type": "array", "items": INTEGER, "minItems": 2, "maxItems": 4},
        e={"type": "integer", "multipleOf": 7, "minimum": -20, "maximum": -1},
    ),
    "choices": closed(a={"enum": ["x", 3, None]}, b={"const": "only"}, c={"anyOf": [INTEGER, {"type": "null"}]}),
    "one of": closed(a={"oneOf": [{"const": 1}, {"const": "two"}]}, b={"type": ["string", "null"]}),
    "references": closed(steps={"type": "array", "items": {"$ref": "#/$defs/step"}, "minItems": 1})
    | {"$defs": {"step": closed(text={"type": "string"}, value=INTEGER)}},
    "formats": closed(a={"type": "string", "format": "date"}, b={"type": "string", "format": "uuid"}),
    "tuple": closed(a={"type": "array", "prefixItems": [INTEGER, {"type": "string"}], "items": False}),
    "one part": closed(a={"allOf": [{"$ref": "#/$defs/n"}], "description": "a count"}) | {"$defs": {"n": INTEGER}},
    "tree": closed(value=INTEGER, children={"type": "array", "items": {"$ref": "#"}, "maxItems": 1, "minItems": 0}),
    "older draft": closed(a={"$ref": "#/definitions/n"}) | {"definitions": {"n": INTEGER}, "$defs": {"m": INTEGER}},
    "open": {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_answers_of_the_simulator_fit_the_schema(name: str) -> None:
    """Whatever the schema, as long as nothing in it is a pattern or a condition."""
    validator = schema_validator(SCHEMAS[name])
    for drawn in (0, 1, 2, 3, 10**6 + 1, 2**63 + 12345, 2**64 - 1):
        value = value_of(SCHEMAS[name], drawn=drawn)
        assert not [fault.message for fault in validator.iter_errors(json.loads(json.dumps(value)))], value


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "minItems": 10**9},
        {"type": "array", "maxItems": 0},
        {"type": "string", "minLength": 10**9},
        {"type": "integer", "minimum": 1e300},
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}] * 9},
        {"type": "array", "items": {"$ref": "#"}},
        {"anyOf": [{"$ref": "#"}, {"properties": {"a": {"$ref": "#/no"}}}]},
    ],
)
def test_the_simulator_handles_any_schema(schema: dict[str, Any]) -> None:
    """What can't be drawn is left at something small that JSON can hold."""
    assert len(orjson.dumps(value_of(schema, drawn=2**63 + 5))) < 100_000


def test_the_simulator_puts_the_right_answer_in_its_field() -> None:
    """In the property named so, where its type allows."""
    assert value_of(SCHEMAS["flat"], drawn=5, answer="42")["answer"] == 42
    assert value_of(closed(final_answer={"type": "string"}), drawn=5, answer="42")["final_answer"] == "42"
    assert value_of(closed(answer={"type": "boolean"}), drawn=5, answer="42")["answer"] in (True, False)


@pytest.mark.parametrize("dialect", [ANTHROPIC, BEDROCK, GEMINI])
@pytest.mark.parametrize("name", [name for name in SCHEMAS if name != "tree"])
def test_converted_schemas_are_accepted_and_no_stricter(name: str, dialect: SchemaDialect) -> None:
    """An answer that fits the whole schema fits what was sent of it; and the provider takes that."""
    sent = sendable(SCHEMAS[name], dialect)
    assert checked(sent, dialect, param="schema") == sent
    validator = schema_validator(sent)
    for drawn in range(0, 2**64, 2**61 + 12345):
        value = json.loads(json.dumps(value_of(SCHEMAS[name], drawn=drawn)))
        assert not [fault.message for fault in validator.iter_errors(value)], value


def test_keywords_an_api_lacks_are_explained_in_words() -> None:
    """After any existing description; the API's own names for the same rule are used."""
    schema = closed(
        a={"type": "integer", "minimum": 1, "description": "A count."}, b={"const": 5}, c={"oneOf": [INTEGER]}
    )
    sent = sendable({"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema, ANTHROPIC)
    assert "$schema" not in sent
    assert sent["properties"] == {
        "a": {"type": "integer", "description": 'A count.\nMust also fit: {"minimum": 1}'},
        "b": {"const": 5},
        "c": {"anyOf": [INTEGER]},
    }
    assert sendable(schema, GEMINI)["properties"] == {
        "a": {"type": "integer", "minimum": 1, "description": "A count."},
        "b": {"enum": [5]},
        "c": {"oneOf": [INTEGER]},
    }
    assert sendable(closed(a={"type": "string", "minLength": 1}), BEDROCK)["properties"]["a"]["minLength"] == 1


def test_objects_are_closed_if_the_api_requires_it() -> None:
    """Additional properties that the schema allows are mentioned in the description; elsewhere objects stay open."""
    schema = {"type": "object", "properties": {"a": {"properties": {"b": INTEGER}}}, "additionalProperties": INTEGER}
    sent = sendable(schema, ANTHROPIC)
    assert sent["additionalProperties"] is False
    assert sent["properties"]["a"]["additionalProperties"] is False
    assert sent["description"] == 'Must also fit: {"additionalProperties": {"type": "integer"}}'
    assert sendable(schema, GEMINI) == schema


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "object"}, "the schema is an object that does not list its `properties`"),
        (
            closed(a={"type": "object", "additionalProperties": INTEGER}),
            "/properties/a is an object that does not list",
        ),
        (
            {"allOf": [{"properties": {"a": INTEGER}}, {"properties": {"b": INTEGER}}]},
            "the schema lists an object's properties in several places",
        ),
        (
            {"properties": {"a": INTEGER}, "anyOf": [{"properties": {"b": INTEGER}}, {"properties": {"c": INTEGER}}]},
            "the schema lists an object's properties in several places",
        ),
        (closed(a={"$ref": "#/$defs/x", "required": ["z"]}) | {"$defs": {"x": closed(y=INTEGER)}}, "beside `$ref`"),
        ({"type": "object", "patternProperties": {"^x": INTEGER}, "additionalProperties": False}, "does not list its"),
        (
            {"properties": {"a": INTEGER}, "required": ["b"]},
            "the schema requires `b`, which its `properties` don't list",
        ),
        (closed(a={"$ref": "#/properties/b/not"}, b={"not": INTEGER}), "`#/properties/b/not` refers to a part"),
        (SCHEMAS["tree"], "# leads back to itself, and the API takes no recursive schema"),
        (
            closed(a={"$ref": "#/$defs/x"}) | {"$defs": {"x": closed(y={"anyOf": [INTEGER, {"$ref": "#/$defs/x"}]})}},
            "#/$defs/x leads back to itself",
        ),
    ],
)
def test_schemas_that_closing_would_empty_are_refused(schema: dict[str, Any], words: str) -> None:
    """With the place in it; an API that takes open objects takes them."""
    with pytest.raises(CantSend) as caught:
        sendable(schema, ANTHROPIC)
    assert words in str(caught.value)
    if "refers to a part" not in words:
        assert sendable(schema, GEMINI)


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        (closed(a={"type": "array", "items": {"$ref": "#/$defs/x"}}) | {"$defs": {"x": INTEGER}}, None),
        (closed(a={"type": "string", "format": "date", "pattern": "^2"}), None),
        ({"type": "array", "items": INTEGER}, "the schema is not an object"),
        (SCHEMAS["open"], "the schema lacks `additionalProperties: false`"),
        (closed(a=INTEGER) | {"required": []}, "the schema does not require `a`"),
        (closed(a={"oneOf": [INTEGER]}), "/properties/a has `oneOf`"),
        (closed(a={"type": "string", "minLength": 1}), "/properties/a has `minLength`"),
        (closed(a={"type": "array"}), "/properties/a lacks `items`"),
        (closed(a={"type": "string", "format": "uri"}), "/properties/a has the format uri"),
        (closed(a={"type": "string", "pattern": "(?=a)"}), "/properties/a has a pattern with lookaround or flags"),
        (closed(a={"$ref": "#/$defs/x", "title": "A"}) | {"$defs": {"x": INTEGER}}, "/properties/a has `$ref` beside"),
    ],
)
def test_the_rules_of_strict_mode_are_checked(schema: dict[str, Any], fault: str | None) -> None:
    """Of OpenAI's, each with the first place that breaks it."""
    found = strict_fault(schema)
    assert found == fault if fault is None else fault in (found or "")


def test_the_simulator_refuses_what_a_provider_refuses() -> None:
    """With the name of the parameter."""
    with pytest.raises(BadRequest, match="'additionalProperties' must be explicitly set to false"):
        checked(SCHEMAS["open"], ANTHROPIC, param="p")
    with pytest.raises(BadRequest, match="For 'integer' type, property 'maximum' is not supported"):
        checked(SCHEMAS["bounds"], BEDROCK, param="p")
