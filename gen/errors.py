"""Every error a user can meet, by what the process then does.

    StillhouseError            exit 1   the run failed
    ├── UsageError             exit 2   the recipe, the source or the command is wrong
    │   ├── SourceError                 a source file is missing, unreadable or changed
    │   │   ├── ColumnMissing           it lacks a column that the recipe names
    │   │   └── NoFiles                 no file is there
    │   ├── TemplateError               a template of the recipe can't be compiled
    │   ├── DatasetError                what is stored contradicts the recipe, or itself
    │   │   └── OtherRecipe                 the dataset was created with a different recipe
    │   └── StoreRefused                no access, no bucket, or no conditional writes
    └── Paused                 exit 3   nothing is lost and the same command resumes
        ├── StoreAway                   the store does not answer; the outcome of the last write may be unknown
        ├── TeacherPaused               money, authorisation or a daily quota: a person has to act
        ├── BudgetSpent                 the recipe's budget has no money for another request
        ├── AtProvider                  only batches are left, and `run --no-wait` does not wait for them
        └── Interrupted                 a signal

A message says what was expected, what was found and what to do; it never contains a secret. A teacher's fault is a
value, not an exception: see `gen.teachers.protocols`.
"""

import traceback
from pathlib import Path


class StillhouseError(Exception):
    """The run failed; the message is for the user, without a traceback."""

    exit_code = 1

    @property
    def state(self) -> str:
        """How the last line of `run --json` names this ending."""
        return "paused" if self.exit_code == 3 else "failed"


class UsageError(StillhouseError):
    """Something the user wrote or pointed at is wrong."""

    exit_code = 2


class SourceError(UsageError):
    """A source file is missing, unreadable, or not what the plan recorded."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        """The recipe's field that the message begins with; None if the message is only about a file, or already names
        the place in the recipe."""


class ColumnMissing(SourceError):
    """A source file lacks a column that the recipe names."""

    def __init__(self, message: str, *, column: str) -> None:
        super().__init__(message)
        self.column = column


class NoFiles(SourceError):
    """A path of the source has no files yet."""


class TemplateError(UsageError):
    """A template of the recipe can't be compiled."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class DatasetError(UsageError):
    """What is stored under the dataset's path contradicts the recipe, or itself."""


class OtherRecipe(DatasetError):
    """The dataset was created with a different recipe."""


class StoreRefused(UsageError):
    """The store can't be used as it is: access denied, no such bucket, or it ignores conditional writes."""


class Paused(StillhouseError):
    """The run stopped without losing anything; the same command resumes."""

    exit_code = 3


class StoreAway(Paused):
    """The store did not answer; whether the last write landed may be unknown."""


class TeacherPaused(Paused):
    """A teacher refuses to serve until a person acts: billing, authorisation, a daily quota."""


class BudgetSpent(Paused):
    """The recipe's budget has no money for another request."""


class AtProvider(Paused):
    """Everything that is left to ask is in batches at a provider."""


class Interrupted(Paused):
    """A signal asked the run to stop."""


MAX_CAUSE_CHARS = 300


def cause_of(error: BaseException) -> str:
    """An unexpected exception in one line: its type, its message and where it was raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    where = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(where[-1].filename).name}:{where[-1].lineno})" if where else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:MAX_CAUSE_CHARS]}{place}"
