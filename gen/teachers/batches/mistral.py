"""Mistral's batches: jobs over files of requests, with their intent in the metadata."""

from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import quote

import orjson

from stillhouse.gen.teachers.batches.base import (
    HAS_ENDED,
    JSON_TYPE,
    MAX_PAGES,
    Access,
    Address,
    Batch,
    Intent,
    Job,
    State,
    Steps,
    intent_in,
    name_in,
    object_in,
)
from stillhouse.gen.teachers.batches.files import INTENT_FIELD, FileBatches, outputs_of
from stillhouse.gen.teachers.batches.moments import moment_of
from stillhouse.gen.teachers.json_text import dumped
from stillhouse.gen.teachers.protocols.openai_errors import OPENAI_ERRORS
from stillhouse.gen.teachers.protocols.profiles import complete_base, key_headers, profile_of
from stillhouse.gen.teachers.protocols.values import dicts, text
from stillhouse.gen.teachers.signals import trouble_of
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.schemas.batch import BatchSettings
from stillhouse.schemas.teacher import Teacher

_PAGE = 100
_CREATED_SINCE_S = 86_400.0
"""A job may have been created this much earlier than its intent, because clocks differ."""
_STATES: dict[str, State] = {
    "QUEUED": "running",
    "RUNNING": "running",
    "CANCELLATION_REQUESTED": "running",
    "SUCCESS": "ended",
    "TIMEOUT_EXCEEDED": "expired",
    "CANCELLED": "cancelled",
    "FAILED": "failed",
}


class MistralBatches(FileBatches):
    """POST /files, /batch/jobs; GET /files/{id}/content."""

    batches_path = "/batch/jobs"
    ended = (*HAS_ENDED, 422)
    max_requests = 100_000
    max_bytes = 100 * 10**6
    kept_days: float | None = None
    names = True
    repeats = False

    def __init__(self, teacher: Teacher, settings: BatchSettings) -> None:
        self._model = teacher.model_name
        self._hours = min(settings.window_h, 167)  # less than seven days
        self._address = Address(complete_base, partial(key_headers, profile_of(teacher)))

    def line(self, key: str, request: HttpRequest) -> bytes:
        """The body with its id."""
        return b'{"custom_id":"%b","body":%b}' % (key.encode(), request.body)

    def create(self, job: Job, uploaded: str, at: Access) -> Steps[Batch]:
        """Create the job with the intent in its metadata."""
        body = {
            "input_files": [uploaded],
            "endpoint": "/v1/chat/completions",
            "model": self._model,
            "metadata": {INTENT_FIELD: job.intent.id},
            "timeout_hours": self._hours,
        }
        reply = yield self._address.request("POST", "/batch/jobs", at, orjson.dumps(body))
        return self._batch(object_in(reply, self.errors))

    def find(self, intent: Intent, at: Access) -> Steps[tuple[Batch, ...]]:
        """Find the job by the metadata of those created since the intent."""
        since = datetime.fromtimestamp(intent.at - _CREATED_SINCE_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        found: list[Batch] = []
        for page in range(MAX_PAGES):
            path = f"/batch/jobs?page={page}&page_size={_PAGE}&created_after={quote(since, safe='')}"
            reply = yield self._address.request("GET", path, at)
            jobs = dicts(object_in(reply, self.errors).get("data"))
            found += [batch for batch in map(self._batch, jobs) if batch.intent == intent.id]
            if len(jobs) < _PAGE:
                break
        return tuple(found)

    @staticmethod
    def _batch(document: dict[str, Any]) -> Batch:
        state = _STATES.get(text(document.get("status")) or "", "running")
        metadata = document.get("metadata")
        count = document.get("total_requests")
        trouble = None
        if state == "failed":
            errors = dicts(document.get("errors")) or [{"message": "the provider does not say why the batch failed"}]
            trouble = trouble_of(Reply(400, JSON_TYPE, dumped({"error": errors[0]})), OPENAI_ERRORS)
        return Batch(
            name_in(document, "id"),
            state,
            intent_in(metadata.get(INTENT_FIELD)) if isinstance(metadata, dict) else None,
            count if type(count) is int and count > 0 else None,
            moment_of(document.get("created_at")),
            outputs_of(document, "output_file", "error_file"),
            trouble,
        )
