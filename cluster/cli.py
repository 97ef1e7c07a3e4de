"""The command line: messages on stderr, results on stdout. Exit codes: 0 done, 1 failed, 2 usage, 3 paused."""

import asyncio
import atexit
import gc
import json
import logging
import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stillhouse.cluster.commands.help import Commands
from stillhouse.cluster.commands.options import (
    FOLLOW_HELP,
    Given,
    address_option,
    check_modes,
    clean,
    dataset_argument,
    finish_option,
    json_option,
    keep_going_option,
    limit_option,
    override_option,
    quiet_option,
    read,
    recipe_argument,
    with_keep_going,
)
from stillhouse.cluster.commands.output import output_path, written
from stillhouse.cluster.run_options import RunOptions
from stillhouse.gen.errors import StillhouseError, UsageError
from stillhouse.gen.process.garbage import collect_rarely
from stillhouse.schemas import __version__
from stillhouse.schemas.failure import RETRYABLE, FailureKind
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.recipe_file import load_simulator_settings, recipe_json_schema

# Every command waits for this module, so what only some need is imported by them.
if TYPE_CHECKING:
    from stillhouse.cluster.commands.ending import Ending
    from stillhouse.cluster.driver import Driver
    from stillhouse.cluster.progress.display import Display
    from stillhouse.gen.views.summary import Summary

_ELSEWHERE = {
    "doctor": "jobs",
    "export": "export",
    "init": "init",
    "logs": "jobs",
    "stop": "jobs",
    "submit": "jobs",
}
"""Modules of the commands that are not in this one."""
_WITHOUT_PYARROW = ("submit", "logs", "simulator", "schema")
"""Commands that start without loading pyarrow."""


@click.group(
    cls=Commands,
    modules=_ELSEWHERE,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="To try everything on this machine, run `stillhouse run quickstart`; to start from your own prompts, "
    "`stillhouse init PROMPTS`. For more help, run `stillhouse COMMAND --help`.",
)
@click.version_option(__version__, prog_name="stillhouse")
@click.pass_context
def main(context: click.Context) -> None:
    """Ask a teacher model a dataset's worth of prompts, without losing an answer or paying for one twice."""
    if context.invoked_subcommand not in _WITHOUT_PYARROW:
        from stillhouse.gen.process.without_pandas import without_pandas

        without_pandas()
    collect_rarely()
    atexit.register(gc.freeze)  # the search for garbage at exit takes 0.3 s of CPU: seconds on a busy machine
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if sys.stderr is None:  # the output was closed, but the work is done
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process


@main.command()
@recipe_argument
@override_option
@json_option
@address_option
@limit_option
@finish_option
@click.option("--follow", is_flag=True, help=FOLLOW_HELP)
@click.option(
    "--no-wait",
    is_flag=True,
    help="End when nothing is left but batches at a provider; run again to collect them.",
)
@keep_going_option
@quiet_option
@clean
def run(
    recipe: str,
    overrides: tuple[str, ...],
    as_json: bool,
    address: str | None,
    limit: int | None,
    only_finish: bool,
    follow: bool,
    no_wait: bool,
    keep_going: bool,
    quiet: bool,
) -> None:
    """Run RECIPE (a file, or `quickstart`). Run the same command again to resume where it stopped."""
    from stillhouse.cluster.commands.ending import Ending

    check_modes(finish=only_finish, limit=limit, follow="--follow" if follow else None)
    overrides = with_keep_going(overrides, keep_going=keep_going)
    chosen = read(recipe, overrides)
    typed = [recipe, *(word for override in overrides for word in ("-o", override))]
    ending = None if as_json or quiet else Ending(chosen, typed)
    options = RunOptions(address=address, limit=limit, finish=only_finish, follow=follow, no_wait=no_wait)
    _drive(chosen, options, ending, as_json=as_json, quiet=quiet)


def _drive(recipe: Recipe, options: RunOptions, ending: "Ending | None", *, as_json: bool, quiet: bool) -> None:
    """Run to the end; print the dataset's totals and the next commands."""
    summary = _ran(recipe, options, ending, as_json=as_json, quiet=quiet)
    _print_summary(summary, as_json=as_json)
    if ending is not None:
        if options.retry is not None and summary.is_idle:
            click.echo("nothing was asked again: there are no Failures of these kinds")
        click.echo(ending.done(summary))


