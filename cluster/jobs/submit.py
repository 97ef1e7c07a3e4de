"""Runs as Ray jobs, using only the cluster's HTTP address: submitted, found again by dataset, followed, stopped.

This machine's Ray and Python may differ from the cluster's. You may stop following a job and return later: its log is
read from its start, and the cluster keeps its exit code.
"""

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ray.job_submission import JobDetails, JobStatus

from stillhouse.cluster.jobs.dashboard import POLL_S, checked, connected, first_line
from stillhouse.cluster.jobs.job_client import CLIENT_LOGGERS
from stillhouse.cluster.jobs.log_lines import LogLines
from stillhouse.cluster.jobs.shipment import DATASET_KEY, Ship, Shipment, packed
from stillhouse.cluster.progress import job_lines
from stillhouse.gen.errors import Paused, UsageError
from stillhouse.schemas.recipe import Recipe

WORD_AFTER_S = 10.0
"""A job that has not started after this long is reported."""
AGENT_WAIT_S = 30.0
"""How long a submission is retried while the head has no agent; Ray itself waits 10 s for one each time."""
_NO_AGENT = "No available agent"
OLDEST_RAY = (2, 54)
LINE_LOST_MOST = 5
"""Consecutive reconnections to a job's log before giving up."""
_SUBMISSION_KEY = "stillhouse_hand_in"
"""Metadata key that tells our job from one that somebody else submitted under the same id."""


