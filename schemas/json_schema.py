"""A JSON Schema in a recipe: written there, or in a named file. A schema that was read is valid: it compiles.

A schema may use all of draft 2020-12, or of the draft that it names, but it must be self-contained: references are
never fetched.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, JsonValue

from stillhouse.schemas.base import FieldsFault
from stillhouse.schemas.carried_file import CarriedFile, file_or_value
from stillhouse.schemas.strict_json import JsonFault, read_json

Document: TypeAlias = dict[str, JsonValue]
Path: TypeAlias = tuple[str | int, ...]
"""Keys and positions on the path to a value."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_MAX_REASON_CHARS = 300
MAX_DEPTH = 100
"""The deepest nesting accepted: schemas that people write stay below 20, and code that walks one may recurse."""


def _schema(value: Any) -> Any:
    """Read the named file, and reject what is not a schema."""
    value = file_or_value(value, (dict,), expected="a JSON Schema (a mapping) or the path of a file that holds one")
    if isinstance(value, CarriedFile):
        _check_file(value)
    else:
        _check_mapping(value)
    return value


JsonSchema = Annotated[CarriedFile | Document, BeforeValidator(_schema)]
"""The JSON Schema itself, or the path of a file that holds it."""


def document_of(schema: CarriedFile | Document) -> Any:
    """The schema as a document."""
    return json.loads(schema.text) if isinstance(schema, CarriedFile) else schema


def identity_of_schema(schema: CarriedFile | Document) -> Document:
    """How an identity represents the schema: a file's SHA-256, or the schema itself."""
    return {"sha256": schema.sha256} if isinstance(schema, CarriedFile) else schema


def schema_key(schema: CarriedFile | Document) -> str:
    """A name that equal schemas share: SHA-256 in hex."""
    if isinstance(schema, CarriedFile):
        return schema.sha256
    return hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()


def schema_validator(document: Any) -> Any:
    """The validator of a JSON Schema, for the draft that it names (by default 2020-12): never reads a file or a URL,
    and matches every pattern in linear time.

    Raises:
        jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError: the document is not a schema.
    """
    import jsonschema_rs

    return jsonschema_rs.validator_for(document, offline=True, pattern_options=jsonschema_rs.RegexOptions())


def _check_file(file: CarriedFile) -> None:
    """Raise ValueError, naming the file's line, if it does not hold a schema."""
    try:
        document = read_json(file.text)
    except JsonFault as error:
        where = file.path if error.line is None else f"{file.path}:{error.line}"
        raise ValueError(f"{where}: expected a JSON Schema, got {error}") from None
    if (fault := fault_in(document)) is not None:
        path, words = fault
        raise ValueError(f"{file.path}:{_line_of(file.text, path)}: {words}")


def _check_mapping(document: Document) -> None:
    """Raise FieldsFault, naming the place in the recipe, if the mapping is not a schema."""
    if (fault := fault_in(document)) is not None:
        path, words = fault
        raise FieldsFault({path: words}) if path else ValueError(words)


def fault_in(document: Any) -> tuple[Path, str] | None:
    """(place in the document, message) of the first error; None if it is a schema."""
    import jsonschema_rs
    import orjson

    if not isinstance(document, dict):
        return (), "expected a JSON Schema (an object), got another value, so one that is not valid"
    if is_deeper(document, MAX_DEPTH):
        return (), f"expected a JSON Schema, got one that is nested too deeply; at most {MAX_DEPTH} levels are read"
    try:
        orjson.dumps(document)
        schema_validator(document)
    except TypeError:
        return (), "expected a JSON Schema, got one with an integer of more than 64 bits or half of a surrogate pair"
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        reason = getattr(error, "message", str(error)).split("\n")[0][:_MAX_REASON_CHARS]
        if isinstance(getattr(error, "kind", None), jsonschema_rs.ValidationErrorKind.Referencing):
            path, reference = _bad_reference(document, reason)
            return path, (
                "expected only references inside the schema, such as `#/$defs/item`, got one that is not valid: "
                f"{reference}; nothing is fetched: copy what it refers to into `$defs`"
            )
        path = tuple(getattr(error, "instance_path", ()))
        at = "".join(f"/{part}" for part in path)
        return path, f"expected a JSON Schema, got one that is not valid{f' at {at}' if at else ''}: {reason}"
    return None


def is_deeper(value: Any, depth: int) -> bool:
    """True if a JSON value is nested deeper than the limit."""
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth == 0 or any(is_deeper(each, depth - 1) for each in below)


def _bad_reference(document: Any, said: str) -> tuple[Path, str]:
    """(place, reference) of the reference that an error is about; else the error's text."""
    found = [each for each in _references(document) if (bare := each[1].strip("#")) and bare in said]
    return max(found, key=lambda each: len(each[1]), default=((), said))


def _references(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    if isinstance(value, dict):
        for name, each in value.items():
            if name in ("$ref", "$dynamicRef", "$schema") and isinstance(each, str):
                yield (*path, name), each
            yield from _references(each, (*path, name))
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from _references(each, (*path, place))


def _line_of(text: str, path: Path) -> int:
    """The line of JSON text at which the value at a path begins; 1 if there is no such value."""
    at: list[str | int | None] = []
    """The keys and positions on the path to the next token; None stands for a key that comes next."""
    for token in _TOKEN.finditer(text):
        word = token[0]
        if word in "]}":
            at.pop()
        elif word == ",":
            last = at[-1]
            at[-1] = last + 1 if isinstance(last, int) else None
        elif at and at[-1] is None and word.startswith('"'):
            at[-1] = json.loads(word, strict=False)
        elif word != ":":
            if at == list(path):
                return text.count("\n", 0, token.start()) + 1
            if word in "[{":
                at.append(0 if word == "[" else None)
    return 1
