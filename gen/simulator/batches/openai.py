"""OpenAI's files and batches."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import orjson

from stillhouse.gen.simulator.batches.base import Batch, Batches, Done, Page, Row
from stillhouse.gen.simulator.dialects.base import BadRequest, Dialect
from stillhouse.gen.simulator.dialects.messages import payload_of
from stillhouse.gen.simulator.dialects.openai_chat import OpenAIChat, error_body
from stillhouse.gen.simulator.wire import Request

_API = "openai"
_CALL = re.compile(r"(?:/v1)?/(files|batches)(?:/([^/]+))?(?:/(content|cancel))?")
_BOUNDARY = re.compile(rb'boundary="?([^";]+)')
_NAME = re.compile(rb'name="([^"]*)"(?:; ?filename="([^"]*)")?', re.IGNORECASE)
_DAY_S = 86_400
_STATUSES = {"running": "in_progress", "ended": "completed"}


class OpenAIBatches:
    """/v1/files and /v1/batches."""

    dialect: Dialect = OpenAIChat()

    def takes(self, request: Request) -> bool:
        """True for a path of this API, with or without the version; Google has the same paths in its own version."""
        return _CALL.fullmatch(request.path) is not None and b"x-goog-api-key" not in request.headers

    def page(self, request: Request, batches: Batches) -> Page:
        """The reply to a call."""
        found = _CALL.fullmatch(request.path)
        assert found is not None
        match request.method, *found.groups():
            case "POST", "files", None, None:
                return _uploaded(request, batches)
            case "GET", "files", str(name), "content":
                return self._content(name, batches)
            case "GET", "files", str(name), None if name in batches.files:
                return Page(orjson.dumps(_file(name, batches.files[name], batches)))
            case "POST", "batches", None, None:
                return self._create(request, batches)
            case "GET", "batches", None, None:
                return self._list(request, batches)
            case (("GET", "batches", str(name), None) | ("POST", "batches", str(name), "cancel")) as call:
                if (batch := self._find(name, batches)) is None:
                    return Page(error_body(f"No batch found with id '{name}'.", code=None), 404)
                if call[0] == "POST":
                    batches.cancel(batch)
                return Page(orjson.dumps(_document(batch)))
        return Page(error_body(f"Invalid URL ({request.method} {request.path})", code="unknown_url"), 404)

    def _create(self, request: Request, batches: Batches) -> Page:
        payload = payload_of(request.body)
        name, endpoint = payload.get("input_file_id"), payload.get("endpoint")
        if name not in batches.files:
            raise BadRequest(f"Invalid file id: {str(name)[:64]}", param="input_file_id")
        if endpoint not in ("/v1/chat/completions", "/v1/responses"):
            raise BadRequest(f"Invalid value for 'endpoint': {str(endpoint)[:40]}", param="endpoint")
        if not re.fullmatch(r"\d+[hd]", str(payload.get("completion_window"))):
            raise BadRequest("Invalid value for 'completion_window'.", param="completion_window")
        rows = list(_rows(batches.files[name], endpoint))
        kept = {each: payload.get(each) for each in ("input_file_id", "endpoint", "completion_window", "metadata")}
        batch = batches.create(_API, rows, **kept)
        return batches.created(batch, Page(orjson.dumps(_document(batch))))

    def _list(self, request: Request, batches: Batches) -> Page:
        query = parse_qs(request.query)
        limit, after = int(query.get("limit", ["20"])[0]), query.get("after", [""])[0]
        listed = batches.listed(_API)
        names = [_name(batch) for batch in listed]
        start = names.index(after) + 1 if after in names else 0
        data = [_document(batch) for batch in listed[start : start + limit]]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
        return Page(orjson.dumps({"object": "list", "data": data, **ends, "has_more": start + limit < len(listed)}))

    def _content(self, name: str, batches: Batches) -> Page:
        kind, _, owner = name.removeprefix("file-").partition("-")
        batch = self._find(f"batch_{owner}", batches) if kind in ("output", "errors") else None
        if batch is not None:
            rows = [result_row(each) for each in batch.done or () if each.is_error == (kind == "errors")]
            return batches.downloaded(batch, Page(b"".join(rows), content_type="application/octet-stream"))
        if name not in batches.files:
            return Page(error_body(f"No such File object: {name}", code=None), 404)
        return Page(batches.files[name], content_type="application/octet-stream")

    def _find(self, name: str, batches: Batches) -> Batch | None:
        return batches.find(_API, name.removeprefix("batch_"))


def _uploaded(request: Request, batches: Batches) -> Page:
    if (content := form_fields(request).get("file")) is None:
        raise BadRequest("'file' is a required property", param="file")
    name = f"file-{len(batches.files)}"
    batches.files[name] = content
    return Page(orjson.dumps(_file(name, content, batches)))


def form_fields(request: Request) -> dict[str, bytes]:
    """The fields of a multipart form, by name. Raises BadRequest for another body."""
    boundary = _BOUNDARY.search(request.headers.get(b"content-type", b""))
    if boundary is None:
        raise BadRequest("Expected a multipart form.", param="file")
    fields: dict[str, bytes] = {}
    for part in request.body.split(b"--" + boundary[1]):
        head, _, body = part.partition(b"\r\n\r\n")
        if (named := _NAME.search(head)) is not None:
            fields[named[1].decode()] = body.removesuffix(b"\r\n")
    return fields


def _file(name: str, content: bytes, batches: Batches) -> dict[str, Any]:
    return {
        "id": name,
        "object": "file",
        "bytes": len(content),
        "created_at": int(batches.now),
        "filename": f"{name}.jsonl",
        "purpose": "batch",
        "status": "processed",
    }


def _rows(content: bytes, endpoint: str) -> Iterator[Row]:
    for line in content.splitlines():
        if line.strip():
            row = payload_of(line)
            if row.get("url") != endpoint:
                raise BadRequest("The URL of a line is not the batch's endpoint.", param="url")
            yield Row(row["custom_id"], Request("POST", endpoint, {}, orjson.dumps(row["body"]), keep_alive=True))


def result_row(done: Done) -> bytes:
    """A line of a file of results."""
    row: dict[str, Any] = {"id": f"batch_req_{done.key}", "custom_id": done.key, "response": None, "error": None}
    if done.fate == "answered":
        response = {"status_code": done.status, "request_id": f"req_{done.key}", "body": orjson.Fragment(done.body)}
        row["response"] = response
    elif done.fate == "expired":
        message = "This request could not be executed before the completion window expired."
        row["error"] = {"code": "batch_expired", "message": message}
    else:
        row["error"] = {"code": "batch_cancelled", "message": "The batch was cancelled."}
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _name(batch: Batch) -> str:
    return f"batch_{batch.number}"


def _document(batch: Batch) -> dict[str, Any]:
    state, number, made = batch.state, batch.number, int(batch.created)
    done = [] if batch.done is None else batch.done
    failed = sum(each.is_error for each in done)
    error = {"code": "invalid_request", "message": "The batch is refused as a whole.", "line": 1, "param": None}
    return {
        "id": _name(batch),
        "object": "batch",
        **batch.fields,
        "errors": {"object": "list", "data": [error]} if state == "failed" else None,
        "status": _STATUSES.get(state, state),
        "output_file_id": f"file-output-{number}" if len(done) > failed else None,
        "error_file_id": f"file-errors-{number}" if failed else None,
        "created_at": made,
        "expires_at": made + _DAY_S,
        "request_counts": {"total": batch.count, "completed": len(done) - failed, "failed": failed},
    }