def _ran(recipe: Recipe, options: RunOptions, ending: "Ending | None", *, as_json: bool, quiet: bool) -> "Summary":
    """Run to the end; with `as_json`, also print a failure as the last line of stdout."""
    from stillhouse.cluster.driver import Driver

    with ExitStack() as stack:
        driver = Driver(recipe, options, display=_display(recipe, stack, quiet=quiet))
        try:
            return driver.run()
        except StillhouseError as error:
            if as_json:
                _print_failure(driver, error)
            if ending is not None and (text := ending.stopped(error)):
                error.add_note(text)
            raise
        finally:
            stack.close()


def _display(recipe: Recipe, stack: ExitStack, *, quiet: bool) -> "Display":
    from stillhouse.cluster.progress import job_lines
    from stillhouse.cluster.progress.display import Lines, Quiet

    if quiet:
        return Quiet()
    if sys.stderr.isatty():
        from stillhouse.cluster.progress.screen import Screen

        return stack.enter_context(Screen(recipe))
    return job_lines.JobLines(recipe) if os.environ.get(job_lines.VARIABLE) else Lines(recipe)


def _print_failure(driver: "Driver", error: StillhouseError) -> None:
    """Print the last line with what is known, although the run failed."""
    from stillhouse.gen.views.summary import Summary

    try:
        summary = driver.summary(state=error.state)
    except StillhouseError:  # there is no dataset yet, or the dataset is what is wrong
        summary = Summary(state=error.state, dataset=driver.dataset)
    click.echo(summary.model_copy(update={"why": str(error)}).as_line())


def _print_summary(summary: "Summary", *, as_json: bool) -> None:
    if as_json:
        click.echo(summary.as_line())
    else:
        click.echo(summary.as_text())


@main.command()
@dataset_argument
@override_option
@json_option
@click.option(
    "--address",
    metavar="URL",
    help="A cluster's dashboard, such as http://head:8265: also show the job that works on the dataset.",
)
@clean
def status(given: Given, as_json: bool, address: str | None) -> None:
    """Show the progress of DATASET, read from storage alone; with --address, also show the job that works on it."""
    from stillhouse.gen.dataset.reader import DatasetReader
    from stillhouse.gen.views.summary import summary_of

    store = given.open()
    stored = DatasetReader(store)
    summary = summary_of(stored)
    if summary.state != "done" and stored.is_running:
        summary = summary.model_copy(update={"state": "running"})
    if address is not None:
        from stillhouse.cluster.commands.jobs import note_job

        note_job(store.url, address)
    _print_summary(summary, as_json=as_json)


@main.command()
@dataset_argument
@override_option
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(RETRYABLE),
    help=("Ask again only for Failures of this kind; may be repeated."),
)
@json_option
@address_option
@quiet_option
@clean
def retry(given: Given, kinds: tuple[FailureKind, ...], as_json: bool, address: str | None, quiet: bool) -> None:
    """Ask again for the Failures of DATASET (except bad rows), with its last recipe or with RECIPE."""
    from stillhouse.cluster.commands.ending import Ending
    from stillhouse.gen.dataset.reader import DatasetReader

    recipe = given.recipe()
    if recipe is None:
        recipe = DatasetReader(given.open_path()).last_run(overrides=given.overrides)
        there = recipe.dataset.model_copy(update={"path": given.text, **given.store})
        recipe = recipe.model_copy(update={"dataset": there})
    wanted = [kind for kind in RETRYABLE if kind in kinds] or RETRYABLE
    ending = None if as_json or quiet else Ending(recipe)
    _drive(recipe, RunOptions(address=address, retry=wanted), ending, as_json=as_json, quiet=quiet)


