"""The part of JSON Schema that each API of structured output accepts, as data, and the conversion to it.

The model reads the rest of a schema in a description, and answers are always checked against the whole schema. So the
sent schema may be wider than the original, and is narrower only if an API requires closed objects. A schema whose
answers could then not fit it is refused.

From the providers' pages and clients as read on `SEEN_ON`. Keywords that are not known to be refused are sent.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeAlias

SEEN_ON = date(2026, 11, 26)

Schema: TypeAlias = Mapping[str, Any]

_MAPS = ("properties", "$defs", "definitions", "patternProperties")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_ONES = ("items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else")
_NO_MATTER = ("$schema", "$comment")
"""Keywords that say nothing about answers."""
_RESTS_ON = {"items": "prefixItems", "additionalProperties": "patternProperties"}
"""Keywords whose meaning depends on another keyword."""
_FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"))


class CantSend(ValueError):
    """The API accepts no schema like this; says what is wrong and where."""


@dataclass(frozen=True, slots=True)
class SchemaDialect:
    """What one API accepts of JSON Schema."""

    keywords: frozenset[str]
    formats: frozenset[str] | None = None
    """Values of `format` that the API accepts; None: any."""
    is_closed: bool = False
    """True if each object must list its properties and allow no others."""
    recurses: bool = True
    """True if a schema may refer to itself."""


_SHARED = frozenset((
    "type", "title", "description", "enum", "properties", "required", "additionalProperties", "items", "anyOf",
    "$ref", "$defs", "minItems",
))  # fmt: skip
ANTHROPIC = SchemaDialect(_SHARED | {"const", "allOf", "format"}, _FORMATS | {"uri"}, is_closed=True, recurses=False)
BEDROCK = SchemaDialect(
    ANTHROPIC.keywords | {"minLength", "maxLength"}, ANTHROPIC.formats, is_closed=True, recurses=False
)
GEMINI = SchemaDialect(
    _SHARED | {"$id", "$anchor", "format", "prefixItems", "maxItems", "minimum", "maximum", "oneOf", "propertyOrdering"}
)
SCHEMA_DIALECTS: Mapping[str, SchemaDialect] = {"anthropic": ANTHROPIC, "bedrock": BEDROCK, "gemini": GEMINI}
"""Dialects by a teacher's `api`; other APIs get the schema unchanged."""


def sendable(schema: Schema, dialect: SchemaDialect) -> dict[str, Any]:
    """The schema in an API's dialect.

    Raises:
        CantSend: the dialect can't express it.
    """
    if not dialect.recurses and (at := _cycle(schema)) is not None:
        raise CantSend(f"{at} leads back to itself, and the API takes no recursive schema")
    sent = dict(_node(schema, "", dialect))
    if (lost := _lost_reference(sent, dialect)) is not None:
        raise CantSend(f"`{lost}` refers to a part of the schema that the API does not take")
    return sent


def _lost_reference(sent: Schema, dialect: SchemaDialect) -> str | None:
    """A reference to a part that was left out."""
    targets = {f"#{at}" for at, _ in nodes(sent)}
    named = "$anchor" in dialect.keywords
    for _, node in nodes(sent):
        reference = node.get("$ref")
        if isinstance(reference, str) and reference not in targets and (reference.startswith("#/") or not named):
            return reference
    return None


_NOT_STRICT = frozenset((
    "oneOf", "allOf", "not", "if", "then", "else", "default", "minLength", "maxLength", "patternProperties",
    "unevaluatedItems", "unevaluatedProperties", "propertyNames", "minProperties", "maxProperties", "contains",
    "minContains", "maxContains", "uniqueItems", "dependentRequired", "dependentSchemas", "prefixItems",
))  # fmt: skip


def strict_fault(schema: Schema) -> str | None:
    """Why OpenAI does not accept the schema with `strict`; None if it does."""
    if not is_object(schema):
        return "the schema is not an object"
    return next((fault for at, node in nodes(schema) if (fault := _strict_fault(node, at or "the schema"))), None)


def _strict_fault(node: Schema, at: str) -> str | None:
    if refused := sorted(_NOT_STRICT & node.keys()):
        return f"{at} has `{refused[0]}`"
    if "$ref" in node and len(node) > 1:
        return f"{at} has `$ref` beside other keywords"
    if is_object(node):
        if node.get("additionalProperties") is not False:
            return f"{at} lacks `additionalProperties: false`"
        if optional := sorted(set(node.get("properties", {})) - set(node.get("required", ()))):
            return f"{at} does not require `{optional[0]}`"
    if node.get("type") == "array" and "items" not in node:
        return f"{at} lacks `items`"
    if "format" in node and node["format"] not in _FORMATS:
        return f"{at} has the format {node['format']}"
    if "(?" in str(node.get("pattern", "")):
        return f"{at} has a pattern with lookaround or flags"
    return None


