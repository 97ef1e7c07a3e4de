"""The base of every model a user writes: unknown keys and wrong types are errors, and values never change once read."""

from collections.abc import Mapping
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict

Place: TypeAlias = tuple[str | int, ...]
"""Where a field is, below the model that is checked: names of fields, and numbers in lists."""


class Strict(BaseModel):
    """A frozen model that refuses unknown keys. `field_docs` reads the docstrings below its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, serialize_by_alias=True)


class FieldsFault(ValueError):
    """Faults that a check of several fields finds in some of them, by place."""

    def __init__(self, faults: Mapping[Place, str]) -> None:
        super().__init__("\n".join(f"{'.'.join(map(str, place))}: {words}" for place, words in faults.items()))
        self.faults = dict(faults)
