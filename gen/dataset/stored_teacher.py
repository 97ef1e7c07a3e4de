"""A teacher as plans and shards name it."""

from pydantic import BaseModel, ConfigDict

from stillhouse.schemas.terms import Terms


class StoredTeacher(BaseModel):
    """A teacher and its terms; only a simulator has none."""

    model_config = ConfigDict(frozen=True)

    name: str
    model: str
    terms: Terms | None = None
    source: str | None = None
    """The dataset in the source whose records hold its answers; None for a teacher that this dataset asked."""
