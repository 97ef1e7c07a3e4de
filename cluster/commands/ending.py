"""The end of a command's output: one message, and the commands that make sense next."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from stillhouse.gen.dataset.binding import read_binding
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.errors import (
    AtProvider,
    BudgetSpent,
    Interrupted,
    Paused,
    StillhouseError,
    TeacherPaused,
    UsageError,
)
from stillhouse.gen.views.glimpse import glimpse
from stillhouse.gen.views.summary import Summary
from stillhouse.schemas.recipe import Recipe

Step = tuple[str, str]
"""(command, purpose)."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Suggests the commands that make sense next."""

    recipe: Recipe
    typed: Sequence[str] | None = None
    """The recipe and its overrides as command-line arguments; None if only a dataset was given."""
    again: Sequence[str] = ("run",)
    """The command that was typed, without the recipe."""
    patience_s: float = 60.0
    """How many seconds to wait for a store that does not answer."""

    def done(self, summary: Summary) -> str:
        """Commands to suggest after a run that completed."""
        return _text(self._answer(), self._after(summary))

    def stopped(self, error: StillhouseError) -> str:
        """Commands to suggest after a run that stopped early; empty if the error's message already says what to do."""
        if isinstance(error, UsageError):
            return ""
        # The store may be what paused the run, so don't wait for it again.
        may_look = open_dataset(self.recipe).is_local or type(error) is not Paused
        answer = self._answer() if may_look else None
        exists = self._exists() if may_look else True
        return _text(answer, self._because_of(error, exists=exists, has_shards=answer is not None))

    def _answer(self) -> str | None:
        with suppress(StillhouseError):  # `verify` reports what is wrong with a shard
            return glimpse(DatasetReader(open_dataset(self.recipe, patience_s=self.patience_s)))
        return None

    def _after(self, summary: Summary) -> Iterator[Step]:
        yield f"stillhouse report {self._dataset}", "a page to look at: outcomes, lengths, sample rows"
        yield f"stillhouse verify {self._dataset}", "checks every promise against what is stored"
        if summary.failed:
            yield f"stillhouse retry {self._dataset}", "asks for the failures again"
        if summary.pilot and self.typed is not None:
            yield self._with_recipe("plan"), "what the rest would need"
            yield self._with_recipe(*self.again), "asks the rest"
        if summary.records:
            yield self._reading, "in Python: the records"

    def _because_of(self, error: StillhouseError, *, exists: bool, has_shards: bool) -> Iterator[Step]:
        if not exists:
            if self.typed is not None:
                yield self._with_recipe("doctor"), "tries Ray, the stores and each teacher"
            return
        if self.typed is not None and not isinstance(error, (AtProvider, Interrupted, BudgetSpent)):
            what = "tries each teacher once" if isinstance(error, TeacherPaused) else "tries all that a run needs"
            yield self._with_recipe("doctor"), what
        yield f"stillhouse status {self._dataset}", "shows its progress"
        if has_shards:
            yield f"stillhouse report {self._dataset}", "a page about the unfinished dataset"
        if error.exit_code == 3:
            yield "the same command", "resumes, with a larger budget" if isinstance(error, BudgetSpent) else "resumes"
        if isinstance(error, BudgetSpent) and any(check.judge for check in self.recipe.checks):
            # A sealed answer without a verdict is a Failure, which the same command would not ask again.
            retry = f"stillhouse retry {self._dataset}" if self.typed is None else self._with_recipe("retry")
            yield retry, "then asks for the verdicts that are still missing"

    def _exists(self) -> bool:
        with suppress(StillhouseError):
            return read_binding(open_dataset(self.recipe, patience_s=self.patience_s)) is not None
        return False

    @property
    def _dataset(self) -> str:
        """The dataset as command-line arguments."""
        where = self.recipe.dataset
        words = [where.path]
        words += ["--endpoint-url", where.endpoint_url] if where.endpoint_url else []
        words += ["--region", where.region] if where.region else []
        if where.path_style is not None:
            words.append("--path-style" if where.path_style else "--virtual-style")
        return shlex.join(words)

    @property
    def _reading(self) -> str:
        path = self.recipe.dataset.path
        if "://" in path:
            return f"ray.data.read_parquet({f'{path}/data'!r})"
        return f"datasets.load_dataset({path!r})"

    def _with_recipe(self, *command: str) -> str:
        return shlex.join(["stillhouse", *command, *(self.typed or ())])


def _text(answer: str | None, steps: Iterator[Step]) -> str:
    found = list(steps)
    width = max((len(command) for command, _ in found), default=0)
    lines = [f"  {command:<{width}}   {what}" for command, what in found]
    return "\n".join([*([answer] if answer else []), *(["next:", *lines] if lines else [])])
