"""The settings of the check `repetition`."""

from typing import Annotated

from pydantic import Field

from stillhouse.schemas.check_settings import CheckSettings


class RepetitionCheck(CheckSettings):
    """Rejects an answer if it or its reasoning repeats itself."""

    max: Annotated[float, Field(ge=0, lt=1)]
    """The largest accepted share, from 0 to 1, of runs of ten words that occurred earlier in the text; normal prose and
    solutions stay below 0.2."""
