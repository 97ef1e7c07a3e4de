"""The values of the `keep` columns: each is exactly of the type that the plan froze, or the row is bad."""

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import pyarrow as pa

from stillhouse.gen.source.conversation import NoPrompt, json_text, kind_of, text
from stillhouse.schemas.recipe import Keep

Converter: TypeAlias = Callable[[Any, str], Any]
"""From a value that is not null and the words that name it, to the value kept; raises NoPrompt."""

_DECLARED = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def kept_field(keep: Keep, own: pa.DataType | None = None) -> pa.Field:
    """The column as it is kept: of the declared type, else the file's own, else string.

    Dictionary and extension types become those of their values.
    """
    kind = _DECLARED[keep.type] if keep.type else own or pa.string()
    while pa.types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind.storage_type
    return pa.field(keep.column, kind)


def converter(kind: pa.DataType) -> Converter:
    """What makes a source's value one of the type.

    Text becomes int64, float64 or bool where it spells one; empty text, as in an empty cell of a CSV, is then null.
    A string column takes other values as their JSON. Values of other types are checked and stay as they are.
    """
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _to_text
    if pa.types.is_int64(kind):
        return _to_int64
    if pa.types.is_float64(kind):
        return _to_float64
    if pa.types.is_boolean(kind):
        return _to_bool
    return _checked(kind)


def _to_text(value: Any, what: str) -> str:
    return text(value if type(value) is str else json_text(value, what), what)


def _to_int64(value: Any, what: str) -> int | None:
    if value == "":
        return None
    if (isinstance(value, str) and _INTEGER.fullmatch(value)) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise NoPrompt(f"{what}: expected an int64, got {_other(value)}")
    return value


def _to_float64(value: Any, what: str) -> float | None:
    if value == "":
        return None
    number = value
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        number = float(value)
        if number in (float("inf"), float("-inf")):
            raise NoPrompt(f"{what}: expected a float64, got a number beyond its range")
    elif type(value) is int:
        number = _exact_float(value, what)
    if type(number) is not float:
        raise NoPrompt(f"{what}: expected a float64, got {_other(value)}")
    return number


def _exact_float(value: int, what: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if number != value:
        raise NoPrompt(f"{what}: expected a float64, got an integer that none is equal to")
    return number


def _to_bool(value: Any, what: str) -> bool | None:
    if value == "":
        return None
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if type(value) is not bool:
        raise NoPrompt(f"{what}: expected true or false, got {_other(value)}")
    return value


def _other(value: Any) -> str:
    return "other text" if isinstance(value, str) else f"another {kind_of(value)}"


def _checked(kind: pa.DataType) -> Converter:
    def check(value: Any, what: str) -> Any:
        try:
            pa.scalar(value, kind)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise NoPrompt(f"{what}: expected a value of type {kind}, got {kind_of(value)}") from error
        return value

    return check
