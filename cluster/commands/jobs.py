"""`doctor`, and `submit`, `stop` and `logs`: a run as a Ray job, which outlives the machine that submitted it."""

import asyncio
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import click

from stillhouse.cluster.commands import following
from stillhouse.cluster.commands.following import finish, how_on, note, plain
from stillhouse.cluster.commands.options import (
    FOLLOW_HELP,
    Given,
    check_modes,
    clean,
    dataset_argument,
    finish_option,
    json_option,
    keep_going_option,
    limit_option,
    override_option,
    read,
    recipe_argument,
    with_keep_going,
)
from stillhouse.cluster.progress.job_lines import is_figures
from stillhouse.gen.clock import SYSTEM
from stillhouse.gen.errors import UsageError
from stillhouse.gen.store.base import Store
from stillhouse.schemas.recipe import Recipe

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from stillhouse.cluster.jobs.shipment import Ship
    from stillhouse.cluster.jobs.submit import Jobs
    from stillhouse.gen.worker.batch_cancelling import Cancelled

_R = TypeVar("_R")

_LOCAL = "http://127.0.0.1:8265"
"""The address where `ray start --head` opens its dashboard."""
LOOK_PATIENCE_S = 3.0
"""Timeout for reading the dataset when its job has ended: the nodes can reach its store, but this machine may not."""

job_address_option = click.option(
    "--address",
    default=_LOCAL,
    envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
    callback=lambda _context, _parameter, address: _LOCAL if address == "auto" else address,
    metavar="URL",
    help=(
        f"The cluster's dashboard. Default: $RAY_API_SERVER_ADDRESS, $RAY_ADDRESS, or {_LOCAL} (a head on this "
        "machine)."
    ),
)


@click.command()
@recipe_argument
@override_option
@job_address_option
@click.option(
    "--ship",
    type=click.Choice(["all", "code", "recipe"]),
    default="all",
    show_default=True,
    help=(
        "all: ship the code, and nodes install its dependencies; code: nodes have the dependencies; recipe: "
        "nodes have Stillhouse."
    ),
)
@click.option("--follow/--no-follow", default=True, help="Show the job's log until the job ends.  [default: follow]")
@click.option("--follow-source", is_flag=True, help=FOLLOW_HELP)
@limit_option
@finish_option
@keep_going_option
@json_option
@clean
def submit(
    recipe: str,
    overrides: tuple[str, ...],
    address: str,
    ship: "Ship",
    follow: bool,
    follow_source: bool,
    limit: int | None,
    only_finish: bool,
    keep_going: bool,
    as_json: bool,
) -> None:
    """Run RECIPE as a job on a Ray cluster. Run the same command again to resume where the last job ended."""
    check_modes(finish=only_finish, limit=limit, follow="--follow-source" if follow_source else None)
    from stillhouse.cluster.jobs.ended import lacks_pip
    from stillhouse.cluster.jobs.shipment import local_paths
    from stillhouse.cluster.jobs.submit import Jobs

    given = read(recipe, with_keep_going(overrides, keep_going=keep_going))
    chosen = given.with_absolute_paths()
    jobs = Jobs(address)
    if paths := local_paths(chosen):
        note(f"local paths, which must exist on every node: {', '.join(paths)}")
    submitted = partial(_submitted, jobs, chosen, limit=limit, only_finish=only_finish, follow_source=follow_source)
    job_id = submitted(ship=ship)
    if follow:
        ended = following.follow(jobs, job_id, recipe=chosen)
        if ship == "all" and lacks_pip(ended.job):
            note(
                "the job's node has a Python without pip (as in environments made by uv), so nothing can be installed "
                "there; submitting again to run with the installed packages, as --ship code does"
            )
            job_id = submitted(ship="code")
            ended = following.follow(jobs, job_id, recipe=chosen)
        from stillhouse.cluster.commands.ending import Ending
        from stillhouse.gen.process.without_pandas import without_pandas

        without_pandas()  # not before: a submission should not wait for pyarrow
        typed = [recipe, *(word for override in overrides for word in ("-o", override))]
        again = ("submit",) if address == _LOCAL else ("submit", "--address", address)
        finish(ended, Ending(given, typed, again, patience_s=LOOK_PATIENCE_S), as_json=as_json)
    elif as_json:
        click.echo(json.dumps({"job": job_id, "address": jobs.address}))
    else:
        note(how_on(jobs, job_id))


def _submitted(
    jobs: "Jobs", recipe: Recipe, *, ship: "Ship", limit: int | None, only_finish: bool, follow_source: bool
) -> str:
    job_id = jobs.submit(recipe, ship=ship, limit=limit, finish=only_finish, follow=follow_source, note=note)
    note(f"job {job_id} on {jobs.address}")
    return job_id


