"""Values that fit a JSON Schema, drawn with the request: arguments of tools, and structured answers.

It follows what schemas of answers use, but neither patterns nor conditions.
"""

from collections.abc import Mapping, Sequence
from math import ceil, floor
from typing import Any

_MOST_DEPTH = 8
_MOST_ITEMS, _MOST_CHARS, _MOST_PARTS = 1_000, 10_000, 4
"""Maximum length, however much a schema asks for."""
_STEP = 6_364_136_223_846_793_005
"""Knuth's multiplier of a linear congruential generator: it spreads one draw over the values of an answer."""
_FORMATS = {
    "date-time": "2026-11-26T09:30:00Z",
    "date": "2026-11-26",
    "time": "09:30:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_ANSWERS = ("answer", "final_answer", "result")
"""Properties that get the right answer to a known prompt."""
_LONG, _FAR = 2**64, 2**53


def value_of(schema: Mapping[str, Any], *, drawn: int, answer: str | None = None) -> Any:
    """A value that fits the schema; a property named like an answer gets `answer`, if its type allows."""
    return _Drawn(schema, answer).value(schema, drawn, 0)


class _Drawn:
    def __init__(self, root: Mapping[str, Any], answer: str | None) -> None:
        self._root = root
        self._answer = answer

    def value(self, schema: Any, drawn: int, depth: int) -> Any:
        schema = self._resolved(schema)
        if depth > _MOST_DEPTH and "enum" not in schema and "const" not in schema:
            return None if "null" in _types(schema) else {} if "object" in _types(schema) else _leaf(schema, drawn)
        if "const" in schema:
            return schema["const"]
        if isinstance(enum := schema.get("enum"), list) and enum:
            return enum[drawn % len(enum)]
        for name in ("anyOf", "oneOf"):
            if isinstance(choices := schema.get(name), list) and choices:
                # The last ones end a recursion more often than the first.
                choice = choices[-1] if depth >= _MOST_DEPTH - 2 else choices[drawn % len(choices)]
                return self.value(choice, _next(drawn), depth)
        kind = _types(schema)[0]
        if kind == "object":
            return self._object(schema, drawn, depth)
        if kind == "array":
            return self._array(schema, drawn, depth)
        return _leaf(schema, drawn)

    def _resolved(self, schema: Any, depth: int = 0) -> Mapping[str, Any]:
        """The schema, with a reference or a combination resolved to one schema."""
        for at in range(depth, _MOST_DEPTH):
            if not isinstance(schema, Mapping):
                return {}
            if isinstance(reference := schema.get("$ref"), str):
                schema = _at(self._root, reference)
            elif isinstance(parts := schema.get("allOf"), list):
                rest = {name: value for name, value in schema.items() if name != "allOf"}
                schema = _sum([rest, *(self._resolved(part, at + 1) for part in parts[:_MOST_PARTS])])
            else:
                return schema
        return {}

    def _object(self, schema: Mapping[str, Any], drawn: int, depth: int) -> dict[str, Any]:
        fields = schema.get("properties")
        found = {}
        for name, each in fields.items() if isinstance(fields, Mapping) else ():
            drawn = _next(drawn)
            found[name] = self.value(each, drawn, depth + 1)
            if name in _ANSWERS and self._answer is not None:
                found[name] = _as_type(self._answer, self._resolved(each), found[name])
        return found

    def _array(self, schema: Mapping[str, Any], drawn: int, depth: int) -> list[Any]:
        first = schema.get("prefixItems")
        first = first if isinstance(first, list) else []
        most = min(schema.get("maxItems", max(schema.get("minItems", 1), 3)), _MOST_ITEMS)
        least = min(schema.get("minItems", 1), most)
        count = least + drawn % (most - least + 1)
        items = list(first)
        if (rest := schema.get("items", {"type": "string"})) is not False:
            items += [rest] * (count - len(first))
        found = []
        for item in items:
            drawn = _next(drawn)
            found.append(self.value(item, drawn, depth + 1))
        return found


def _next(drawn: int) -> int:
    return ((drawn * _STEP + 1) % _LONG) ^ (drawn >> 29)


def _types(schema: Mapping[str, Any]) -> Sequence[str]:
    kind = schema.get("type")
    if isinstance(kind, list) and kind:
        return kind
    if isinstance(kind, str):
        return [kind]
    return ["object"] if "properties" in schema else ["array"] if "items" in schema else ["string"]


def _leaf(schema: Mapping[str, Any], drawn: int) -> Any:
    match _types(schema)[0]:
        case "integer":
            return _number(schema, drawn, step=schema.get("multipleOf", 1))
        case "number":
            return _number(schema, drawn, step=schema.get("multipleOf", 0.125))
        case "boolean":
            return drawn % 2 == 1
        case "null":
            return None
        case "array":
            return []
        case "object":
            return {}
        case _:
            return _text(schema, drawn)


def _number(schema: Mapping[str, Any], drawn: int, *, step: float) -> Any:
    """A multiple of the step between the bounds."""
    least = max(schema.get("minimum", -_FAR), schema.get("exclusiveMinimum", -_FAR))
    most = min(schema.get("maximum", _FAR), schema.get("exclusiveMaximum", _FAR))
    least, most = min(least, _FAR), max(most, -_FAR)
    first = ceil(least / step) if least > -_FAR else min(0, floor(most / step) - 999)
    if first * step == schema.get("exclusiveMinimum"):
        first += 1
    last = min(floor(most / step), first + 999)
    if last * step == schema.get("exclusiveMaximum"):
        last -= 1
    return (first + drawn % max(1, last - first + 1)) * step


def _text(schema: Mapping[str, Any], drawn: int) -> str:
    if (known := _FORMATS.get(str(schema.get("format")))) is not None:
        return known
    text = f"word {drawn % 1000}"
    least, most = min(schema.get("minLength", 0), _MOST_CHARS), schema.get("maxLength", len(text))
    return text.ljust(least, ".")[: max(least, most)]


def _as_type(answer: str, schema: Mapping[str, Any], instead: Any) -> Any:
    kinds = _types(schema)
    if "integer" in kinds or "number" in kinds:
        return int(answer) if answer.lstrip("-").isdecimal() else instead
    return answer if "string" in kinds else instead


def _at(root: Mapping[str, Any], reference: str) -> Any:
    """The schema at a JSON pointer."""
    found: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _sum(parts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Schemas that all apply, as one; with the properties of all."""
    found: dict[str, Any] = {}
    for part in parts:
        properties = {**found.get("properties", {}), **part.get("properties", {})}
        found |= part
        if properties:
            found["properties"] = properties
    return found
