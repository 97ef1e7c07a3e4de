"""Anthropic's Message Batches: the requests are in the call that creates the batch, which has no name of its own.

A batch whose reply was lost is known only by its time and size, until its results name the intent.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from stillhouse.gen.errors import UsageError
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
    Steps,
    Unserved,
    ahead_s,
    check_cancelled,
    is_too_old,
    looked,
    name_in,
    object_in,
    result_of,
)
from stillhouse.gen.teachers.batches.moments import moment_of
from stillhouse.gen.teachers.json_text import dumped
from stillhouse.gen.teachers.protocols.anthropic_errors import ANTHROPIC_ERRORS
from stillhouse.gen.teachers.protocols.claude_places import key_headers, versioned
from stillhouse.gen.teachers.protocols.values import dicts
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.schemas.batch import BatchSettings
from stillhouse.schemas.google_hosts import is_vertex
from stillhouse.schemas.teacher import Teacher

_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Error types to the statuses that they have online; a line of results has no status."""


class AnthropicBatches:
    """POST /v1/messages/batches."""

    errors = ANTHROPIC_ERRORS
    max_requests = 100_000
    max_bytes = 256 * 10**6
    kept_days: float | None = 29.0
    names = False
    repeats = False

    def __init__(self, teacher: Teacher, settings: BatchSettings) -> None:
        """Raises UsageError for Vertex."""
        if any(map(is_vertex, teacher.urls)):
            raise UsageError(
                f"teachers.{teacher.name}: Vertex has no batches of Claude's messages: use Anthropic's own API, or "
                "leave out `mode`"
            )
        self._address = Address(versioned, key_headers)

    def line(self, key: str, request: HttpRequest) -> bytes:
        """An element of `requests`."""
        return b'{"custom_id":"%b","params":%b}' % (key.encode(), request.body)

    def upload(self, job: Job, at: Access) -> Steps[str]:
        """Do nothing: the creation itself contains the requests."""
        yield from ()
        return ""

    def create(self, job: Job, uploaded: str, at: Access) -> Steps[Batch]:
        """Create the batch in one call that contains all requests."""
        body = b'{"requests":[%b]}' % b",".join(job.lines)
        reply = yield self._address.request("POST", "/messages/batches", at, body)
        return _batch(object_in(reply, self.errors))

    def find(self, intent: Intent, at: Access) -> Steps[tuple[Batch, ...]]:
        """Batches of this size created since then; the list begins with the newest."""
        found: list[Batch] = []
        path = "/messages/batches?limit=1000"
        for _ in range(MAX_PAGES):
            reply = yield self._address.request("GET", path, at)
            page, ahead = object_in(reply, self.errors), ahead_s(reply, at)
            batches = [_batch(each) for each in dicts(page.get("data"))]
            found += [
                each
                for each in batches
                if each.count == intent.requests and not is_too_old(each, intent, ahead_s=ahead)
            ]
            if not batches or page.get("has_more") is not True or is_too_old(batches[-1], intent, ahead_s=ahead):
                break
            path = f"/messages/batches?limit=1000&after_id={quote(batches[-1].id, safe='')}"
        return tuple(found)

    def look(self, batch_id: str, at: Access) -> Steps[Batch]:
        """The batch as it is now."""
        reply = yield self._address.request("GET", f"/messages/batches/{quote(batch_id, safe='')}", at)
        return looked(batch_id, reply, self.errors, _batch)

    def cancel(self, batch_id: str, at: Access) -> Steps[None]:
        """Cancel the batch, which ends once the requests in progress are finished."""
        reply = yield self._address.request("POST", f"/messages/batches/{quote(batch_id, safe='')}/cancel", at)
        check_cancelled(reply, self.errors)

    def results(self, batch: Batch, at: Access) -> Sequence[HttpRequest]:
        """One file, from the address that the key belongs to rather than the one that the batch names."""
        path = f"/messages/batches/{quote(batch.id, safe='')}/results"
        return [self._address.request("GET", path, at)] if batch.outputs else []

    def read(self, line: bytes) -> Result:
        """The message in a line, or why there is none."""
        return result_of(line, _row)


def _row(row: dict[str, Any]) -> Result:
    key, result = row["custom_id"], row["result"]
    if not isinstance(key, str):
        raise TypeError("custom_id")
    match result["type"]:
        case "succeeded":
            return Answered(key, Reply(200, JSON_TYPE, dumped(result["message"])))
        case "expired":
            return Unserved(key, "expired")
        case "canceled":
            return Unserved(key, "cancelled")
    error = result["error"]
    if "error" not in error:  # the whole body by the API's reference, only the error in older replies
        error = {"type": "error", "error": error}
    return Answered(key, Reply(_STATUSES.get(error["error"]["type"], 500), JSON_TYPE, dumped(error)))


def _batch(document: dict[str, Any]) -> Batch:
    counts = document.get("request_counts")
    numbers = [each for each in counts.values() if type(each) is int] if isinstance(counts, dict) else []
    has_ended = document.get("processing_status") == "ended"
    archived = document.get("archived_at") is not None
    return Batch(
        name_in(document, "id"),
        "ended" if has_ended else "running",
        None,
        sum(numbers) or None,
        moment_of(document.get("created_at")),
        ("results",) if has_ended and not archived else (),
    )
