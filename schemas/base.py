"""The base of every model a user writes: unknown keys and wrong types are errors, and nothing changes once read."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A frozen model that refuses unknown keys; field docstrings become the JSON Schema's descriptions."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True, serialize_by_alias=True
    )
