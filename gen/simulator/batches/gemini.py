"""Gemini's files and batches, as on AI Studio."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import orjson

from stillhouse.gen.simulator.batches.base import Batch, Batches, Done, Page, Row
from stillhouse.gen.simulator.dialects.base import BadRequest, Dialect
from stillhouse.gen.simulator.dialects.gemini import Gemini
from stillhouse.gen.simulator.dialects.messages import payload_of
from stillhouse.gen.simulator.wire import Request

_API = "gemini"
_VERSION = r"/v1(?:beta|alpha)?"
_UPLOAD = re.compile(rf"/upload{_VERSION}/files")
_CREATE = re.compile(rf"{_VERSION}/models/([^/:]+):batchGenerateContent")
_BATCH = re.compile(rf"{_VERSION}/batches(?:/b(\d+))?(:cancel)?")
_FILE = re.compile(rf"{_VERSION}/files/([a-z]+-?\d+)(:download)?")
_STATES = {"running": "RUNNING", "cancelling": "RUNNING", "ended": "SUCCEEDED"}
_CODES = {400: 3, 403: 7, 404: 5, 429: 8, 500: 13, 503: 14}


class GeminiBatches:
    """/v1beta/batches, and files."""

    dialect: Dialect = Gemini()

    def takes(self, request: Request) -> bool:
        """True for a path of this API in any version."""
        return any(each.fullmatch(request.path) for each in (_UPLOAD, _CREATE, _BATCH, _FILE))

    def page(self, request: Request, batches: Batches) -> Page:
        """The reply to a call."""
        if _UPLOAD.fullmatch(request.path):
            return _uploaded(request, batches)
        if (found := _CREATE.fullmatch(request.path)) is not None:
            return self._create(found[1], request, batches)
        if (found := _FILE.fullmatch(request.path)) is not None:
            return self._file(found[1], batches, is_download=found[2] is not None)
        found = _BATCH.fullmatch(request.path)
        assert found is not None
        if found[1] is None:
            return self._list(request, batches)
        if (batch := batches.find(_API, found[1])) is None:
            return self._missing()
        if found[2] is not None:
            batches.cancel(batch)
            return Page(b"{}")
        return Page(orjson.dumps(_operation(batch)))

    def _create(self, model: str, request: Request, batches: Batches) -> Page:
        asked = payload_of(request.body).get("batch") or {}
        name = asked.get("displayName")
        if not isinstance(name, str) or not name:
            raise BadRequest("batch.display_name is required.")
        file = (asked.get("inputConfig") or {}).get("fileName")
        if file not in batches.files:
            raise BadRequest(f"File {str(file)[:64]} not found.")
        batch = batches.create(_API, list(_rows(batches.files[file], model)), model=f"models/{model}", name=name)
        return batches.created(batch, Page(orjson.dumps(_operation(batch))))

    def _list(self, request: Request, batches: Batches) -> Page:
        query = parse_qs(request.query)
        size, start = int(query.get("pageSize", ["50"])[0]), int(query.get("pageToken", ["0"])[0])
        listed = batches.listed(_API)
        shown = [_operation(each) for each in listed[start : start + size]]
        more = {"nextPageToken": str(start + size)} if start + size < len(listed) else {}
        return Page(orjson.dumps({"operations": shown} | more))

    def _file(self, name: str, batches: Batches, *, is_download: bool) -> Page:
        if not is_download and f"files/{name}" in batches.files:
            return Page(orjson.dumps(_file(f"files/{name}", batches)))
        batch = batches.find(_API, name.removeprefix("results-"))
        if batch is None or not is_download or batch.state != "ended":
            return self._missing()
        lines = b"".join([_row(each) for each in batch.done or ()])
        return batches.downloaded(batch, Page(lines, content_type="application/octet-stream"))

    def _missing(self) -> Page:
        status, body, _ = self.dialect.failure(404)
        return Page(body, status)


def _uploaded(request: Request, batches: Batches) -> Page:
    """Both steps of an upload: the second one has the id that the first was answered with."""
    query = parse_qs(request.query)
    if "upload_id" not in query:
        name = f"files/f{len(batches.files)}"
        batches.files[name] = b""
        host = request.headers.get(b"host", b"").decode("latin-1")
        key = f"&key={query['key'][0]}" if "key" in query else ""
        target = f"http://{host}{request.path}?upload_id={name.removeprefix('files/')}{key}"
        return Page(b"", headers={"x-goog-upload-url": target, "x-goog-upload-status": "active"})
    name = f"files/{query['upload_id'][0]}"
    if name not in batches.files:
        raise BadRequest("Unknown upload.")
    batches.files[name] += request.body
    if b"finalize" not in request.headers.get(b"x-goog-upload-command", b""):
        return Page(b"", headers={"x-goog-upload-status": "active"})
    return Page(orjson.dumps({"file": _file(name, batches)}), headers={"x-goog-upload-status": "final"})


def _file(name: str, batches: Batches) -> dict[str, Any]:
    size = str(len(batches.files[name]))
    return {
        "name": name,
        "mimeType": "application/jsonl",
        "sizeBytes": size,
        "state": "ACTIVE",
        "uri": f"http://{name}",
    }


def _rows(content: bytes, model: str) -> Iterator[Row]:
    path = f"/v1beta/models/{model}:generateContent"
    for line in content.splitlines():
        if line.strip():
            row = payload_of(line)
            yield Row(row["key"], Request("POST", path, {}, orjson.dumps(row["request"]), keep_alive=True))


def _row(done: Done) -> bytes:
    row: dict[str, Any] = {"key": done.key}
    if done.fate != "answered":
        row["error"] = {"code": 4 if done.fate == "expired" else 1, "message": f"The request was {done.fate}."}
    elif done.status < 300:
        row["response"] = orjson.Fragment(done.body)
    else:
        message = orjson.loads(done.body)["error"]["message"]
        row["error"] = {"code": _CODES.get(done.status, 13), "message": message}
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _operation(batch: Batch) -> dict[str, Any]:
    state, name = batch.state, f"batches/b{batch.number}"
    made = datetime.fromtimestamp(batch.created, UTC).isoformat().replace("+00:00", "Z")
    metadata: dict[str, Any] = {
        "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
        "name": name,
        "model": batch.fields["model"],
        "displayName": batch.fields["name"],
        "state": f"BATCH_STATE_{_STATES.get(state, state.upper())}",
        "createTime": made,
        "updateTime": made,
        "batchStats": {"requestCount": str(batch.count)},
    }
    operation: dict[str, Any] = {"name": name, "metadata": metadata}
    if batch.done is not None:
        operation["done"] = True
    if state == "ended":
        metadata["output"] = {"responsesFile": f"files/results-{batch.number}"}
        operation["response"] = {"responsesFile": f"files/results-{batch.number}"}
    elif state == "failed":
        operation["error"] = {"code": 3, "message": "The batch is refused as a whole."}
    return operation
