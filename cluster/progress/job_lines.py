"""Progress in a job's log, in two forms: lines for people and, before each, the same figures for a follower's panel.

A job has no other public channel to its followers. `stillhouse submit` sets the variable `VARIABLE` for its jobs, so
other logs stay free of the second form, and followers do not print it.
"""

from pydantic import ValidationError

from stillhouse.cluster.progress.display import Lines, Shown

VARIABLE = "STILLHOUSE_FIGURES_IN_LOG"
_MARK = '{"stillhouse_figures":'


class JobLines(Lines):
    """Prints a line every few seconds, each preceded by the panel's figures."""

    def say(self, shown: Shown) -> None:
        """Two lines."""
        self.note(f"{_MARK}{shown.model_dump_json()}}}")
        super().say(shown)


def is_figures(line: str) -> bool:
    """True for a line of a job's log that is meant for a panel, whichever version wrote it."""
    return line.startswith(_MARK)


def figures_in(line: str) -> Shown | None:
    """The figures in a line that is meant for a panel; None if there are none, or another version wrote it."""
    try:
        return Shown.model_validate_json(line.rstrip().removeprefix(_MARK).removesuffix("}"))
    except ValidationError:
        return None