def _node(schema: Any, at: str, dialect: SchemaDialect) -> Any:
    if not isinstance(schema, Mapping):  # true and false are schemas too
        return schema
    if dialect.is_closed:
        _check_closing(schema, at or "the schema")
    kept: dict[str, Any] = {}
    words: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NO_MATTER:
            continue
        name, value = _renamed(key, value, dialect)
        if _is_taken(name, value, schema, dialect):
            below = _below(name, value, f"{at}/{key}", dialect)
            kept[name] = {**kept["$defs"], **below} if name == "$defs" in kept else below
        else:
            words[key] = value
    if "$ref" in kept:  # `$ref` must stand alone
        return {name: kept[name] for name in ("$ref", "$defs") if name in kept}
    if dialect.is_closed and is_object(schema):
        if further := kept.get("additionalProperties"):
            words |= {} if further is True else {"additionalProperties": schema["additionalProperties"]}
        kept["additionalProperties"] = False
    if words:
        said = f"Must also fit: {json.dumps(words, ensure_ascii=False)}"
        kept["description"] = f"{kept['description']}\n{said}" if kept.get("description") else said
    return kept


def _renamed(key: str, value: Any, dialect: SchemaDialect) -> tuple[str, Any]:
    """A keyword that an API lacks, expressed by one that it has and that accepts the same answers or more."""
    if key == "definitions":  # from older drafts
        return "$defs", value
    if key == "$ref" and isinstance(value, str) and value.startswith("#/definitions/"):
        return key, value.replace("definitions", "$defs", 1)
    if key == "oneOf" and key not in dialect.keywords:
        return "anyOf", value
    if key == "const" and key not in dialect.keywords:
        return "enum", [value]
    return key, value


def _is_taken(key: str, value: Any, schema: Schema, dialect: SchemaDialect) -> bool:
    """True if an API accepts a keyword of a schema, with the meaning that it has in the whole."""
    if key not in dialect.keywords:
        return False
    if (beside := _RESTS_ON.get(key)) in schema and beside not in dialect.keywords:
        return False
    if key == "minItems" and dialect.is_closed:
        return value in (0, 1)
    return key != "format" or dialect.formats is None or value in dialect.formats


def _below(key: str, value: Any, at: str, dialect: SchemaDialect) -> Any:
    if key in _MAPS and isinstance(value, Mapping):
        return {name: _node(each, f"{at}/{name}", dialect) for name, each in value.items()}
    if key in _LISTS and isinstance(value, list):
        return [_node(each, f"{at}/{place}", dialect) for place, each in enumerate(value)]
    return _node(value, at, dialect) if key in _ONES else value


def _check_closing(schema: Schema, at: str) -> None:
    """Raise CantSend if an object's answers would not fit once it allows only the properties that it lists."""
    parts = [part for name in ("allOf", "anyOf", "oneOf") for part in schema.get(name, ())]
    listing = [part for part in parts if isinstance(part, Mapping) and (is_object(part) or "$ref" in part)]
    properties = schema.get("properties", {})
    if (listing and properties) or (len(listing) > 1 and "allOf" in schema):
        raise CantSend(f"{at} lists an object's properties in several places: write them in one")
    if "$ref" in schema and (beside := sorted({"properties", "required", "allOf", "anyOf", "oneOf"} & schema.keys())):
        raise CantSend(f"{at} has `{beside[0]}` beside `$ref`: write an object's properties in one place")
    if not is_object(schema):
        return
    if not properties and (schema.get("additionalProperties") is not False or "patternProperties" in schema):
        raise CantSend(f"{at} is an object that does not list its `properties`, and the API takes only closed objects")
    if unlisted := sorted(set(schema.get("required", ())) - set(properties)):
        raise CantSend(f"{at} requires `{unlisted[0]}`, which its `properties` don't list")


def is_object(node: Schema) -> bool:
    """True if a schema describes objects."""
    kind = node.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind) or (kind is None and "properties" in node)


def nodes(schema: Any, at: str = "") -> Iterator[tuple[str, Schema]]:
    """(JSON pointer, node) of a schema and all schemas in it."""
    if not isinstance(schema, Mapping):
        return
    yield at, schema
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, Mapping):
            for name, each in value.items():
                yield from nodes(each, f"{at}/{key}/{name}")
        elif key in _LISTS and isinstance(value, list):
            for place, each in enumerate(value):
                yield from nodes(each, f"{at}/{key}/{place}")
        elif key in _ONES:
            yield from nodes(value, f"{at}/{key}")


def _cycle(schema: Schema) -> str | None:
    """A reference in a schema that leads back to itself; None if there is none."""
    targets = {f"#{at}": node for at, node in nodes(schema)}
    starts: set[str] = {node["$ref"] for node in targets.values() if isinstance(node.get("$ref"), str)}
    for start in sorted(starts):
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            at = ahead.pop()
            for _, node in nodes(targets.get(at, {})):
                reference = node.get("$ref")
                if reference == start:
                    return start
                if isinstance(reference, str) and reference not in seen:
                    seen.add(reference)
                    ahead.append(reference)
    return None
