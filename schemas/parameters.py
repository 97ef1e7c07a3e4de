"""Parameters of an answer: what a teacher is asked besides the prompt, in terms that all protocols share."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, JsonValue, SerializerFunctionWrapHandler, model_serializer

from stillhouse.schemas.base import Strict
from stillhouse.schemas.json_schema import JsonSchema, document_of, identity_of_schema, schema_key


class Parameters(Strict):
    """What shapes an answer besides its prompt; a parameter that you leave out is the teacher's choice."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Nucleus sampling: cumulative probability of the tokens to consider."""
    stop: str | tuple[str, ...] | None = None
    """One or more strings at which an answer ends."""
    seed: int | None = None
    """Seed of the first sample; sample n is asked with seed + n."""
    reasoning_effort: str | None = None
    """How hard a reasoning model thinks, in the API's own terms, such as low, medium or high."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Request log-probabilities, with this many alternatives per token."""
    token_ids: Annotated[bool, AfterValidator(lambda wanted: wanted or None)] | None = None
    """With `top_logprobs`: request the tokens' ids from a server that can give them (vLLM; others may give them
    unasked)."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Maximum length of an answer in tokens, including reasoning if the teacher counts it."""
    answer_schema: JsonSchema | None = Field(default=None, alias="schema")
    """A JSON Schema, or the path of a file with one: the answer is JSON that fits it. Sent as the API's own structured
    output if it has that, and always checked."""

    def given(self) -> dict[str, JsonValue]:
        """The parameters that are set, as JSON; a file is given by its SHA-256."""
        found: dict[str, JsonValue] = {}
        for name in Parameters.model_fields:
            value = getattr(self, name)
            if value is not None and name != "answer_schema":
                found[name] = list(value) if isinstance(value, tuple) else value
        if self.answer_schema is not None:
            found["schema"] = identity_of_schema(self.answer_schema)
        return found

    @property
    def schema_document(self) -> dict[str, Any] | None:
        """The JSON Schema that an answer must fit."""
        return None if self.answer_schema is None else document_of(self.answer_schema)

    @property
    def schema_key(self) -> str | None:
        """A name for the schema; equal schemas have the same name."""
        return None if self.answer_schema is None else schema_key(self.answer_schema)

    def identity(self) -> dict[str, Any]:
        """All fields as JSON, with a file given by its SHA-256."""
        found = self.model_dump(mode="json")
        if self.answer_schema is not None:
            found["schema"] = identity_of_schema(self.answer_schema)
        return found


class TeacherParameters(Parameters):
    """Parameters that differ for one teacher; null removes a parameter of the recipe's `ask`."""

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A null that nobody wrote must not become one that removes a parameter.
        written = self.written()
        return {name: value for name, value in dump(self).items() if name in written}

    def written(self) -> set[str]:
        """The names of the parameters that were written."""
        return {type(self).model_fields[name].alias or name for name in self.model_fields_set}

    def changes(self) -> dict[str, Any]:
        """The parameters that were written; null for those to remove."""
        return {name: getattr(self, name) for name in self.model_fields_set}
