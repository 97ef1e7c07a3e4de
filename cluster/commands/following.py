"""A job as whoever started it sees it: `run`'s panel on a terminal, its lines elsewhere, its result and exit code."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from pydantic import ValidationError

from stillhouse.cluster.progress.display import Screen, is_progress
from stillhouse.gen.inert import inert
from stillhouse.gen.views.summary import Summary
from stillhouse.schemas.recipe import Recipe

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from stillhouse.cluster.jobs.submit import Jobs

_RESULT = '{"state":'
"""How the last line of `run --json` begins."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that ended, and the result that it printed, if any."""

    job: "JobDetails"
    result: str | None


class _Panel:
    """`run`'s live table, from what the job reports about itself."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._live = False

    def look(self, job: "JobDetails") -> None:
        from stillhouse.cluster.progress.job_message import progress_of

        if (shown := progress_of(job.metadata)) is not None:
            self._live = True
            self._screen.show(shown)

    def say(self, line: str) -> None:
        """Above the table, unless it says the same; another version's job has its lines alone."""
        if not (self._live and is_progress(line)):
            self._screen.note(line)


def note(text: str) -> None:
    """One line on stderr."""
    click.echo(text, err=True)


def follow(jobs: "Jobs", job_id: str, *, recipe: Recipe | None = None, say: Callable[[str], None] = note) -> Ended:
    """Show the job until it ends: on a terminal as `run` of the recipe does, otherwise by its log, which `say` gets."""
    results: list[str] = []
    with ExitStack() as stack:
        panel = None
        if recipe is not None and sys.stderr.isatty():
            panel = _Panel(stack.enter_context(Screen(recipe)))
            say = panel.say

        def take(line: str) -> None:
            if line.startswith(_RESULT):
                results.append(line)
            else:
                say(plain(line))

        try:
            job = jobs.follow(job_id, say=take, note=say if panel else note, look=panel.look if panel else None)
        except KeyboardInterrupt:
            stack.close()
            note(f"no longer following; the job continues. {how_on(jobs, job_id)}")
            sys.exit(130)
    return Ended(job, results[-1] if results else None)


def finish(ended: Ended, *, as_json: bool) -> None:
    """Print the job's result, and exit as it did.

    Raises:
        StillhouseError: it has none.
    """
    from stillhouse.cluster.jobs.submit import check_ended, exit_code_of

    if ended.result is not None:
        _print_result(ended.result, as_json=as_json)
    check_ended(ended.job)
    sys.exit(exit_code_of(ended.job))


def _print_result(line: str, *, as_json: bool) -> None:
    try:
        summary = Summary.model_validate_json(line)
    except ValidationError:  # of another version: said as it is
        click.echo(plain(line))
    else:
        click.echo(summary.as_line() if as_json else summary.as_text())


def how_on(jobs: "Jobs", job_id: str) -> str:
    """The commands for a job that continues."""
    where = f"{job_id} --address {jobs.address}"
    return f"Its log: stillhouse logs {where}; to stop it: stillhouse stop {where}"


def plain(line: str) -> str:
    """A line of a log as it can be shown."""
    return inert(click.unstyle(line).expandtabs().rstrip())
