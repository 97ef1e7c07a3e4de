"""How a job ended: its exit code, and why it has none."""

import re

from ray.job_submission import JobDetails, JobStatus

from stillhouse.gen.errors import StillhouseError
from stillhouse.gen.inert import inert


def exit_code_of(job: JobDetails) -> int:
    """The run's own exit code: 0 done, 1 failed, 2 wrong, 3 paused; 1 for a job that died or never ran."""
    if job.status == JobStatus.STOPPED:
        return 3
    if job.driver_exit_code is None:
        return 0 if job.status == JobStatus.SUCCEEDED else 1
    return job.driver_exit_code if job.driver_exit_code in (0, 1, 2, 3) else 1


_NOT_THERE = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'", re.ASCII)


def lacks_pip(job: JobDetails) -> bool:
    """True for a job whose node could not install anything because it lacks pip."""
    return _failed_to_install(job) and "No module named pip" in (job.message or "")


def _failed_to_install(job: JobDetails) -> bool:
    return job.status == JobStatus.FAILED and (job.message or "").lstrip().startswith("runtime_env setup failed")


def check_ended(job: JobDetails) -> None:
    """Explain why a job that never ran, or was killed, has no result.

    Raises:
        StillhouseError: the job is one of these.
    """
    lines = [line.strip() for line in (job.message or "").splitlines() if line.strip()]
    if job.driver_exit_code == 1 and lines and (missing := _NOT_THERE.fullmatch(lines[-1])):
        raise StillhouseError(
            f"job {job.submission_id}: the head's Python has no {missing[1]}; every node needs what Stillhouse "
            "needs: install Stillhouse there, or install pip there and submit with --ship all"
        )
    if job.status != JobStatus.FAILED or job.driver_exit_code in (1, 2, 3):
        return
    if _failed_to_install(job) and "No space left on device" in (job.message or ""):
        raise StillhouseError(
            f"job {job.submission_id}: the disk of its node's session folder is full ({inert(lines[-1])}); free "
            "some space, or start Ray there with --temp-dir (or RAY_TMPDIR) on another disk"
        )
    if _failed_to_install(job):
        raise StillhouseError(
            f"job {job.submission_id}: its node could not install what the run needs: {inert(lines[-1])}; this "
            "takes pip and a package index on the node. If the nodes' Python has the packages, submit with --ship "
            "code; if it has Stillhouse, with --ship recipe"
        )
    raise StillhouseError(
        f"job {job.submission_id} did not end by itself: {inert(lines[0] if lines else 'no reason given')}"
    )
