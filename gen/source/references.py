"""The values of a source row that checks compare answers with: text, the texts of options, or any value as JSON."""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from stillhouse.gen.source.columns import is_in, value_of
from stillhouse.gen.source.conversation import NoPrompt, json_text, kind_of, text
from stillhouse.schemas.check_settings import Reference

MAX_OPTIONS = 26
"""As many as there are letters."""


def reference(values: Mapping[str, Any], wanted: Reference) -> str | tuple[str, ...]:
    """The row's value, as checks take it.

    Raises:
        NoPrompt: there is none, or answers can't be compared with it.
    """
    what = f"column {wanted.column!r}"
    value = value_of(values, wanted.column)
    if wanted.form == "json":
        return json_text(value, what)
    if value is None:
        is_null = is_in(values, wanted.column)
        raise NoPrompt(f"{what} is {'null' if is_null else 'missing'}, and a check compares answers with it")
    if wanted.form == "tests":
        return json_text(value, what)
    if wanted.form == "text":
        return _text(value, what)
    options = value.get("text") if isinstance(value, Mapping) else value
    if not isinstance(options, (list, tuple)):
        raise NoPrompt(f"{what}: expected a list of options, got {kind_of(value)}")
    if not 2 <= len(options) <= MAX_OPTIONS:
        raise NoPrompt(f"{what}: expected 2 to {MAX_OPTIONS} options, got {len(options):,}")
    return tuple(_text(option, f"{what}, an option") for option in options)


def _text(value: Any, what: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, Decimal)) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    if not isinstance(value, str):
        raise NoPrompt(f"{what}: expected text or a number to compare answers with, got {kind_of(value)}")
    if not value or value.isspace():
        raise NoPrompt(f"{what} is empty, and a check compares answers with it")
    return text(value, what)
