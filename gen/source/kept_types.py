"""One type per kept column across all files of a source, which holds every value of each file unchanged.

If there is no such type, the source is refused, naming two files, before anything is planned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from stillhouse.gen.errors import SourceError

_INT_BITS = {pa.int8(): 8, pa.int16(): 16, pa.int32(): 32, pa.int64(): 64}
_UINT_BITS = {pa.uint8(): 8, pa.uint16(): 16, pa.uint32(): 32, pa.uint64(): 64}
_FLOATS = (pa.float16(), pa.float32(), pa.float64())
_EXACT_INT_BITS = {pa.float16(): 11, pa.float32(): 24, pa.float64(): 53}
"""Integers of up to this many bits are exact as a float of the type."""
_UNITS = ("s", "ms", "us", "ns")
_MAX_DECIMAL128_DIGITS = 38
_MAX_DECIMAL256_DIGITS = 76


@dataclass(frozen=True, slots=True)
class OwnType:
    """A file's type for a column; None for text files, whose values are text."""

    url: str
    kind: pa.DataType | None


def settled(name: str, own: Sequence[OwnType]) -> pa.DataType:
    """The column's type across all files: their own if they agree, string if all are text files.

    Raises:
        SourceError: no type holds the values of two of the files unchanged.
    """
    if len({_or_text(file) for file in own}) == 1:
        return _top_level_plain(own[0].kind or pa.string())
    kind: pa.DataType = pa.null()
    for place, file in enumerate(own):
        wider = common_type(kind, _or_text(file))
        if wider is None:
            fits = "float64" if _is_number(kind) and _is_number(_or_text(file)) else "string"
            first = next((e for e in own[:place] if common_type(_or_text(e), _or_text(file)) is None), own[0])
            raise SourceError(
                f"{file.url}: the kept column {name!r} is {_described(file)} here and {_described(first)} in "
                f"{first.url}, and no type holds both unchanged: declare one, such as `keep: [{{{name}: {fits}}}]`, or "
                "write both files with one type"
            )
        kind = wider
    return kind


def _top_level_plain(kind: pa.DataType) -> pa.DataType:
    """The type that all files share, including nested dictionaries and names; `normal` at the top level."""
    while pa.types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        kind = pa.bool_() if isinstance(kind, pa.Bool8Type) else _storage(kind)
    return kind if pa.types.is_nested(kind) and not _has_extension(kind) else normal(kind)


def _has_extension(kind: pa.DataType) -> bool:
    """True if the type is one of Arrow's extensions, such as JSON, or contains one; kept columns can't have these."""
    inside = (kind.field(number).type for number in range(kind.num_fields))
    return isinstance(kind, pa.BaseExtensionType) or any(map(_has_extension, inside))


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind.storage_type


def check_frozen(name: str, frozen: pa.DataType, own: Sequence[OwnType]) -> None:
    """Raise SourceError if a new file has values that the type frozen by the first plan may not hold.

    The values of text files are checked row by row.
    """
    wanted = normal(frozen)
    for file in own:
        if file.kind is not None and common_type(wanted, normal(file.kind)) != wanted:
            raise SourceError(
                f"{file.url}: the kept column {name!r} has another type ({file.kind}) than when the dataset began "
                f"({frozen}): write the file with that type, or use another dataset.path"
            )


