"""`doctor`, and `submit`, `stop` and `logs`: a run as a Ray job, from a machine that may go away meanwhile."""

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click
from pydantic import ValidationError

from stillhouse.cluster.commands.options import (
    Given,
    clean,
    dataset_argument,
    json_option,
    limit_option,
    override_option,
    read,
    recipe_argument,
)
from stillhouse.gen.errors import UsageError
from stillhouse.gen.inert import inert
from stillhouse.gen.views.summary import Summary

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from stillhouse.cluster.jobs.shipment import Ship
    from stillhouse.cluster.jobs.submit import Jobs

_R = TypeVar("_R")

_RESULT = '{"state":'
"""How the last line of `run --json` begins."""

_LOCAL = "http://127.0.0.1:8265"
"""Where `ray start --head` opens its dashboard."""

job_address_option = click.option(
    "--address",
    default=_LOCAL,
    envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
    callback=lambda _context, _parameter, address: _LOCAL if address == "auto" else address,
    metavar="URL",
    help=f"The cluster's dashboard. Default: $RAY_API_SERVER_ADDRESS, $RAY_ADDRESS, or {_LOCAL}: a head here.",
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
    help="all: ship the code, nodes install its dependencies; code: nodes have those; recipe: nodes have Stillhouse.",
)
@click.option("--follow/--no-follow", default=True, help="Show the job's log until it ends.  [default: follow]")
@limit_option
@json_option
@clean
def submit(
    recipe: str, overrides: tuple[str, ...], address: str, ship: "Ship", follow: bool, limit: int | None, as_json: bool
) -> None:
    """Run RECIPE as a job on a Ray cluster; the same command again resumes where the last job ended."""
    from stillhouse.cluster.jobs.shipment import local_paths, with_absolute_paths
    from stillhouse.cluster.jobs.submit import Jobs

    chosen = with_absolute_paths(read(recipe, overrides))
    jobs = Jobs(address)
    if paths := local_paths(chosen):
        _note(f"local paths, which every node must be able to see: {', '.join(paths)}")
    job_id = jobs.submit(chosen, ship=ship, limit=limit, note=_note)
    _note(f"job {job_id} on {jobs.address}")
    if follow:
        _follow(jobs, job_id, as_json=as_json)
    elif as_json:
        click.echo(json.dumps({"job": job_id, "address": jobs.address}))
    else:
        _note(_how_on(jobs, job_id))


@click.command()
@click.argument("recipe", required=False)
@override_option
@click.option("--address", metavar="A", help="The cluster to try: auto, host:port, or its dashboard http://head:8265.")
@json_option
@clean
def doctor(recipe: str | None, overrides: tuple[str, ...], address: str | None, as_json: bool) -> None:
    """Try Ray, the stores and the disk for a run of RECIPE, and each teacher with one request; exit 1 if one fails."""
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
    """The job that `logs` and `stop` are about."""
    return dataset_argument(override_option(job_address_option(command)))


@click.command()
@_job
@click.option("--follow/--no-follow", default=True, help="Follow until the job ends.  [default: follow]")
@json_option
@clean
def logs(given: Given, address: str, follow: bool, as_json: bool) -> None:
    """Show a job's log; DATASET is a job's id, a dataset or its recipe: then its running or newest job."""
    jobs, job = _find(given, address)
    if follow:
        _follow(jobs, job, as_json=as_json, say=_note if as_json else click.echo)
    elif as_json:
        click.echo(json.dumps({"job": job, "status": jobs.details(job).status.lower(), "log": jobs.logs(job)}))
    else:
        for line in jobs.logs(job).splitlines():
            click.echo(_shown(line))


@click.command()
@_job
@click.option("--wait/--no-wait", default=True, help="Wait until the job has ended.  [default: wait]")
@clean
def stop(given: Given, address: str, wait: bool) -> None:
    """Stop a job, by its id, its DATASET or RECIPE; requests in flight are finished, and `submit` resumes it."""
    jobs, job = _find(given, address)
    if jobs.details(job).status.is_terminal():
        _note(f"job {job} has already ended")
        return
    jobs.stop(job)
    _note(f"job {job} is asked to stop" + ("; it finishes the requests in flight" if wait else ""))
    if wait:
        _note(f"job {job}: {jobs.wait(job).status.lower()}; the same submit resumes it")


def _find(given: Given, address: str) -> tuple["Jobs", str]:
    from stillhouse.cluster.jobs.submit import Jobs

    url = given.open().url
    jobs = Jobs(address)
    return jobs, _id_of(jobs.find(given.text, dataset=url))


def _id_of(job: "JobDetails") -> str:
    if job.submission_id is None:
        raise UsageError(f"job {job.job_id} was not submitted: it is a driver, which ends where it was started")
    return str(job.submission_id)


def _note(text: str) -> None:
    click.echo(text, err=True)


def _follow(jobs: "Jobs", job_id: str, *, as_json: bool, say: Callable[[str], None] = _note) -> None:
    """Show the job until it ends, print what it left, and exit as it did; `say` is given its log."""
    from stillhouse.cluster.jobs.submit import check_ended, exit_code_of

    results: list[str] = []

    def take(line: str) -> None:
        if line.startswith(_RESULT):
            results.append(line)
        else:
            say(_shown(line))

    try:
        job = jobs.follow(job_id, say=take, note=_note)
    except KeyboardInterrupt:
        _note(f"no longer following; the job continues. {_how_on(jobs, job_id)}")
        sys.exit(130)
    if results:
        _print_result(results[-1], as_json=as_json)
    check_ended(job)
    sys.exit(exit_code_of(job))


def _print_result(line: str, *, as_json: bool) -> None:
    try:
        summary = Summary.model_validate_json(line)
    except ValidationError:  # of another version: said as it is
        click.echo(_shown(line))
    else:
        click.echo(summary.as_line() if as_json else summary.as_text())


def note_job(dataset: str, address: str) -> None:
    """Report which job of the cluster is working on the dataset."""
    from stillhouse.cluster.jobs.submit import Jobs

    jobs = Jobs(address)
    job = jobs.running(dataset)
    _note(f"job {job.submission_id}: {job.status.lower()}" if job else f"no job on {jobs.address} is working on it")


def _how_on(jobs: "Jobs", job_id: str) -> str:
    where = f"{job_id} --address {jobs.address}"
    return f"Its log: stillhouse logs {where}; to stop it: stillhouse stop {where}"


def _shown(line: str) -> str:
    return inert(click.unstyle(line).expandtabs().rstrip())
