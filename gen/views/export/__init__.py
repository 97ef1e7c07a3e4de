"""Export: a dataset's answers as lines of JSON in a trainer's format, with the terms to write beside them.

Rows come one by one, in the order of the shards, and are the same on every export of the same dataset.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, assert_never

from stillhouse.gen.counted import counted
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.errors import UsageError
from stillhouse.gen.views.export.answer import Answer, answers_in
from stillhouse.gen.views.export.base import NoPlace, Reasoning, Row, Style
from stillhouse.gen.views.export.pairs import pairs
from stillhouse.gen.views.export.registry import FORMATS, Paired, Single
from stillhouse.gen.views.export.terms import terms_of
from stillhouse.gen.views.provenance import Survey, survey

__all__ = ["FORMATS", "Export", "Reasoning"]


@dataclass(slots=True)
class Export:
    """One export; its notes and terms are complete once all rows have been read."""

    dataset: DatasetReader
    format: str
    reasoning: Reasoning = "drop"
    by: str | None = None
    """The check whose scores decide about pairs; by default the recipe's last check."""
    count: int = 0
    """Number of rows so far."""
    _surveyed: Survey = field(init=False)
    _left_out: Counter[str] = field(default_factory=Counter, init=False)
    _reasonings: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Read the dataset's footers.

        Raises:
            UsageError: the options don't go together, or don't fit this dataset.
            DatasetError: it is damaged.
        """
        if self.reasoning == "field" and not FORMATS[self.format].has_reasoning_field:
            raise UsageError(f"--reasoning field: {self.format} has no field for it; use inline, or drop")
        self._surveyed = survey(self.dataset)
        checks = self.dataset.bound.columns.checks
        if isinstance(FORMATS[self.format], Paired):
            self.by = self._scoring(checks)
        elif self.by is not None:
            raise UsageError(f"--by {self.by}: {self.format} has no pairs; leave it out")

    def _scoring(self, checks: tuple[str, ...]) -> str:
        if not checks:
            raise UsageError(
                f"--format {self.format} pairs records with answers that a check rejected, and this dataset was "
                "created without checks: add `checks` to the recipe, and run it into another dataset.path"
            )
        if self.by is not None and self.by not in checks:
            raise UsageError(f"--by: expected one of the dataset's checks ({', '.join(checks)}), got {self.by!r}")
        return self.by or checks[-1]

    def rows(self) -> Iterator[Row]:
        """The rows.

        Raises:
            DatasetError: a file is damaged.
            UsageError: there is nothing to export.
        """
        if "completion" not in self._surveyed.provenance.columns.data.names:
            raise UsageError(
                f"{self.dataset.url}: holds scores of given tokens, and {self.format} holds answers; train on its "
                "Parquet files"
            )
        style = Style(self.reasoning, _tools_in(self._surveyed.provenance.identity))
        match FORMATS[self.format]:
            case Single(row=row):
                for answer in self._answers("data"):
                    yield from self._made(partial(row, answer, style.of(answer)))
            case Paired(row=paired):
                assert self.by is not None
                for chosen, rejected in pairs(self._answers("rejected"), self._answers("data"), by=self.by):
                    yield from self._made(partial(paired, chosen, rejected, style.of(chosen)))
            case other:
                assert_never(other)
        if not self.count:
            raise UsageError(f"{self.dataset.url}: nothing to export as {self.format}: {self._why_nothing()}")

    def _answers(self, kind: str) -> Iterator[Answer]:
        for key, found in self._surveyed.files:
            if found == kind:
                for answer in answers_in(self.dataset.store, key):
                    if answer.beyond is not None:
                        self._left_out[answer.beyond] += 1
                        continue
                    self._reasonings += answer.reasoning is not None
                    yield answer

    def _made(self, make: Callable[[], Row]) -> Iterator[Row]:
        try:
            row = make()
        except NoPlace as error:
            self._left_out[str(error)] += 1
        else:
            self.count += 1
            yield row

    def _why_nothing(self) -> str:
        if self._left_out:
            return self._notes_of_left_out()[0]
        records = self._surveyed.summary.records
        if isinstance(FORMATS[self.format], Paired) and records:
            return (
                f"none of the prompts of its {records:,} records has an answer that a check rejected; ask more "
                "`samples`, or use a stricter check"
            )
        return "it holds no records"

    def _notes_of_left_out(self) -> list[str]:
        return [
            f"{count:,} left out: {self.format} has no place for {what}"
            for what, count in sorted(self._left_out.items())
        ]

    def notes(self) -> list[str]:
        """Notes for the file's users."""
        found = self._notes_of_left_out()
        summary = self._surveyed.summary
        if summary.state != "done":
            to_be_asked = summary.to_be_asked
            left = "" if to_be_asked is None else f", with {counted(to_be_asked, 'sample')} still to be asked"
            if "budget" in summary.failed_by_kind:
                left += " by a run with a larger budget"
            found.append(f"the dataset is not finished{left}; export again when it is")
        if self._reasonings and self.reasoning == "drop":
            found.append("the reasoning is left out; --reasoning inline or --reasoning field keeps it")
        return [*found, *self._surveyed.summary.warnings()]

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self._surveyed.provenance.name

    @property
    def obligations(self) -> list[str]:
        """Obligations of anyone who trains on the rows."""
        return self._surveyed.provenance.obligations

    def terms(self) -> dict[str, Any]:
        """The terms, as a document to write beside the rows."""
        return terms_of(self._surveyed.provenance, dataset=self.dataset.url, format=self.format, rows=self.count)


def _tools_in(identity: dict[str, Any]) -> list[Any] | None:
    """The tools that the recipe offers to all teachers, if they are in OpenAI's form."""
    tools = identity.get("ask", {}).get("extra", {}).get("tools")
    is_known = isinstance(tools, list) and all(isinstance(tool, dict) and "function" in tool for tool in tools)
    return tools if tools and is_known else None
