"""OpenAI's batches, as OpenAI, Azure and Groq have them: a file of requests, a batch of it, files of results."""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from stillhouse.gen.teachers.batches.base import (
    JSON_TYPE,
    MAX_PAGES,
    Access,
    Address,
    Answered,
    Batch,
    Intent,
    Job,
    Result,
    State,
    Steps,
    Unserved,
    ahead_s,
    check_cancelled,
    intent_in,
    is_too_old,
    looked,
    name_in,
    object_in,
    result_of,
)
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

INTENT_FIELD = "stillhouse_intent"
"""The key of a batch's metadata for its intent."""

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


class OpenAIBatches:
    """POST /files, /batches; GET /files/{id}/content."""

    errors = OPENAI_ERRORS
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
        """With the path to which the body would have been posted."""
        head = b'{"custom_id":"%b","method":"POST","url":"/v1%b","body":' % (key.encode(), self._path.encode())
        return head + request.body + b"}"

    def upload(self, job: Job, at: Access) -> Steps[str]:
        """Named after the intent."""
        return upload_file(self._address, job, at)

    def create(self, job: Job, uploaded: str, at: Access) -> Steps[Batch]:
        """With the intent in its metadata."""
        body = {
            "input_file_id": uploaded,
            "endpoint": f"/v1{self._path}",
            "completion_window": self._window,
            "metadata": {INTENT_FIELD: job.intent.id},
        }
        reply = yield self._address.request("POST", "/batches", at, orjson.dumps(body))
        return _batch(object_in(reply, self.errors))

    def find(self, intent: Intent, at: Access) -> Steps[tuple[Batch, ...]]:
        """By the metadata of the listed batches, newest first."""
        found: list[Batch] = []
        path = "/batches?limit=100"
        for _ in range(MAX_PAGES):
            reply = yield self._address.request("GET", path, at)
            page, ahead = object_in(reply, self.errors), ahead_s(reply, at)
            batches = [_batch(each) for each in dicts(page.get("data"))]
            found += [each for each in batches if each.intent == intent.id]
            if not batches or page.get("has_more") is not True or is_too_old(batches[-1], intent, ahead_s=ahead):
                break
            path = f"/batches?limit=100&after={quote(batches[-1].id, safe='')}"
        return tuple(found)

    def look(self, batch_id: str, at: Access) -> Steps[Batch]:
        """The batch as it is now."""
        reply = yield self._address.request("GET", f"/batches/{quote(batch_id, safe='')}", at)
        return looked(batch_id, reply, self.errors, _batch)

    def cancel(self, batch_id: str, at: Access) -> Steps[None]:
        """Takes up to ten minutes."""
        reply = yield self._address.request("POST", f"/batches/{quote(batch_id, safe='')}/cancel", at)
        check_cancelled(reply, self.errors)

    def results(self, batch: Batch, at: Access) -> Sequence[HttpRequest]:
        """Answers and errors, which every terminal state may have."""
        return [file_content(self._address, name, at) for name in batch.outputs]

    def read(self, line: bytes) -> Result:
        """The response in a line, or why there is none."""
        return result_of(line, row_result)


def upload_file(
    address: Address,
    job: Job,
    at: Access,
    *,
    path: str = "/files",
    fields: Mapping[str, str] = MappingProxyType({"purpose": "batch"}),
) -> Steps[str]:
    """POST the lines as a file, beside these fields of the form; returns the file's id."""
    boundary = f"stillhouse-{job.intent.id}"
    name = f"{job.intent.id}.jsonl"
    part = f"--{boundary}\r\ncontent-disposition: form-data; name="
    head = "".join(f'{part}"{field}"\r\n\r\n{value}\r\n' for field, value in fields.items())
    head += f'{part}"file"; filename="{name}"\r\ncontent-type: application/jsonl\r\n\r\n'
    body = head.encode() + b"\n".join(job.lines) + f"\n\r\n--{boundary}--\r\n".encode()
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    reply = yield address.request("POST", path, at, body, headers=headers)
    return name_in(object_in(reply, OPENAI_ERRORS), "id")


def file_content(address: Address, name: str, at: Access) -> HttpRequest:
    """GET the content of a file."""
    return address.request("GET", f"/files/{quote(name, safe='')}/content", at)


def row_result(row: dict[str, Any]) -> Result:
    """A line of OpenAI's files of results; raises LookupError or TypeError for another object."""
    key = row["custom_id"]
    if not isinstance(key, str):
        raise TypeError("custom_id")
    response = row.get("response")
    if isinstance(response, dict) and "body" in response:
        status = response.get("status_code", 200)
        if type(status) is not int or not 200 <= status < 600:
            raise TypeError("status_code")
        body = response["body"]
        # Some servers put text where the API has an object.
        return Answered(key, Reply(status, JSON_TYPE, body.encode() if isinstance(body, str) else dumped(body)))
    error = row["error"]
    code = text(error.get("code")) or ""
    if "expired" in code:
        return Unserved(key, "expired")
    if "cancel" in code:
        return Unserved(key, "cancelled")
    return Answered(key, Reply(500, JSON_TYPE, dumped({"error": error})))


def _batch(document: dict[str, Any]) -> Batch:
    identity = name_in(document, "id")
    state = _STATES.get(text(document.get("status")) or "", "running")
    metadata = document.get("metadata")
    counts = document.get("request_counts")
    count = counts.get("total") if isinstance(counts, dict) else None
    created = document.get("created_at")
    outputs = (document.get("output_file_id"), document.get("error_file_id"))
    return Batch(
        identity,
        state,
        intent_in(metadata.get(INTENT_FIELD)) if isinstance(metadata, dict) else None,
        count if type(count) is int and count > 0 else None,
        float(created) if isinstance(created, (int, float)) else None,
        tuple(each for each in outputs if isinstance(each, str) and each),
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
