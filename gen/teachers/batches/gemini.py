"""Gemini's batches on AI Studio: a file of requests, an operation named after the intent, a file of results.

Vertex's jobs use another API, whose results have no ids.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from stillhouse.gen.errors import UsageError
from stillhouse.gen.teachers.batches.base import (
    JSON_TYPE,
    MAX_PAGES,
    Access,
    Address,
    Answered,
    Batch,
    BatchRefused,
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
from stillhouse.gen.teachers.batches.moments import moment_of
from stillhouse.gen.teachers.json_text import dumped
from stillhouse.gen.teachers.outcome import Malformed
from stillhouse.gen.teachers.protocols.gemini import key_header
from stillhouse.gen.teachers.protocols.google_errors import GOOGLE_ERRORS
from stillhouse.gen.teachers.protocols.values import dicts, text
from stillhouse.gen.teachers.signals import trouble_of
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.schemas.batch import BatchSettings
from stillhouse.schemas.google_hosts import is_vertex, model_base
from stillhouse.schemas.teacher import Teacher

_STATES: dict[str, State] = {
    "SUCCEEDED": "ended",
    "PARTIALLY_SUCCEEDED": "ended",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "EXPIRED": "expired",
}
"""By the end of the name: `BATCH_STATE_…` on the wire, `JOB_STATE_…` in the SDK. Every other state is a running one."""
_CANCELLED, _DEADLINE = 1, 4
_STATUSES = {3: 400, 5: 404, 7: 403, 8: 429, 9: 400, 11: 400, 12: 501, 13: 500, 14: 503, 16: 401}
"""google.rpc's codes to the statuses that they have online."""
_NAME = re.compile(r"(?:batches|files)/[A-Za-z0-9._-]{1,200}")


class GeminiBatches:
    """POST models/MODEL:batchGenerateContent."""

    errors = GOOGLE_ERRORS
    max_requests = 100_000
    max_bytes = 2 * 10**9
    kept_days: float | None = 2.0
    names = True
    repeats = False

    def __init__(self, teacher: Teacher, settings: BatchSettings) -> None:
        """Raises UsageError for Vertex."""
        if any(map(is_vertex, teacher.urls)):
            raise UsageError(
                f"teachers.{teacher.name}: Vertex's batches give results without the requests' ids, so answers "
                "can't be told apart: use AI Studio (https://generativelanguage.googleapis.com), or leave out `mode`"
            )
        self._model = teacher.model_name.rpartition("models/")[2]
        self._address = Address(model_base, key_header)

    def line(self, key: str, request: HttpRequest) -> bytes:
        """The body with its key."""
        return b'{"key":"%b","request":%b}' % (key.encode(), request.body)

    def upload(self, job: Job, at: Access) -> Steps[str]:
        """Upload the file in Google's two steps: the first reply gives the address for the bytes."""
        body = b"\n".join(job.lines) + b"\n"
        begin = {
            "x-goog-upload-protocol": "resumable",
            "x-goog-upload-command": "start",
            "x-goog-upload-header-content-length": str(len(body)),
            "x-goog-upload-header-content-type": "application/jsonl",
        }
        start = self._address.request(
            "POST", "/files", at, orjson.dumps({"file": {"displayName": job.intent.id}}), headers=begin
        )
        reply = yield start._replace(url=_upload_url(start.url))
        if not 200 <= reply.status < 300:
            raise BatchRefused(trouble_of(reply, self.errors))
        target = reply.headers.get("x-goog-upload-url", "")
        if urlsplit(target)[:2] != urlsplit(start.url)[:2]:
            raise BatchRefused(Malformed("expected an upload URL on the API's host, got another one", reply.status))
        finish = {
            "content-type": "application/jsonl",
            "x-goog-upload-command": "upload, finalize",
            "x-goog-upload-offset": "0",
        }
        reply = yield HttpRequest("POST", target, finish, body)  # the address is all the authorisation that it needs
        file = object_in(reply, self.errors).get("file")
        return _name(file if isinstance(file, dict) else {})

    def create(self, job: Job, uploaded: str, at: Access) -> Steps[Batch]:
        """Create the batch with the intent as its display name."""
        body = {"batch": {"displayName": job.intent.id, "inputConfig": {"fileName": uploaded}}}
        path = f"/models/{quote(self._model, safe='')}:batchGenerateContent"
        reply = yield self._address.request("POST", path, at, orjson.dumps(body))
        return _batch(object_in(reply, self.errors))

    def find(self, intent: Intent, at: Access) -> Steps[tuple[Batch, ...]]:
        """Find the batch by the display names of the listed ones."""
        found: list[Batch] = []
        path = "/batches?pageSize=100"
        for _ in range(MAX_PAGES):
            reply = yield self._address.request("GET", path, at)
            page, ahead = object_in(reply, self.errors), ahead_s(reply, at)
            batches = [_batch(each) for each in dicts(page.get("operations"))]
            found += [each for each in batches if each.intent == intent.id]
            token = text(page.get("nextPageToken"))
            if not token or (batches and all(is_too_old(each, intent, ahead_s=ahead) for each in batches)):
                break
            path = f"/batches?pageSize=100&pageToken={quote(token, safe='')}"
        return tuple(found)

    def look(self, batch_id: str, at: Access) -> Steps[Batch]:
        """The operation as it is now."""
        reply = yield self._address.request("GET", f"/{batch_id}", at)
        return looked(batch_id, reply, self.errors, _batch)

    def cancel(self, batch_id: str, at: Access) -> Steps[None]:
        """Cancel the batch; Google keeps none of its results."""
        reply = yield self._address.request("POST", f"/{batch_id}:cancel", at)
        check_cancelled(reply, self.errors)

    def results(self, batch: Batch, at: Access) -> Sequence[HttpRequest]:
        """One file; expired, cancelled and failed batches have none."""
        return [self._address.request("GET", f"/{name}:download?alt=media", at) for name in batch.outputs]

    def read(self, line: bytes) -> Result:
        """The response in a line, or its error as the online API would have sent it."""
        return result_of(line, _row)


