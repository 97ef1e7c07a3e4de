"""A recipe names a column by its name in the file, or a field of a struct by its path: `data.question`.

A column literally named `data.question` takes precedence.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


def names_in(values: Mapping[str, Any]) -> Iterator[str]:
    """The row's columns, and the fields of its structs by their paths."""
    for name, value in values.items():
        yield name
        if isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in names_in(value))


def names_of(schema: Iterable[pa.Field]) -> Iterator[str]:
    """The names in a schema, or in a struct's type."""
    for field in schema:
        yield field.name
        if pa.types.is_struct(field.type):
            yield from (f"{field.name}.{inner}" for inner in names_of(field.type))


def listed(names: Sequence[str]) -> str:
    """The columns' names for a message, at most the first hundred."""
    return (", ".join(map(repr, names[:100])) or "none") + (", …" if len(names) > 100 else "")


def instead(name: str, names: Sequence[str], *, has: str = "; they have", likely: Iterable[str] | None = None) -> str:
    """Advice for a missing column: the one of `likely` that may be meant, and all existing `names`.

    `has` introduces the names if none resembles the missing one.
    """
    close = _did_you_mean(name, names if likely is None else likely)
    return f"{close or has} {'Columns: ' if close else ''}{listed(names)}"


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    """Suggests the column most similar to a misspelt one; empty if none is similar."""
    folded = {each.casefold(): each for each in names}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f"; did you mean `{folded[close[0]]}`?" if close else ""


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