def normal(kind: pa.DataType) -> pa.DataType:
    """The plain type that stores the same values and survives Parquet unchanged: no dictionaries, no extensions."""
    types = pa.types
    if isinstance(kind, pa.Bool8Type):
        return pa.bool_()
    if isinstance(kind, pa.BaseExtensionType):
        return normal(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return normal(kind.value_type)
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, normal(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(normal(kind.key_type), normal(kind.item_type))
    if types.is_fixed_size_list(kind):
        return pa.list_(normal(kind.value_type), kind.list_size)
    if types.is_large_list(kind) or types.is_large_list_view(kind):
        return pa.large_list(normal(kind.value_type))
    if types.is_list(kind) or types.is_list_view(kind):
        return pa.list_(normal(kind.value_type))
    if types.is_timestamp(kind) and kind.unit == "s":
        return pa.timestamp("ms", kind.tz)
    return _STORED_AS.get(kind, kind)


_STORED_AS = {
    pa.string_view(): pa.string(),
    pa.binary_view(): pa.binary(),
    pa.date64(): pa.date32(),
    pa.time32("s"): pa.time32("ms"),
}


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The narrowest type that holds all values of two `normal` types unchanged, or None."""
    types = pa.types
    if one == other:
        return one
    if types.is_null(one) or types.is_null(other):
        return other if types.is_null(one) else one
    if types.is_struct(one) and types.is_struct(other):
        return _common_struct(one, other)
    if types.is_map(one) and types.is_map(other):
        key, item = common_type(one.key_type, other.key_type), common_type(one.item_type, other.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if _is_list(one) and _is_list(other):
        value = common_type(one.value_type, other.value_type)
        if value is None:
            return None
        if types.is_fixed_size_list(one) and types.is_fixed_size_list(other) and one.list_size == other.list_size:
            return pa.list_(value, one.list_size)
        is_large = types.is_large_list(one) or types.is_large_list(other)
        return pa.large_list(value) if is_large else pa.list_(value)
    return (
        _common_number(one, other)
        or _common_decimal(one, other)
        or _common_time(one, other)
        or _common_bytes(one, other)
    )


def _common_struct(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    kinds: dict[str, pa.DataType] = {}
    for struct in (one, other):
        if len({field.name for field in struct}) != struct.num_fields:
            return None
        for field in struct:
            kind = common_type(kinds[field.name], field.type) if field.name in kinds else field.type
            if kind is None:
                return None
            kinds[field.name] = kind
    return pa.struct(list(kinds.items()))


def _common_number(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if one in _FLOATS and other in _FLOATS:
        return max(one, other, key=_FLOATS.index)
    if one in _FLOATS or other in _FLOATS:
        floating, integer = (one, other) if one in _FLOATS else (other, one)
        bits = _INT_BITS.get(integer, 65) - 1 if integer in _INT_BITS else _UINT_BITS.get(integer, 64)
        wide_enough = [kind for kind in _FLOATS[_FLOATS.index(floating) :] if _EXACT_INT_BITS[kind] >= bits]
        return wide_enough[0] if wide_enough else None
    for bits_of in (_INT_BITS, _UINT_BITS):
        if one in bits_of and other in bits_of:
            return max(one, other, key=lambda kind: bits_of[kind])
    for signed, unsigned in ((one, other), (other, one)):
        if signed in _INT_BITS and unsigned in _UINT_BITS:
            bits = max(_INT_BITS[signed], 2 * _UINT_BITS[unsigned])
            return next((kind for kind, width in _INT_BITS.items() if width == bits), None)
    return None


def _common_decimal(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not (pa.types.is_decimal(one) and pa.types.is_decimal(other)):
        return None
    scale = max(one.scale, other.scale)
    digits = max(one.precision - one.scale, other.precision - other.scale) + scale
    if digits > _MAX_DECIMAL256_DIGITS:
        return None
    return pa.decimal128(digits, scale) if digits <= _MAX_DECIMAL128_DIGITS else pa.decimal256(digits, scale)


def _common_time(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    types = pa.types
    if types.is_timestamp(one) and types.is_timestamp(other) and one.tz == other.tz:
        return pa.timestamp(_finer(one, other), one.tz)
    if types.is_duration(one) and types.is_duration(other):
        return pa.duration(_finer(one, other))
    if types.is_time(one) and types.is_time(other):
        unit = _finer(one, other)
        return pa.time64(unit) if unit in ("us", "ns") else pa.time32(unit)
    return None


def _finer(one: pa.DataType, other: pa.DataType) -> str:
    return _UNITS[max(_UNITS.index(one.unit), _UNITS.index(other.unit))]


def _common_bytes(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if {one, other} == {pa.string(), pa.large_string()}:
        return pa.large_string()
    if _is_binary(one) and _is_binary(other):
        return pa.large_binary() if pa.large_binary() in (one, other) else pa.binary()
    return None


def _is_binary(kind: pa.DataType) -> bool:
    return kind in (pa.binary(), pa.large_binary()) or pa.types.is_fixed_size_binary(kind)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    return kind in _FLOATS or kind in _INT_BITS or kind in _UINT_BITS


def _or_text(file: OwnType) -> pa.DataType:
    return pa.string() if file.kind is None else normal(file.kind)


def _described(file: OwnType) -> str:
    return "text" if file.kind is None else str(file.kind)