def _upload_url(url: str) -> str:
    """The URL of an upload: `/upload` comes before the API's version."""
    parts = urlsplit(url)
    head, version, _ = parts.path.rpartition("/v1")
    return parts._replace(path=f"{head}/upload{version}{parts.path[len(head) + len(version) :]}").geturl()


def _row(row: dict[str, Any]) -> Result:
    key = row["key"]
    if not isinstance(key, str):
        raise TypeError("key")
    if "response" in row:
        return Answered(key, Reply(200, JSON_TYPE, dumped(row["response"])))
    error = row["error"]
    code = error.get("code")
    if code == _CANCELLED:
        return Unserved(key, "cancelled")
    if code == _DEADLINE:
        return Unserved(key, "expired")
    status = _STATUSES.get(code, code if type(code) is int and 400 <= code < 600 else 500)
    return Answered(key, Reply(status, JSON_TYPE, dumped({"error": {**error, "code": status}})))


def _name(document: Mapping[str, Any]) -> str:
    name = name_in(document, "name")
    if _NAME.fullmatch(name) is None:  # it becomes part of a URL
        raise BatchRefused(Malformed("expected the name of a batch or of a file", 200))
    return name


def _batch(document: dict[str, Any]) -> Batch:
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else document
    state = _STATES.get((text(metadata.get("state")) or "").partition("STATE_")[2], "running")
    stats = metadata.get("batchStats")
    count = str(stats.get("requestCount", "")) if isinstance(stats, dict) else ""
    output = metadata.get("output") or document.get("response")
    file = text(output.get("responsesFile")) if isinstance(output, dict) else None
    error = document.get("error")
    trouble = None
    if state == "failed":
        error = error if isinstance(error, dict) else {"message": "the provider does not say why the batch failed"}
        status = _STATUSES.get(error.get("code", 3), 400)
        trouble = trouble_of(Reply(status, JSON_TYPE, dumped({"error": {**error, "code": status}})), GOOGLE_ERRORS)
    return Batch(
        _name(document),
        state,
        intent_in(metadata.get("displayName")),
        int(count) if count.isdecimal() else None,
        moment_of(metadata.get("createTime")),
        (file,) if state == "ended" and file and _NAME.fullmatch(file) else (),
        trouble,
    )
