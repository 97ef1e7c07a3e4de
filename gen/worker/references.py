"""What a recipe's checks compare a prompt's answers with."""

from collections.abc import Sequence

from stillhouse.schemas.check_settings import Reference
from stillhouse.schemas.prompt import Prompt


def row_of(references: Sequence[Reference], prompt: Prompt) -> dict[str, str | tuple[str, ...]]:
    """The prompt's reference values, by `Reference.key`."""
    pairs = zip(references, prompt.references, strict=True)
    return {reference.key: value for reference, value in pairs if value is not None}
