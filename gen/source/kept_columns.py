"""Values of the `keep` columns: each has exactly the type that the plan froze, or the row is bad."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import pyarrow as pa

from stillhouse.gen.source.conversation import NoPrompt, json_text, kind_of, text
from stillhouse.gen.source.formats.columnar import Nanoseconds
from stillhouse.schemas.columns import VALUES
from stillhouse.schemas.source import Keep

Converter: TypeAlias = Callable[[Any, str], Any]
"""Converts a non-null value to the value kept; `what` describes it; raises NoPrompt."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def kept_field(keep: Keep, own: pa.DataType | None = None) -> pa.Field:
    """The column as kept: of the declared type, else the files' own, else string."""
    return pa.field(keep.column, VALUES[keep.type] if keep.type else own or pa.string())


def converter(kind: pa.DataType) -> Converter:
    """A converter of source values to the type.

    Text becomes int64, float64 or bool if it spells one; empty text, such as an empty CSV cell, is then null. A string
    column takes other values as their JSON. Any other value is kept equal to the original, or refused.
    """
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _to_text
    if pa.types.is_int64(kind):
        return _to_int64
    if pa.types.is_float64(kind):
        return _to_float64
    if pa.types.is_boolean(kind):
        return _to_bool
    return _exactly(kind)


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
        raise NoPrompt(f"{what}: expected a float64, got an integer that no float64 equals")
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
    return "other text" if isinstance(value, str) else f"a value of another kind ({kind_of(value)})"


def _exactly(kind: pa.DataType) -> Converter:
    """A check that passes values of the type through unchanged.

    Arrow itself would turn 7.9 into 7, drop fields not in the struct type, and truncate a time to its unit.
    """
    types = pa.types
    if types.is_struct(kind):
        return _to_struct(kind)
    if types.is_map(kind):
        return _to_map(kind)
    if _is_list(kind):
        size = kind.list_size if types.is_fixed_size_list(kind) else None
        return _to_list(_exactly(kind.value_type), kind, size, nulls=kind.value_field.nullable)
    if types.is_dictionary(kind):
        return _exactly(kind.value_type)
    if types.is_integer(kind):
        return _to_integer(kind)
    if types.is_floating(kind):
        return _to_floating(kind)
    if types.is_temporal(kind):
        return _to_time(kind)
    return _equal(kind)


def _to_integer(kind: pa.DataType) -> Converter:
    is_signed = pa.types.is_signed_integer(kind)
    low, high = (-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1)) if is_signed else (0, 2**kind.bit_width)

    def check(value: Any, what: str) -> int:
        number = int(value) if type(value) is float and value.is_integer() else value
        if type(number) is not int or not low <= number < high:
            raise NoPrompt(f"{what}: expected a value of type {kind}, got {_other(value)}")
        return number

    return check


def _to_floating(kind: pa.DataType) -> Converter:
    def check(value: Any, what: str) -> float:
        number = _exact_float(value, what) if type(value) is int else value
        if type(number) is not float:
            raise NoPrompt(f"{what}: expected a value of type {kind}, got {_other(value)}")
        if number == number and pa.scalar(number, kind).as_py() != number:
            raise NoPrompt(f"{what}: expected a value of type {kind}, got a number that it can't hold exactly")
        return number

    return check


def _to_list(convert: Converter, kind: pa.DataType, size: int | None, *, nulls: bool) -> Converter:
    def check(value: Any, what: str) -> list[Any]:
        if not isinstance(value, (list, tuple)) or (size is not None and len(value) != size):
            raise NoPrompt(f"{what}: expected a value of type {kind}, got {kind_of(value)}")
        return [_inside(item, convert, what, nulls=nulls) for item in value]

    return check


def _to_map(kind: pa.DataType) -> Converter:
    to_key, to_item = _exactly(kind.key_type), _exactly(kind.item_type)

    def check(value: Any, what: str) -> list[tuple[Any, Any]]:
        if not isinstance(value, list) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
            raise NoPrompt(f"{what}: expected a value of type {kind}, got {kind_of(value)}")
        nulls = kind.item_field.nullable
        return [
            (_inside(key, to_key, what, nulls=False), _inside(item, to_item, what, nulls=nulls)) for key, item in value
        ]

    return check


