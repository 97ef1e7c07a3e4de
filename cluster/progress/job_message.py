"""The message of a Ray job, as its page on the dashboard and `ray job status` show it.

Ray has no call for it. The job's supervisor keeps it in the cluster's key-value store, in one value with the job's
status, which it writes before the entrypoint starts and after that has ended. In between, and only while the status
there is RUNNING, we put our words in. Where Ray keeps it elsewhere, the job goes without.
"""

import contextlib
import json
import os
import time

from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from stillhouse.cluster.progress.display import Figures, Progress
from stillhouse.cluster.progress.stats import QueueStats
from stillhouse.schemas.recipe import Recipe

EVERY_S = 5.0
_TOLD = ("asked again", "records", "requests", "time left")
"""Of this call."""


def submission_id() -> str | None:
    """The id of the Ray job that this process is the entrypoint of."""
    try:
        config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        return str(config["metadata"]["job_submission_id"])
    except (ValueError, KeyError, TypeError):
        return None


class JobMessage:
    """Says how far the run is; outside of Ray jobs to nobody."""

    def __init__(self, recipe: Recipe) -> None:
        self._job = submission_id()
        self._progress = Progress(recipe)
        self._next = 0.0

    def update(self, stats: QueueStats) -> None:
        """Take in how far it is."""
        if self._job is None:
            return
        figures = self._progress.figures(stats)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY_S
            call = {name: figures.call[name] for name in _TOLD if name in figures.call}
            put(self._job, Figures(figures.dataset, call).as_line())


def put(job: str, message: str) -> None:
    """Make it the job's message, if the job runs and the head can be reached."""
    key = f"_ray_internal_job_info_{job}"
    with contextlib.suppress(RayError):
        stored = _internal_kv_get(key, namespace="job")
        info = json.loads(stored) if stored else {}
        if info.get("status") == "RUNNING":
            _internal_kv_put(key, json.dumps(info | {"message": message}), namespace="job")
