"""What the teacher is asked for every prompt."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, JsonValue, model_validator

from stillhouse.schemas.extra import Extra
from stillhouse.schemas.parameters import Parameters
from stillhouse.schemas.score import Score
from stillhouse.schemas.teacher import Teacher
from stillhouse.schemas.tool import Tools, identity_of_tools


class Ask(Parameters):
    """What the teacher is asked for every prompt."""

    system: str | None = None
    """The system message; may be a Jinja template over the row's columns. A conversation with its own system message
    keeps it."""
    template: str | None = None
    """A Jinja template of the user's message over the row's columns; by default the prompt column."""
    samples: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Number of answers wanted per prompt."""
    accept: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Instead of `samples`: ask until this many answers to a prompt are accepted; equal answers count once. Needs
    `at_most`."""
    at_most: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """With `accept`: the maximum number of answers asked for a prompt, whether or not they are accepted."""
    tools: Tools | None = None
    """Tools that answers may call: a list in OpenAI's form, or the path of a JSON file with one. Calls are checked
    against the tools' schemas, and stored inside the assistant's message."""
    score: Score | None = None
    """In place of an answer: the teacher's log-probabilities of tokens that the row gives, by their ids. Needs `api:
    vllm` or `sglang`."""
    extra: Extra = Field(default_factory=dict)
    """Merged unchanged into the body of every request."""

    @model_validator(mode="after")
    def _samples_or_accept(self) -> Self:
        if self.accept is None and self.at_most is None:
            return self
        if self.at_most is None:
            raise ValueError(
                f"accept: {self.accept} needs `at_most`, the maximum number of answers asked for a prompt; add it"
            )
        if self.accept is None:
            raise ValueError(f"at_most: {self.at_most} needs `accept`, the answers wanted for each prompt; add it")
        if self.accept > self.at_most:
            raise ValueError(f"expected accept to be no more than at_most, got {self.accept} and {self.at_most}")
        if self.samples > 1:
            raise ValueError("expected either `samples` or `accept` with `at_most`, got both; leave one out")
        return self

    @property
    def most_samples(self) -> int:
        """The maximum number of answers asked for a prompt: `samples` or `at_most`."""
        return self.samples if self.at_most is None else self.at_most

    def wanted(self) -> dict[str, JsonValue]:
        """How many answers are wanted for each prompt, by the names of the fields that say so."""
        return {"samples": self.samples} if self.accept is None else {"accept": self.accept, "at_most": self.at_most}

    def identity(self) -> dict[str, Any]:
        """All fields as JSON, with files given by their SHA-256."""
        tools = {} if self.tools is None else {"tools": identity_of_tools(self.tools)}
        return super().identity() | tools

    def parameters(self) -> dict[str, JsonValue]:
        """What shapes an answer besides its prompt, without unset parameters: part of a record's id."""
        tools = {} if self.tools is None else {"tools": identity_of_tools(self.tools)}
        score: dict[str, JsonValue] = {} if self.score is None else {"score": {"top": self.score.top}}
        return self.given() | tools | score | ({"extra": self.extra} if self.extra else {})

    def changed(self, changes: Mapping[str, Any], extra: Mapping[str, JsonValue]) -> Self:
        """The same settings with these parameters changed, null ones removed, and `extra` merged over the own
        `extra`."""
        return self.model_copy(update={**changes, "extra": {**self.extra, **extra}})

    def of(self, teacher: Teacher) -> Self:
        """What this teacher is asked; a judge uses nothing of the recipe's `ask`."""
        asked = self if teacher.role == "answer" else type(self)()
        return asked.changed(teacher.ask.changes(), teacher.extra)
