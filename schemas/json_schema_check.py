"""The settings of the check `json_schema`. The schema of a recipe that was read is valid."""

from typing import Annotated

from pydantic import Field, JsonValue

from stillhouse.schemas.check_settings import CheckSettings
from stillhouse.schemas.json_schema import JsonSchema, identity_of_schema


class JsonSchemaCheck(CheckSettings):
    """Accepts an answer that is JSON and fits a schema; a code fence around it is ignored."""

    fits: Annotated[JsonSchema, Field(alias="schema")]
    """The JSON Schema itself, or the path of a file with it."""

    def identity(self) -> dict[str, JsonValue]:
        """See `CheckSettings`."""
        return super().identity() | {"schema": identity_of_schema(self.fits)}
