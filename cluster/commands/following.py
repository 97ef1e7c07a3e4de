"""A job as its submitter sees it: the panel of `run` on a terminal, log lines elsewhere, its result and exit code."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from pydantic import ValidationError

from stillhouse.cluster.progress.display import is_progress
from stillhouse.cluster.progress.job_lines import figures_in, is_figures
from stillhouse.gen.errors import Interrupted, Paused, StillhouseError
from stillhouse.gen.inert import inert
from stillhouse.schemas.recipe import Recipe

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from stillhouse.cluster.commands.ending import Ending
    from stillhouse.cluster.jobs.submit import Jobs
    from stillhouse.cluster.progress.screen import Screen
    from stillhouse.gen.views.summary import Summary

_RESULT = '{"state":'
"""The start of the last line of `run --json`."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that has ended, and the result that it printed, if any."""

    job: "JobDetails"
    result: str | None


class _Panel:
    """The live table of `run`, drawn from the figures in the job's log."""

    def __init__(self, screen: "Screen") -> None:
        self._screen = screen
        self._live = False

    def show(self, line: str) -> None:
        """Draw the figures in a line of the job's log."""
        if (shown := figures_in(line)) is not None:
            self._live = True
            self._screen.show(shown)

    def say(self, line: str) -> None:
        """Show the line above the table unless the table says the same. A job of another version has only log lines."""
        if not (self._live and is_progress(line)):
            self._screen.note(line)


def note(text: str) -> None:
    """One line on stderr."""
    click.echo(text, err=True)


def follow(jobs: "Jobs", job_id: str, *, recipe: Recipe | None = None, say: Callable[[str], None] = note) -> Ended:
    """Show the job until it ends: on a terminal as `run` would, otherwise as log lines passed to `say`."""
    results: list[str] = []
    with ExitStack() as stack:
        panel = None
        if recipe is not None and sys.stderr.isatty():
            from stillhouse.cluster.progress.screen import Screen

            panel = _Panel(stack.enter_context(Screen(recipe)))
            say = panel.say

        def take(line: str) -> None:
            if line.startswith(_RESULT):
                results.append(line)
            elif is_figures(line):
                if panel is not None:
                    panel.show(line)
            else:
                say(plain(line))

        try:
            job = jobs.follow(job_id, say=take, note=say if panel else note)
        except KeyboardInterrupt:
            stack.close()
            note(f"no longer following; the job continues. {how_on(jobs, job_id)}")
            sys.exit(130)
    return Ended(job, results[-1] if results else None)


def finish(ended: Ended, ending: "Ending | None" = None, *, as_json: bool) -> None:
    """Print the job's result and the next commands, and exit as the job did.

    Raises:
        StillhouseError: the job never ran, or was killed.
    """
    from stillhouse.cluster.jobs.ended import check_ended, exit_code_of

    summary = _summary_of(ended.result)
    if summary is not None:
        click.echo(summary.as_line() if as_json else summary.as_text())
    elif ended.result is not None:  # another version's
        click.echo(plain(ended.result))
    check_ended(ended.job)
    code = exit_code_of(ended.job)
    if ending is not None and not as_json:
        if code == 0 and summary is not None:
            click.echo(ending.done(summary))
        elif (reason := _reason(ended.job, code)) is not None and (text := ending.stopped(reason)):
            note(text)
    sys.exit(code)


def _reason(job: "JobDetails", code: int) -> StillhouseError | None:
    """The error that stopped the run, as its job reports it; None if the message in the log already says what to do."""
    if job.status == "STOPPED":
        return Interrupted("by a signal")
    words = "see the job's log"
    return Paused(words) if code == 3 else StillhouseError(words) if code == 1 else None


def _summary_of(result: str | None) -> "Summary | None":
    from stillhouse.gen.views.summary import Summary

    try:
        return None if result is None else Summary.model_validate_json(result)
    except ValidationError:
        return None


def how_on(jobs: "Jobs", job_id: str) -> str:
    """The commands for a job that is still running."""
    where = f"{job_id} --address {jobs.address}"
    return f"Log: stillhouse logs {where}; to stop the job: stillhouse stop {where}"


def plain(line: str) -> str:
    """A line of a log, made safe to print."""
    return inert(click.unstyle(line).expandtabs().rstrip())
