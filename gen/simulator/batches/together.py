"""Together's files and batches, below `/together`: their paths are OpenAI's, and their words are not."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson

from stillhouse.gen.simulator.batches.base import Batch, Batches, Page, Row
from stillhouse.gen.simulator.batches.openai import form_fields, result_row
from stillhouse.gen.simulator.dialects.base import BadRequest, Dialect
from stillhouse.gen.simulator.dialects.messages import payload_of
from stillhouse.gen.simulator.dialects.openai_chat import OpenAIChat, error_body
from stillhouse.gen.simulator.wire import Request

_API = "together"
_CALL = re.compile(r"/together/v1/(files|batches)(?:/([^/]+))?(?:/(content|cancel))?")
_FILE = "file-together-"
_STATES = {"running": "IN_PROGRESS", "cancelling": "IN_PROGRESS", "ended": "COMPLETED"}


class TogetherBatches:
    """/together/v1/files and /together/v1/batches."""

    dialect: Dialect = OpenAIChat()

    def takes(self, request: Request) -> bool:
        """All below its prefix."""
        return _CALL.fullmatch(request.path) is not None

    def page(self, request: Request, batches: Batches) -> Page:
        """The reply to a call."""
        found = _CALL.fullmatch(request.path)
        assert found is not None
        match request.method, *found.groups():
            case "POST", "files", "upload", None:
                return _uploaded(request, batches)
            case "GET", "files", None, None:
                names = [name for name in batches.files if name.startswith(_FILE)]
                return Page(orjson.dumps({"object": "list", "data": [_file(name) for name in names]}))
            case "GET", "files", str(name), "content" if kept := re.fullmatch(r"(output|errors)-(\d+)", name):
                if (batch := batches.find(_API, kept[2])) is not None:
                    rows = [result_row(each) for each in batch.done or () if each.is_error == (kept[1] == "errors")]
                    return batches.downloaded(batch, Page(b"".join(rows), content_type="application/octet-stream"))
            case "POST", "batches", None, None:
                return _created(request, batches)
            case "GET", "batches", None, None:
                return Page(orjson.dumps([_document(each) for each in batches.listed(_API)]))
            case (("GET", "batches", str(name), None) | ("POST", "batches", str(name), "cancel")) as call:
                if (batch := batches.find(_API, name)) is not None:
                    if call[0] == "POST":
                        batches.cancel(batch)
                    return Page(orjson.dumps(_document(batch)))
        return Page(error_body("Not found.", code=None), 404)


def _uploaded(request: Request, batches: Batches) -> Page:
    fields = form_fields(request)
    if fields.get("purpose") != b"batch-api" or not fields.get("file_name") or "file" not in fields:
        raise BadRequest("file, file_name and purpose are required.", param="purpose")
    name = f"{_FILE}{len(batches.files)}-{fields['file_name'].decode()}"
    batches.files[name] = fields["file"]
    return Page(orjson.dumps(_file(name)))


def _file(name: str) -> dict[str, Any]:
    return {"id": name, "object": "file", "filename": name.removeprefix(_FILE).partition("-")[2]}


def _created(request: Request, batches: Batches) -> Page:
    payload = payload_of(request.body)
    name = payload.get("input_file_id")
    if name not in batches.files or payload.get("endpoint") != "/v1/chat/completions":
        raise BadRequest("An input file and an endpoint are required.", param="input_file_id")
    batch = batches.create(_API, list(_rows(batches.files[name])), input_file_id=name)
    return batches.created(batch, Page(orjson.dumps({"job": _document(batch), "warning": ""}), 201))


def _rows(content: bytes) -> Iterator[Row]:
    for line in content.splitlines():
        if line.strip():
            row = payload_of(line)
            request = Request("POST", "/v1/chat/completions", {}, orjson.dumps(row["body"]), keep_alive=True)
            yield Row(row["custom_id"], request)


def _document(batch: Batch) -> dict[str, Any]:
    number, state, done = batch.number, batch.state, batch.done or []
    failed = sum(each.is_error for each in done)
    return {
        "id": str(number),
        **batch.fields,
        "status": _STATES.get(state, state.upper()),
        "progress": 100.0 if batch.done is not None else 0.0,
        "endpoint": "/v1/chat/completions",
        "created_at": datetime.fromtimestamp(batch.created, UTC).isoformat(),
        "output_file_id": f"output-{number}" if len(done) > failed else None,
        "error_file_id": f"errors-{number}" if failed else None,
        "error": "The batch is refused as a whole." if state == "failed" else None,
    }