@main.command()
@recipe_argument
@override_option
@json_option
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Count only the next N source rows.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="First ask the next N source rows, as `run --limit N` does; then project cost and time from their answers.",
)
@address_option
@quiet_option
@clean
def plan(
    recipe: str,
    overrides: tuple[str, ...],
    as_json: bool,
    limit: int | None,
    sample: int | None,
    address: str | None,
    quiet: bool,
) -> None:
    """Show what RECIPE would ask and what it would cost. Without --sample, nothing is sent, and no file is left behind.

    Once the dataset has answers, the cost and time of the rest are projected from them, each with a range.
    """
    from stillhouse.gen.checks.trial import try_checks
    from stillhouse.gen.views.preview import preview, render

    if sample is not None and limit is not None:
        raise UsageError(
            "expected --sample or --limit, got both: --sample sends requests, --limit only counts fewer rows"
        )
    chosen = read(recipe, overrides)
    if sample is not None:
        summary = _ran(chosen, RunOptions(address=address, limit=sample), None, as_json=False, quiet=quiet)
        if not as_json:
            click.echo(f"{summary.as_text()}\n")
    shown = preview(chosen, limit=limit)
    asyncio.run(try_checks(chosen))
    click.echo(shown.model_dump_json() if as_json else render(shown))


@main.command()
@recipe_argument
@dataset_argument
@override_option
@json_option
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="N",
    help="Number of answers to judge.",
)
@clean
def check(recipe: str, given: Given, as_json: bool, sample: int) -> None:
    """Run the checks of RECIPE on answers in DATASET. Sends requests only to judges, and writes nothing."""
    from stillhouse.gen.dataset.reader import DatasetReader
    from stillhouse.gen.views.checked import check as judge
    from stillhouse.gen.views.checked import render

    chosen = read(recipe, given.overrides)
    stored = DatasetReader(replace(given, overrides=()).open())
    checked = judge(chosen, stored, sample=sample)
    click.echo(checked.model_dump_json() if as_json else render(checked))
    if checked.is_broken:
        sys.exit(1)


@main.command()
@dataset_argument
@override_option
@json_option
@click.option("--repair", is_flag=True, help="Remove what crashes left behind, and fix what can be fixed.")
@clean
def verify(given: Given, as_json: bool, repair: bool) -> None:
    """Check every promise against what is stored in DATASET; exits with 1 if one is broken."""
    from stillhouse.gen.views.verify import render, verify_and_repair
    from stillhouse.gen.views.verify import verify as check

    store = given.open()
    report = verify_and_repair(store) if repair else check(store)
    click.echo(report.model_dump_json() if as_json else render(report))
    if not report.ok:
        sys.exit(1)


@main.command()
@dataset_argument
@click.option("--override", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of the recipe.")
@click.option(
    "-o",
    "--output",
    default="report.html",
    show_default=True,
    metavar="FILE",
    help=("Where to write the page; - is stdout."),
)
@clean
def report(given: Given, output: str) -> None:
    """Write one self-contained HTML page about DATASET, finished or not."""
    from stillhouse.gen.views.report import report as page

    store = given.open()
    if output == "-":
        click.echo(page(store).encode(), nl=False)
        return
    path = output_path(output, option="-o", store=store)
    text = page(store)
    with written(path, option="-o") as file:
        file.write(text.encode())
    click.echo(output)


@main.command()
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", metavar="N", default=8100, show_default=True, help="The port; 0 takes a free one.")
@click.option(
    "-o",
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting, such as -o latency_s=0.2 or -o 'faults=[…]'.",
)
@clean
def simulator(host: str, port: int, overrides: tuple[str, ...]) -> None:
    """Serve the built-in teacher: the APIs of OpenAI, Anthropic, Gemini and Bedrock, and scores as vLLM and SGLang
    return them, with limits and faults."""
    from stillhouse.gen.simulator import run_forever

    settings = load_simulator_settings(overrides)
    run_forever(settings, host=host, port=port, ready=_say_where)


def _say_where(url: str) -> None:
    """Print the base URLs for recipes; programs may parse the first line."""
    click.echo(f"serving at {url}")
    click.echo(f"for base_url: {url} with openai-chat, vllm or sglang; {url.removesuffix('/v1')} with any other api")


@main.command()
@clean
def schema() -> None:
    """Print the recipe's JSON Schema, for editors."""
    click.echo(json.dumps(recipe_json_schema(), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
