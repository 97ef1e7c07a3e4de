"""The common part of APIs whose batches are files: requests are uploaded in one, results downloaded in others."""

import abc
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from stillhouse.gen.teachers.batches.base import (
    HAS_ENDED,
    JSON_TYPE,
    Access,
    Address,
    Answered,
    Batch,
    Job,
    Result,
    Steps,
    Unserved,
    check_cancelled,
    looked,
    name_in,
    object_in,
    result_of,
)
from stillhouse.gen.teachers.json_text import dumped
from stillhouse.gen.teachers.protocols.openai_errors import OPENAI_ERRORS
from stillhouse.gen.teachers.protocols.values import text
from stillhouse.gen.teachers.transport import HttpRequest, Reply

INTENT_FIELD = "stillhouse_intent"
"""The key of a batch's metadata for its intent."""


class FileBatches(abc.ABC):
    """GET a batch, POST its cancellation, GET /files/{id}/content."""

    errors = OPENAI_ERRORS
    batches_path = "/batches"
    """Path of the API's batches."""
    ended: Collection[int] = HAS_ENDED
    """Statuses with which it refuses to cancel a batch that has ended."""
    _address: Address

    @staticmethod
    @abc.abstractmethod
    def _batch(document: dict[str, Any]) -> Batch:
        """The batch in the API's own document."""

    def upload(self, job: Job, at: Access) -> Steps[str]:
        """Named after the intent."""
        return upload_file(self._address, job, at)

    def look(self, batch_id: str, at: Access) -> Steps[Batch]:
        """The batch as it is now."""
        reply = yield self._address.request("GET", f"{self.batches_path}/{quote(batch_id, safe='')}", at)
        return looked(batch_id, reply, self.errors, self._batch)

    def cancel(self, batch_id: str, at: Access) -> Steps[None]:
        """Takes a while; what is finished is kept."""
        reply = yield self._address.request("POST", f"{self.batches_path}/{quote(batch_id, safe='')}/cancel", at)
        check_cancelled(reply, self.errors, ended=self.ended)

    def results(self, batch: Batch, at: Access) -> Sequence[HttpRequest]:
        """Answers and errors, which every terminal state may have."""
        return [self._address.request("GET", f"/files/{quote(name, safe='')}/content", at) for name in batch.outputs]

    def read(self, line: bytes) -> Result:
        """The response in a line, or why there is none."""
        return result_of(line, _row_result)


def outputs_of(document: Mapping[str, Any], answers: str, errors: str) -> tuple[str, ...]:
    """The names of a batch's files of results, which are in these fields."""
    files = (document.get(answers), document.get(errors))
    return tuple(each for each in files if isinstance(each, str) and each)


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


def _row_result(row: dict[str, Any]) -> Result:
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
