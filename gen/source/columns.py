"""A recipe names a column by its name in the file, or a field of a struct by its path: `data.question`.

A column literally named `data.question` takes precedence.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa


def value_of(values: Mapping[str, Any], name: str) -> Any:
    """The row's value, or None if there is none."""
    if name in values or "." not in name:
        return values.get(name)
    for head, rest in splits(name):
        inner = values.get(head)
        if isinstance(inner, Mapping) and is_in(inner, rest):
            return value_of(inner, rest)
    return None


def is_in(values: Mapping[str, Any], name: str) -> bool:
    """True if the row has the column, even if null."""
    return name in values or any(
        isinstance(inner := values.get(head), Mapping) and is_in(inner, rest) for head, rest in splits(name)
    )


def column_of(schema: pa.Schema, name: str) -> tuple[str, pa.DataType] | None:
    """The file's top-level column for a name, and the type of the named value; None if there is none."""
    if name in schema.names:
        return name, schema.field(schema.get_all_field_indices(name)[0]).type
    for head, rest in splits(name):
        if head in schema.names and (kind := _inside(schema.field(schema.get_all_field_indices(head)[0]).type, rest)):
            return head, kind
    return None


def splits(name: str) -> Iterator[tuple[str, str]]:
    """Every way to split a dotted name into a column and a path in it."""
    for at, char in enumerate(name):
        if char == ".":
            yield name[:at], name[at + 1 :]


def _inside(kind: pa.DataType, name: str) -> pa.DataType | None:
    if not pa.types.is_struct(kind):
        return None
    if (at := kind.get_field_index(name)) >= 0:
        return kind.field(at).type
    for head, rest in splits(name):
        if (at := kind.get_field_index(head)) >= 0 and (inner := _inside(kind.field(at).type, rest)) is not None:
            return inner
    return None
