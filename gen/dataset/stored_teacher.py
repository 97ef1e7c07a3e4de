"""A teacher as plans and shards name it."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, JsonValue

from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.teacher import Teacher
from stillhouse.schemas.terms import Terms


class StoredTeacher(BaseModel):
    """A teacher and its terms; only a simulator or a judge has none."""

    model_config = ConfigDict(frozen=True)

    name: str
    model: str
    terms: Terms | None = None
    source: str | None = None
    """The dataset in the source whose records hold its answers; None for a teacher that this dataset asked."""
    role: Literal["answer", "judge"] = "answer"
    allowed_because: tuple[str, ...] = ()
    """For a judge: why it may judge, if its terms alone do not say so."""

    @classmethod
    def of(cls, teacher: Teacher, recipe: Recipe) -> Self:
        """A teacher of the recipe."""
        reasons = [each.judging_allowed_because for _, each, judge in recipe.judges if judge.name == teacher.name]
        return cls(
            name=teacher.name,
            model=teacher.model_name,
            terms=teacher.terms,
            role=teacher.role,
            allowed_because=tuple(dict.fromkeys(reason for reason in reasons if reason is not None)),
        )

    def as_stored(self) -> dict[str, JsonValue]:
        """What a shard says about it."""
        stored = self.model_dump(mode="json", include={"name", "model", "terms"})
        return stored | self.model_dump(mode="json", include={"role", "allowed_because"}, exclude_defaults=True)