@click.command()
@click.argument("recipe", required=False)
@override_option
@click.option(
    "--address", metavar="A", help=("The cluster to try: auto, host:port, or its dashboard, such as http://head:8265.")
)
@json_option
@clean
def doctor(recipe: str | None, overrides: tuple[str, ...], address: str | None, as_json: bool) -> None:
    """Try what a run of RECIPE needs: Ray, the stores, the disk, and each teacher with one request. Exits with 1 if one
    fails.
    """
    from stillhouse.cluster.commands.doctor import examine

    chosen = None if recipe is None else read(recipe, overrides)
    findings = []
    for finding in examine(chosen, address=address):
        findings.append(finding)
        if not as_json:
            click.echo(finding.as_text())
    if as_json:
        click.echo(json.dumps([finding.model_dump() for finding in findings]))
    if any(finding.state == "fail" for finding in findings):
        sys.exit(1)


def _job(command: Callable[..., _R]) -> Callable[..., _R]:
    """The job that `logs` and `stop` act on."""
    return dataset_argument(override_option(job_address_option(command)))


@click.command()
@_job
@click.option("--follow/--no-follow", default=True, help="Follow the log until the job ends.  [default: follow]")
@json_option
@clean
def logs(given: Given, address: str, follow: bool, as_json: bool) -> None:
    """Show the log of a job, given by its id, or by its dataset or recipe, which selects the running or newest job."""
    jobs, job = _find(given, address)
    if follow:
        finish(following.follow(jobs, job, say=note if as_json else click.echo), as_json=as_json)
    elif as_json:
        click.echo(json.dumps({"job": job, "status": jobs.details(job).status.lower(), "log": jobs.logs(job)}))
    else:
        for line in jobs.logs(job).splitlines():
            if not is_figures(line):
                click.echo(plain(line))


@click.command()
@_job
@click.option("--wait/--no-wait", default=True, help="Wait until the job has ended.  [default: wait]")
@click.option(
    "--cancel-batches",
    is_flag=True,
    help="Also cancel the dataset's batches at their providers, from this machine; if there is no job, only that.",
)
@clean
def stop(given: Given, address: str, wait: bool, cancel_batches: bool) -> None:
    """Stop a job, given by its id, dataset or recipe. It finishes its requests in flight; `submit` resumes it."""
    if not cancel_batches:
        _stop_job(given, address, wait=wait)
        return
    from stillhouse.gen.dataset.run_lock import is_running

    store = given.open()
    if is_running(store):
        _stop_job(given, address, wait=True)
    if is_running(store):
        raise UsageError(f"a run is working on {store.url}: stop it first, or it will ask again for what is cancelled")
    cancelled = asyncio.run(_cancel(given, store))
    note(
        f"batches cancelled: {cancelled.cancelled:,}; what they finished is billed, and the next run collects it: keep "
        "`mode: batch` for that run, then switch to `mode: online`; `mode: batch-then-online` does both"
        + (
            f"; may have been created, but the provider does not list them: {cancelled.unknown:,}"
            if cancelled.unknown
            else ""
        )
    )


async def _cancel(given: Given, store: Store) -> "Cancelled":
    from stillhouse.gen.dataset.reader import DatasetReader
    from stillhouse.gen.teachers.http import HttpTransport
    from stillhouse.gen.worker.batch_cancelling import cancel_batches

    recipe = given.recipe() or DatasetReader(store).last_run(overrides=given.overrides)
    transport = HttpTransport()
    try:
        return await cancel_batches(recipe, store, transport=transport, clock=SYSTEM)
    finally:
        await transport.close()


def _stop_job(given: Given, address: str, *, wait: bool) -> None:
    jobs, job = _find(given, address)
    if jobs.details(job).status.is_terminal():
        note(f"job {job} has already ended")
        return
    jobs.stop(job)
    note(f"job {job} has been asked to stop" + ("; it finishes the requests in flight" if wait else ""))
    if wait:
        note(f"job {job}: {jobs.wait(job).status.lower()}; the same submit resumes it")


def _find(given: Given, address: str) -> tuple["Jobs", str]:
    from stillhouse.cluster.jobs.submit import Jobs

    url = given.open().url
    jobs = Jobs(address)
    return jobs, _id_of(jobs.find(given.text, dataset=url))


def _id_of(job: "JobDetails") -> str:
    if job.submission_id is None:
        raise UsageError(f"job {job.job_id} was not submitted: it is a driver, which you stop where it was started")
    return str(job.submission_id)


def note_job(dataset: str, address: str) -> None:
    """Report which job of the cluster is working on the dataset."""
    from stillhouse.cluster.jobs.submit import Jobs

    jobs = Jobs(address)
    job = jobs.running(dataset)
    note(f"job {job.submission_id}: {job.status.lower()}" if job else f"no job on {jobs.address} is working on it")
