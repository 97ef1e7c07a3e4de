"""The check that comes with `ask.schema`: each answer must fit the schema that its teacher was asked for.

It is not among the recipe's `checks`. It runs first: an answer of the wrong form needs no other check.
"""

from collections.abc import Iterator
from typing import Any, Literal, Self

from stillhouse.schemas.base import Strict

SCHEMA_CHECK: Literal["schema"] = "schema"
"""Name of the schema's check in the column `checks`, in reject reasons and in counts."""


class AskedSchema(Strict):
    """The schemas that answers must fit."""

    by_key: dict[str, dict[str, Any]]
    """The schemas as documents, by `Parameters.schema_key`."""

    @property
    def name(self) -> str:
        """The name under which its verdicts are kept."""
        return SCHEMA_CHECK

    @property
    def kind(self) -> str:
        """The kind of check."""
        return SCHEMA_CHECK

    @property
    def settings(self) -> Self:
        """The settings that decide its verdicts."""
        return self

    def references(self) -> Iterator[Any]:
        """The source columns that it compares with: none."""
        yield from ()
