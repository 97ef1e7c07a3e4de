"""Together's batches: OpenAI's in outline, without metadata, so that the intent is the name of the input file."""

from functools import partial
from typing import Any

import orjson

from stillhouse.gen.teachers.batches.base import (
    Access,
    Address,
    Batch,
    BatchRefused,
    Intent,
    Job,
    State,
    Steps,
    name_in,
    object_in,
)
from stillhouse.gen.teachers.batches.files import FileBatches, outputs_of, upload_file
from stillhouse.gen.teachers.batches.moments import moment_of
from stillhouse.gen.teachers.outcome import BadRequest, Malformed
from stillhouse.gen.teachers.protocols.profiles import complete_base, key_headers, profile_of
from stillhouse.gen.teachers.protocols.reply_document import document_of
from stillhouse.gen.teachers.protocols.values import dicts, text
from stillhouse.gen.teachers.signals import trouble_of
from stillhouse.gen.teachers.transport import HttpRequest
from stillhouse.schemas.batch import BatchSettings
from stillhouse.schemas.teacher import Teacher

_STATES: dict[str, State] = {
    "COMPLETED": "ended",
    "EXPIRED": "expired",
    "CANCELLED": "cancelled",
    "FAILED": "failed",
}
"""Every other state is a running one."""


class TogetherBatches(FileBatches):
    """POST /files/upload, /batches; GET /files/{id}/content."""

    max_requests = 50_000
    max_bytes = 100 * 10**6
    kept_days: float | None = None  # not stated
    names = True
    repeats = False

    def __init__(self, teacher: Teacher, settings: BatchSettings) -> None:
        self._address = Address(complete_base, partial(key_headers, profile_of(teacher)))

    def line(self, key: str, request: HttpRequest) -> bytes:
        """The body beside its id."""
        return b'{"custom_id":"%b","body":%b}' % (key.encode(), request.body)

    def upload(self, job: Job, at: Access) -> Steps[str]:
        """Named after the intent."""
        fields = {"purpose": "batch-api", "file_name": _file_name(job.intent)}
        return upload_file(self._address, job, at, path="/files/upload", fields=fields)

    def create(self, job: Job, uploaded: str, at: Access) -> Steps[Batch]:
        """Over the file that has the intent's name."""
        body = {"input_file_id": uploaded, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        reply = yield self._address.request("POST", "/batches", at, orjson.dumps(body))
        document = object_in(reply, self.errors)
        job_made = document.get("job")
        return self._batch(job_made if isinstance(job_made, dict) else document)

    def find(self, intent: Intent, at: Access) -> Steps[tuple[Batch, ...]]:
        """Find the batches whose input file has the intent's name."""
        reply = yield self._address.request("GET", "/files", at)
        files = dicts(object_in(reply, self.errors).get("data"))
        mine = {each.get("id") for each in files if each.get("filename") == _file_name(intent)}
        if not mine:
            return ()
        reply = yield self._address.request("GET", "/batches", at)
        if not 200 <= reply.status < 300:
            raise BatchRefused(trouble_of(reply, self.errors))
        listed = document_of(reply)
        if isinstance(listed, dict):
            listed = listed.get("data")
        if not isinstance(listed, list):
            raise BatchRefused(Malformed("a list of batches was expected", reply.status))
        return tuple(self._batch(each, intent.id) for each in dicts(listed) if each.get("input_file_id") in mine)

    @staticmethod
    def _batch(document: dict[str, Any], intent: str | None = None) -> Batch:
        state = _STATES.get((text(document.get("status")) or "").upper(), "running")
        why = text(document.get("error")) or "the provider does not say why the batch failed"
        return Batch(
            name_in(document, "id"),
            state,
            intent,
            None,
            moment_of(document.get("created_at")),
            outputs_of(document, "output_file_id", "error_file_id"),
            BadRequest(why, 400) if state == "failed" else None,
        )


def _file_name(intent: Intent) -> str:
    return f"{intent.id}.jsonl"
