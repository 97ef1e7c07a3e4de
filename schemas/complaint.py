"""Explains what is wrong with a recipe: what was expected, what was found, what to do.

A value that may be a credential is never repeated, whatever is wrong with it or near it.
"""

import difflib
import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from stillhouse.schemas.field_docs import field_docs
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.secret_patterns import is_secret_field, may_hold_secret
from stillhouse.schemas.yaml_tree import Node

_MAX_SHOWN = 60

_NOT_YET = (
    "decontaminate",
    "scrub",
    "dedup.prompts",
)

_OTHER_NAMES = {
    "timeout": ("timeout_s", " The unit is seconds"),
    "timeout_ms": ("timeout_s", " The unit is seconds: divide by 1000"),
    "ship_every": ("ship_every_s", " The unit is seconds"),
    "requests_per_second": ("requests_per_minute", " Write 60 times the number"),
    "requests_per_hour": ("requests_per_minute", " Write the number divided by 60"),
    "tokens_per_second": ("tokens_per_minute", " Write 60 times the number"),
    "input_tokens_per_second": ("input_tokens_per_minute", " Write 60 times the number"),
    "output_tokens_per_second": ("output_tokens_per_minute", " Write 60 times the number"),
    "rps": ("requests_per_minute", " Write 60 times the number"),
    "rpm": ("requests_per_minute", ""),
    "tpm": ("tokens_per_minute", ""),
    "concurrency": ("in_flight", ""),
    "max_in_flight": ("in_flight", ""),
    "retries": ("max_attempts", " It counts the first attempt too"),
    "max_retries": ("max_attempts", " It counts the first attempt too"),
    "max_completion_tokens": ("max_tokens", " Its name on the wire follows the teacher"),
    "n": ("samples", ""),
    "key": ("api_key", ""),
    "url": ("base_url", ""),
    "latency": ("latency_s", " The unit is seconds"),
    "latency_ms": ("latency_s", " The unit is seconds: divide by 1000"),
}
"""Other tools' names for a field, and fields in other units."""

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping (`name: value` lines)",
    "model_type": "a mapping (`name: value` lines)",
    "date_type": "a date such as 2026-11-22",
    "date_parsing": "a date such as 2026-11-22",
    "date_from_datetime_inexact": "a date such as 2026-11-22",
    "date_from_datetime_parsing": "a date such as 2026-11-22",
    "string_pattern_mismatch": "a short name of letters, digits, `.`, `_` and `-` that begins with a letter or a digit",
    "finite_number": "a finite number",
}


def unknown_field(path: str) -> str:
    """The message for a field that no recipe has."""
    *parents, name = path.split(".")
    bare = ".".join(part for part in (*parents, name) if not part.isdigit())
    if bare in _NOT_YET:
        return "not available yet; leave it out"
    known = _fields_at(parents)
    if name in _OTHER_NAMES:
        field, conversion = _OTHER_NAMES[name]
        return f"unknown field; did you mean {field if field in known else _elsewhere(field)}?{conversion}"
    if elsewhere := _elsewhere(name):
        return f"unknown field here; did you mean {elsewhere}?"
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.7):
        return f"unknown field; did you mean {close[0]}?"
    return f"unknown field; expected one of {', '.join(known)}"


def missing_field(path: str) -> str:
    """The message for a missing field: what it is for."""
    *parents, name = path.split(".")
    for model in _models_at(parents):
        if meaning := field_docs(model).get(name):
            return f"missing; add it: {' '.join(meaning.split()).rstrip('.')}"
    return "missing; add it"


def wrong_value(errors: list[ErrorDetails], node: Node, *, path: str) -> str:
    """The message for a value that a validator rejected, or that fits no branch of a union."""
    for error in errors:
        if error["type"] == "value_error":
            # Our own validators already say all this without repeating a secret.
            return str(error["ctx"]["error"])
    expected = list(dict.fromkeys(_expected(error) for error in errors))
    return f"expected {' or '.join(expected)}, got {_shown(node, path=path)}{_advice(expected, node, path=path)}"


