"""The settings of the check `reasoning`."""

from typing import Annotated

from pydantic import Field

from stillhouse.schemas.check_settings import CheckSettings


class ReasoningCheck(CheckSettings):
    """Accepts an answer that came with its reasoning."""

    min_chars: Annotated[int, Field(ge=1)] = 1
    """The minimum number of characters of reasoning, not counting white space around it."""
