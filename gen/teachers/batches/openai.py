"""OpenAI's batches, as OpenAI, Azure and Groq have them: a file of requests, a batch of it, files of results."""

from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from stillhouse.gen.teachers.batches.base import (
    JSON_TYPE,
    MAX_PAGES,
    Access,
    Address,
    Batch,
    Intent,
    Job,
    State,
    Steps,
    ahead_s,
    intent_in,
    is_too_old,
    name_in,
    object_in,
)
from stillhouse.gen.teachers.batches.files import INTENT_FIELD, FileBatches, outputs_of
from stillhouse.gen.teachers.json_text import dumped
from stillhouse.gen.teachers.outcome import Rate, Trouble
from stillhouse.gen.teachers.protocols.openai_errors import OPENAI_ERRORS
from stillhouse.gen.teachers.protocols.openai_responses import versioned
from stillhouse.gen.teachers.protocols.profiles import complete_base, key_headers, profile_of
from stillhouse.gen.teachers.protocols.values import dicts, text
from stillhouse.gen.teachers.signals import trouble_of
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.schemas.batch import BatchSettings
from stillhouse.schemas.teacher import Teacher

_STATES: dict[str, State] = {
    "validating": "running",
    "in_progress": "running",
    "finalizing": "running",
    "cancelling": "running",
    "completed": "ended",
    "expired": "expired",
    "cancelled": "cancelled",
    "failed": "failed",
}
_FULL = "token_limit_exceeded"
"""The account's queue is full: the same batch will be accepted later."""


class OpenAIBatches(FileBatches):
    """POST /files, /batches; GET /files/{id}/content."""

    max_requests = 50_000
    max_bytes = 100 * 10**6  # Groq's; OpenAI and Azure accept twice as much
    kept_days: float | None = 30.0
    names = True
    repeats = False

    def __init__(self, teacher: Teacher, settings: BatchSettings) -> None:
        responses = teacher.api == "openai-responses"
        self._path = "/responses" if responses else "/chat/completions"
        profile = profile_of(teacher)
        self._address = Address(versioned if responses else complete_base, partial(key_headers, profile))
        groq = any((urlsplit(url).hostname or "").endswith("groq.com") for url in teacher.urls)
        self._window = f"{settings.window_h if groq else 24}h"

    def line(self, key: str, request: HttpRequest) -> bytes:
        """One line of the input file, with the path to which the body would have been posted."""
        head = b'{"custom_id":"%b","method":"POST","url":"/v1%b","body":' % (key.encode(), self._path.encode())
        return head + request.body + b"}"

    def create(self, job: Job, uploaded: str, at: Access) -> Steps[Batch]:
        """Create the batch with the intent in its metadata."""
        body = {
            "input_file_id": uploaded,
            "endpoint": f"/v1{self._path}",
            "completion_window": self._window,
            "metadata": {INTENT_FIELD: job.intent.id},
        }
        reply = yield self._address.request("POST", "/batches", at, orjson.dumps(body))
        return self._batch(object_in(reply, self.errors))

    def find(self, intent: Intent, at: Access) -> Steps[tuple[Batch, ...]]:
        """Find the batch by the metadata of the listed ones, newest first."""
        found: list[Batch] = []
        path = "/batches?limit=100"
        for _ in range(MAX_PAGES):
            reply = yield self._address.request("GET", path, at)
            page, ahead = object_in(reply, self.errors), ahead_s(reply, at)
            batches = [self._batch(each) for each in dicts(page.get("data"))]
            found += [each for each in batches if each.intent == intent.id]
            if not batches or page.get("has_more") is not True or is_too_old(batches[-1], intent, ahead_s=ahead):
                break
            path = f"/batches?limit=100&after={quote(batches[-1].id, safe='')}"
        return tuple(found)

    @staticmethod
    def _batch(document: dict[str, Any]) -> Batch:
        identity = name_in(document, "id")
        state = _STATES.get(text(document.get("status")) or "", "running")
        metadata = document.get("metadata")
        counts = document.get("request_counts")
        count = counts.get("total") if isinstance(counts, dict) else None
        created = document.get("created_at")
        return Batch(
            identity,
            state,
            intent_in(metadata.get(INTENT_FIELD)) if isinstance(metadata, dict) else None,
            count if type(count) is int and count > 0 else None,
            float(created) if isinstance(created, (int, float)) else None,
            outputs_of(document, "output_file_id", "error_file_id"),
            _trouble(document) if state == "failed" else None,
        )


def _trouble(document: dict[str, Any]) -> Trouble:
    errors = document.get("errors")
    found = dicts(errors.get("data")) if isinstance(errors, dict) else []
    error = found[0] if found else {"message": "the provider refused the batch and does not say why"}
    line = f" (line {error['line']})" if type(error.get("line")) is int else ""
    message = f"{text(error.get('message')) or text(error.get('code')) or 'the batch failed'}{line}"
    if error.get("code") == _FULL:
        return Rate(message, 429)
    return trouble_of(Reply(400, JSON_TYPE, dumped({"error": {**error, "message": message}})), OPENAI_ERRORS)
