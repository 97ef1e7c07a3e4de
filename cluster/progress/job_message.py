"""The message of a Ray job, as its page on the dashboard and `ray job status` show it, and its progress for followers.

Ray has no call for either. The job's supervisor keeps both the message and the metadata in the cluster's key-value
store, in one value with the job's status, which it writes before the entrypoint starts and after that has ended. In
between, and only while the status there is RUNNING, we put ours in. Where Ray keeps it elsewhere, the job goes without.
"""

import contextlib
import json
import os
import time
from collections.abc import Mapping

from pydantic import ValidationError
from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from stillhouse.cluster.progress.display import Figures, Progress, Shown
from stillhouse.cluster.progress.stats import QueueStats
from stillhouse.schemas.recipe import Recipe

EVERY_S = 2.0
PROGRESS_KEY = "stillhouse_progress"
"""The metadata that holds what followers are shown."""
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
        shown = self._progress.shown(stats)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY_S
            put(self._job, shown)


def put(job: str, shown: Shown) -> None:
    """Make it the job's message and progress, if the job runs and the head can be reached."""
    figures = shown.figures
    call = {name: figures.call[name] for name in _TOLD if name in figures.call}
    message = Figures(figures.dataset, call).as_line()
    key = f"_ray_internal_job_info_{job}"
    with contextlib.suppress(RayError):
        stored = _internal_kv_get(key, namespace="job")
        info = json.loads(stored) if stored else {}
        if info.get("status") == "RUNNING":
            metadata = (info.get("metadata") or {}) | {PROGRESS_KEY: shown.model_dump_json()}
            _internal_kv_put(key, json.dumps(info | {"message": message, "metadata": metadata}), namespace="job")


def progress_of(metadata: Mapping[str, str] | None) -> Shown | None:
    """What the job with this metadata last said; None before it said anything, or where it is another version's."""
    try:
        return Shown.model_validate_json((metadata or {}).get(PROGRESS_KEY, ""))
    except ValidationError:
        return None