class Jobs:
    """The jobs of one cluster.

    Every method raises UsageError if the cluster is not there, rejects the token, or does not know the job.
    """

    def __init__(self, address: str) -> None:
        self.address = checked(address)
        for name in CLIENT_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        with self._plainly():
            self._client = connected(self.address)
            self.ray_version = self._client.server_version
        if _version(self.ray_version) < OLDEST_RAY:
            oldest = ".".join(map(str, OLDEST_RAY))
            raise UsageError(
                f"{self.address} runs Ray {self.ray_version}; expected {oldest} or newer: update its image"
            )

    def submit(
        self,
        recipe: Recipe,
        *,
        ship: Ship,
        note: Callable[[str], None],
        limit: int | None = None,
        finish: bool = False,
        follow: bool = False,
    ) -> str:
        """Submit the run; returns the job's id. `note` receives what it waits for.

        Raises:
            UsageError: also if a job already works on this dataset, or the head starts no jobs.
        """
        with packed(recipe, ship=ship, limit=limit, finish=finish, follow=follow) as shipment, self._plainly():
            dataset = shipment.metadata[DATASET_KEY]
            known = self._of(dataset)
            if known and not known[0].status.is_terminal():
                raise self._busy(known[0], dataset)
            # Concurrent submissions choose the same id, and the cluster accepts only one of them.
            job_id, ours = _next_id(dataset, known), secrets.token_hex(8)
            try:
                self._submit(shipment, job_id, ours, note=note)
            except (OSError, RuntimeError):
                taken = next((job for job in self._client.list_jobs() if job.submission_id == job_id), None)
                if taken is None:
                    raise
                if (taken.metadata or {}).get(_SUBMISSION_KEY) != ours:
                    raise self._busy(taken, dataset) from None
                # It was accepted; only the reply was lost.
            return job_id

    def _submit(self, shipment: Shipment, job_id: str, ours: str, *, note: Callable[[str], None]) -> None:
        """Submit once the head can start jobs: right after `ray start`, its dashboard answers before its agent does."""
        give_up_at = time.monotonic() + AGENT_WAIT_S
        metadata, noted = shipment.metadata | {_SUBMISSION_KEY: ours}, False
        variables = shipment.runtime_env["env_vars"] | {job_lines.VARIABLE: "1"}
        while True:
            try:
                self._client.submit_job(
                    submission_id=job_id,
                    entrypoint=shipment.entrypoint,
                    runtime_env=shipment.runtime_env | {"env_vars": variables},
                    metadata=metadata,
                )
            except RuntimeError as error:
                if _NO_AGENT not in str(error):
                    raise
                if time.monotonic() > give_up_at:
                    raise self._no_agent() from None
                if not noted:
                    note(f"{self.address}: the head can't start jobs yet (no available agent); trying again")
                noted = True
                time.sleep(POLL_S)
            else:
                return

    def _no_agent(self) -> UsageError:
        return UsageError(
            f"{self.address} has had no available agent for {AGENT_WAIT_S:.0f} s: its head's dashboard agent, which "
            "starts jobs, is down. See its dashboard_agent.log (in /tmp/ray/session_latest/logs, or below the "
            "RAY_TMPDIR or --temp-dir it was started with). Often another Ray on that machine uses its port: start "
            "the head with --dashboard-agent-listen-port=0; or the limit on processes (ulimit -u) is low"
        )

    def _busy(self, job: JobDetails, dataset: str) -> UsageError:
        return UsageError(
            f"job {job.submission_id} already works on {dataset}; "
            f"stillhouse logs or stop {job.submission_id} --address {self.address}"
        )

    def running(self, dataset: str) -> JobDetails | None:
        """The dataset's job that has not ended, if any."""
        return next((job for job in self._of(dataset) if not job.status.is_terminal()), None)

    def find(self, dataset_or_id: str, *, dataset: str) -> JobDetails:
        """The job by its id, or the newest of a dataset, preferring a running one; `dataset`: its canonical URL."""
        with self._plainly():
            jobs = [job for job in self._client.list_jobs() if dataset_or_id in (job.submission_id, job.job_id)]
            jobs += self._of(dataset)
        if jobs:
            return jobs[0]
        raise UsageError(
            f"{self.address} has no job {dataset_or_id}, and none for the dataset {dataset}; expected an id that "
            "`stillhouse submit` printed, or a dataset's path"
        )

    def _of(self, dataset: str) -> list[JobDetails]:
        with self._plainly():
            jobs = [job for job in self._client.list_jobs() if (job.metadata or {}).get(DATASET_KEY) == dataset]
        return sorted(jobs, key=lambda job: (job.status.is_terminal(), -(job.start_time or 0)))

    def details(self, job_id: str) -> JobDetails:
        """The job's current state."""
        with self._plainly():
            return self._client.get_job_info(job_id)

    def logs(self, job_id: str) -> str:
        """The job's log so far."""
        with self._plainly():
            return str(self._client.get_job_logs(job_id))

    def follow(
        self,
        job_id: str,
        *,
        say: Callable[[str], None],
        note: Callable[[str], None],
    ) -> JobDetails:
        """Pass every line of the job's log to `say` as it comes; returns the job once it has ended.

        `note` receives other messages for the user, such as what a job waits for that does not start.

        Raises:
            Paused: the cluster was lost meanwhile.
        """
        try:
            return self._followed(job_id, say=say, note=note)
        except UsageError as error:
            raise Paused(
                f"lost the cluster while following job {job_id} ({error}); it may still run: stillhouse logs {job_id} "
                f"--address {self.address}. If it does not, the same submit resumes it"
            ) from None

    def _followed(self, job_id: str, *, say: Callable[[str], None], note: Callable[[str], None]) -> JobDetails:
        self._wait_for_start(job_id, note=note)
        lines = LogLines(say)
        broken = 0
        while True:
            try:
                with self._plainly():
                    asyncio.run(self._tail(job_id, lines))
                break
            except UsageError:
                broken += 1
                if broken > LINE_LOST_MOST:
                    raise
                time.sleep(POLL_S * 2**broken)
                lines.rewind()
        lines.end()
        return self.wait(job_id)

    async def _tail(self, job_id: str, lines: "LogLines") -> None:
        try:
            async for part in self._client.tail_job_logs(job_id):
                lines.add(part)
        except Exception as error:  # noqa: BLE001 - aiohttp's and Ray's have no base in common
            raise ConnectionError(f"the log broke off: {first_line(error)}") from None

    def _wait_for_start(self, job_id: str, *, note: Callable[[str], None]) -> None:
        started, said = time.monotonic(), False
        while (job := self.details(job_id)).status == JobStatus.PENDING:
            if not said and time.monotonic() - started > WORD_AFTER_S:
                said = True
                note(f"not started after {WORD_AFTER_S:.0f} s: {job.message}")
            time.sleep(POLL_S)

    def wait(self, job_id: str) -> JobDetails:
        """Wait for the job to end; returns it."""
        while not (job := self.details(job_id)).status.is_terminal():
            time.sleep(POLL_S)
        return job

    def stop(self, job_id: str) -> None:
        """Ask the job to stop: it finishes the requests in flight, within `shipment.STOP_WAIT_S`."""
        with self._plainly():
            self._client.stop_job(job_id)

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """Translate Ray's errors into ours, in one line each."""
        try:
            yield
        except (TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f"{self.address} does not answer as Ray's dashboard does ({type(error).__name__}); expected its "
                "address, such as http://head:8265"
            ) from None
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, OSError):  # includes everything that `requests` raises
                raise UsageError(
                    f"no Ray cluster answers at {self.address}: {first_line(error).rstrip('.')}; expected the address "
                    "of its dashboard, such as http://head:8265 (a run without `submit` has none: Ctrl-C stops it)"
                ) from None
            raise UsageError(f"{self.address}: {first_line(error)}") from None


def _next_id(dataset: str, known: Sequence[JobDetails]) -> str:
    """The id of the dataset's next job: the same for everyone who knows the same jobs of it."""
    prefix = f"stillhouse-{hashlib.sha256(dataset.encode()).hexdigest()[:12]}-"
    numbers = [(job.submission_id or "").removeprefix(prefix) for job in known]
    return f"{prefix}{1 + max((int(number) for number in numbers if number.isdecimal()), default=0)}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
