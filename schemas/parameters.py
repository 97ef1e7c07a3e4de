"""Parameters of an answer: what a teacher is asked beside the prompt, in words that hold for every protocol."""

from typing import Annotated, Any

from pydantic import Field, JsonValue, SerializerFunctionWrapHandler, model_serializer

from stillhouse.schemas.base import Strict


class Parameters(Strict):
    """What shapes an answer beside its prompt; a parameter that is null is left to the teacher."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """As the API defines it; left to the teacher when absent, like all that follow."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Nucleus sampling."""
    stop: str | tuple[str, ...] | None = None
    """Where an answer ends."""
    seed: int | None = None
    """The first sample's seed; sample n is asked with seed + n."""
    reasoning_effort: str | None = None
    """As the API defines it, such as low, medium or high."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Ask for log probabilities, with so many alternatives a token."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """The longest answer in tokens, reasoning included where the teacher counts it."""

    def given(self) -> dict[str, JsonValue]:
        """The parameters that are set, as JSON."""
        found: dict[str, JsonValue] = {}
        for name in Parameters.model_fields:
            value = getattr(self, name)
            if value is not None:
                found[name] = list(value) if isinstance(value, tuple) else value
        return found


class TeacherParameters(Parameters):
    """What differs for one teacher; null removes a parameter of the recipe's `ask`."""

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A null that was never written must not become one that removes a parameter.
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}

    def changes(self) -> dict[str, Any]:
        """The parameters that were written, null for those to remove."""
        return {name: getattr(self, name) for name in self.model_fields_set}
