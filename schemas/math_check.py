"""The settings of the check `math`."""

from collections.abc import Iterator

from stillhouse.schemas.check_settings import CheckSettings, ColumnName, Reference


class MathCheck(CheckSettings):
    """Accepts an answer whose final result equals the known one as mathematics: 0.5, 1/2, 50 % and \\frac{1}{2} are
    equal.
    """

    answer: ColumnName
    """The column with the known answer: a number, LaTeX, or a solution that ends in `#### 72` or \\boxed{72}."""

    def references(self) -> Iterator[Reference]:
        """The known answer."""
        yield Reference("answer", self.answer)
