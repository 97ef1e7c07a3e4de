"""The check that comes with `ask.schema`: each answer fits the schema that its teacher was asked for.

It has no entry among the recipe's `checks`, and is the first to judge: what is not of the form that was asked for needs
no further check.
"""

from collections.abc import Iterator
from typing import Any, Literal, Self

from stillhouse.schemas.base import Strict

SCHEMA_CHECK: Literal["schema"] = "schema"
"""Its name in the column `checks`, in reject reasons and in counts."""


class AskedSchema(Strict):
    """The schemas that answers have to fit."""

    by_key: dict[str, dict[str, Any]]
    """The documents, by `Parameters.schema_key`."""

    @property
    def name(self) -> str:
        """The name under which its verdicts are kept."""
        return SCHEMA_CHECK

    @property
    def kind(self) -> str:
        """Which check it is."""
        return SCHEMA_CHECK

    @property
    def settings(self) -> Self:
        """What it is made of."""
        return self

    def references(self) -> Iterator[Any]:
        """The columns it compares with: none."""
        yield from ()