def _expected(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "literal_error":
            return str(context["expected"]).replace("'", "`")
        case "union_tag_invalid":
            return f"a mapping with {context['discriminator']} one of {context['expected_tags']}".replace("'", "`")
        case "union_tag_not_found":
            return f"a mapping with {context['discriminator']}".replace("'", "`")
        case "greater_than":
            return f"more than {context['gt']:g}"
        case "greater_than_equal":
            return f"at least {context['ge']:g}"
        case "less_than":
            return f"less than {context['lt']:g}"
        case "less_than_equal":
            return f"at most {context['le']:g}"
        case "too_short":
            return f"at least {context['min_length']} in the list"
        case "too_long":
            return f"at most {context['max_length']} in the list"
        case "string_too_short":
            return "text that is not empty"
        case kind if kind in _EXPECTED:
            return _EXPECTED[kind]
        case _:
            return re.sub(r"^(Input|Value) should (be|have) ", "", error["msg"]).replace("'", "`")


def _shown(node: Node, *, path: str) -> str:
    """The value that was found, described without anything that may be a credential."""
    match node.content:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list() as items:
            return f"a list of {len(items)}" if items else "an empty list"
        case _ if is_secret_field(path) or may_hold_secret(node.written):
            return "a value that is not shown here"
        case str() as text:
            return f"the text {text[:_MAX_SHOWN] + ('…' if len(text) > _MAX_SHOWN else '')!r}"
        case bool() as flag:
            return (
                f"{node.written} ({str(flag).lower()} in YAML)"
                if node.written.lower() != str(flag).lower()
                else node.written
            )
        case number:
            return f"the number {number}"


def _advice(expected: list[str], node: Node, *, path: str) -> str:
    """Advice for a value of the wrong type, if there is any."""
    match node.content:
        case None:
            return "; give it a value, or leave the line out"
        case str() as text if is_secret_field(path) or may_hold_secret(text):
            return ""
        case str() as text if {"a number", "a whole number"} & set(expected):
            return _number_in(text)
        case str() as text if "true or false" in expected and text.lower() in (
            "true",
            "false",
            "yes",
            "no",
            "on",
            "off",
        ):
            return "; write it without quotes"
        case bool() | int() | float() if "text" in expected:
            return "; put it in quotes"
        case str() if "a list" in expected and "text" not in expected:
            return "; put it in brackets: [a, b]"
        case str() as text if close := difflib.get_close_matches(text, _words_in(expected), n=1):
            return f"; did you mean {close[0]}?"
        case _:
            return ""


def _words_in(expected: list[str]) -> list[str]:
    """The values of a field that takes only a few."""
    return [word for each in expected for word in re.findall(r"`([^`]+)`", each)]


def _number_in(text: str) -> str:
    bare = text.replace(",", "").replace("_", "").strip()
    if re.fullmatch(r"[-+]?\d+(\.\d+)?([eE][-+]?\d{1,2})?", bare):
        return f"; write {int(bare) if bare.isdigit() else float(bare)}, without quotes"
    if re.fullmatch(r"\d+(\.\d+)?\s*[A-Za-z%/]+", bare):
        return "; write the number alone: the field's name says its unit"
    return ""


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a field's type mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _models_at(parents: list[str]) -> list[type[BaseModel]]:
    """The models that may be at a path."""
    models: list[type[BaseModel]] = [Recipe]
    for name in parents:
        if not name.isdigit():
            fields = [found[name] for found in map(_fields_of, models) if name in found]
            models = [found for info in fields for found in _models_in(info.annotation)]
    return models


def _fields_at(parents: list[str]) -> list[str]:
    return list(dict.fromkeys(name for model in _models_at(parents) for name in _fields_of(model)))


def _fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields by the names that recipes use."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _elsewhere(name: str) -> str | None:
    """The path of the first field of that name, at any level."""
    return next((path for path in _all_fields(Recipe) if path.rpartition(".")[2] == name), None)


def _all_fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted paths of all fields, a list's by its first item, in breadth-first order."""
    fields = _fields_of(model)
    for name in fields:
        yield prefix + name
    for name, info in fields.items():
        for inner in _models_in(info.annotation):
            item = ".0" if get_origin(info.annotation) is tuple else ""
            yield from _all_fields(inner, f"{prefix}{name}{item}.")
