"""A teacher's terms on training: Stillhouse does not ask for answers that may not be used for training."""

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stillhouse.schemas.base import Strict
from stillhouse.schemas.licences import TrainingUse


class Terms(Strict):
    """What the teacher's terms say about training on its answers, as you read them."""

    training_use: TrainingUse
    """What the terms say about training a model on the answers."""
    license: str | None = None
    """The licence of the weights, or the name of the terms."""
    url: str | None = None
    """Where the terms are published."""
    seen_on: date | None = None
    """The day you read them."""
    obligations: tuple[str, ...] = ()
    """What anyone who trains on the answers must do."""
    authorisation: str | None = None
    """With `by-authorisation`: the reference of the written permission."""
    text_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 in hex of the text as you read it, if you keep a copy."""
    declared_by: Literal["user", "known-licence"] = "user"
    """Source of these terms: the user, or the table of known licences, which is used for a recipe without `terms`."""

    @model_validator(mode="after")
    def _may_train(self) -> Self:
        if self.training_use == "prohibited":
            raise ValueError("these terms prohibit training on the answers: ask a teacher whose terms permit it")
        if self.training_use == "by-authorisation" and not self.authorisation:
            raise ValueError("`by-authorisation` needs `authorisation`: the reference of the written permission")
        if self.training_use != "by-authorisation" and self.authorisation:
            raise ValueError("`authorisation` goes with `training_use: by-authorisation`")
        return self