def _to_struct(kind: pa.DataType) -> Converter:
    fields = {field.name: (_exactly(field.type), field.nullable) for field in kind}

    def check(value: Any, what: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise NoPrompt(f"{what}: expected a value of type {kind}, got {kind_of(value)}")
        if more := [name for name, item in value.items() if name not in fields and item is not None]:
            raise NoPrompt(f"{what}: the field {more[0]!r} is not in its type, {kind}")
        return {
            name: _inside(value.get(name), convert, f"{what}, field {name!r}", nulls=nulls)
            for name, (convert, nulls) in fields.items()
        }

    return check


def _inside(value: Any, convert: Converter, what: str, *, nulls: bool) -> Any:
    if value is not None:
        return convert(value, what)
    if not nulls:
        raise NoPrompt(f"{what}: expected a value, got null")
    return None


_UNITS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EPOCH = datetime(1970, 1, 1)


def _to_time(kind: pa.DataType) -> Converter:
    types = pa.types
    if types.is_date(kind):
        return _of(date, kind)
    if not (types.is_timestamp(kind) or types.is_duration(kind) or types.is_time(kind)):
        return _equal(kind)
    per_second = _UNITS_PER_SECOND[kind.unit]
    has_zone = types.is_timestamp(kind) and kind.tz is not None

    def check(value: Any, what: str) -> Any:
        nanoseconds, is_right = _nanoseconds(value, kind, has_zone=has_zone)
        if not is_right:
            raise NoPrompt(f"{what}: expected a value of type {kind}, got {_other(value)}")
        count, rest = divmod(nanoseconds * per_second, 10**9)
        if rest or not -(2**63) <= count < 2**63:
            raise NoPrompt(f"{what}: expected a value of type {kind}, got a time that it can't hold exactly")
        return count if kind.unit == "ns" else value

    return check


def _nanoseconds(value: Any, kind: pa.DataType, *, has_zone: bool) -> tuple[int, bool]:
    """The value in nanoseconds, and True if it has the type: a time with or without a zone, and so on."""
    types = pa.types
    if isinstance(value, Nanoseconds):
        return value.count, value.is_like(kind)
    if types.is_duration(kind):
        return _whole(value) if isinstance(value, timedelta) else 0, isinstance(value, timedelta)
    if types.is_time(kind):
        if not isinstance(value, time) or value.tzinfo is not None:
            return 0, False
        since = timedelta(hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond)
        return _whole(since), True
    if not isinstance(value, datetime) or (value.tzinfo is not None) != has_zone:
        return 0, False
    since = value - (_EPOCH.replace(tzinfo=UTC) if has_zone else _EPOCH)
    # If pandas is installed, pyarrow returns its types for nanoseconds.
    return _whole(since), True


def _whole(value: timedelta) -> int:
    micros = (value.days * 86_400 + value.seconds) * 10**6 + value.microseconds
    return micros * 1000 + int(getattr(value, "nanoseconds", 0))


def _of(wanted: type, kind: pa.DataType) -> Converter:
    def check(value: Any, what: str) -> Any:
        if type(value) is not wanted:
            raise NoPrompt(f"{what}: expected a value of type {kind}, got {_other(value)}")
        return value

    return check


def _equal(kind: pa.DataType) -> Converter:
    """For types in which a comparison reveals any change that Arrow makes: text, bytes, decimals."""
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)

    def check(value: Any, what: str) -> Any:
        if is_text:
            return text(value, what)
        stored = value.bytes if isinstance(value, UUID) else value
        try:
            same = pa.scalar(stored, kind).as_py()
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise NoPrompt(f"{what}: expected a value of type {kind}, got {kind_of(value)}") from error
        if type(same) is not type(stored) or same != stored:
            raise NoPrompt(f"{what}: expected a value of type {kind}, got {_other(value)}")
        return stored

    return check


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )
