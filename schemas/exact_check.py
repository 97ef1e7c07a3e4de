"""The settings of the check `exact`."""

from collections.abc import Iterator

from stillhouse.schemas.check_settings import CheckSettings, ColumnName, Reference


class ExactCheck(CheckSettings):
    """Accepts an answer that equals the known one, character by character; white space around either is ignored."""

    answer: ColumnName
    """The column with the known answer."""
    ignore_case: bool = False
    """Ignore the difference between upper and lower case."""

    def references(self) -> Iterator[Reference]:
        """The known answer."""
        yield Reference("answer", self.answer)
