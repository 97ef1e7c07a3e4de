"""Mistral's batch jobs, over files that are uploaded as to OpenAI."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import orjson

from stillhouse.gen.simulator.batches.base import Batch, Batches, Page, Row
from stillhouse.gen.simulator.batches.openai import result_row
from stillhouse.gen.simulator.dialects.base import BadRequest, Dialect
from stillhouse.gen.simulator.dialects.messages import payload_of
from stillhouse.gen.simulator.dialects.openai_chat import OpenAIChat, error_body
from stillhouse.gen.simulator.wire import Request

_API = "mistral"
_JOB = re.compile(r"/v1/batch/jobs(?:/job-(\d+))?(/cancel)?")
_RESULTS = re.compile(r"/v1/files/job-(\d+)-(output|errors)/content")
_STATES = {
    "running": "RUNNING",
    "cancelling": "CANCELLATION_REQUESTED",
    "ended": "SUCCESS",
    "expired": "TIMEOUT_EXCEEDED",
    "cancelled": "CANCELLED",
    "failed": "FAILED",
}


class MistralBatches:
    """/v1/batch/jobs."""

    dialect: Dialect = OpenAIChat()

    def takes(self, request: Request) -> bool:
        """Jobs, and the files of their results."""
        return any(each.fullmatch(request.path) for each in (_JOB, _RESULTS))

    def page(self, request: Request, batches: Batches) -> Page:
        """The reply to a call."""
        if (found := _RESULTS.fullmatch(request.path)) is not None:
            batch = batches.find(_API, found[1])
            if batch is None:
                return _missing()
            rows = [result_row(each) for each in batch.done or () if each.is_error == (found[2] == "errors")]
            return batches.downloaded(batch, Page(b"".join(rows), content_type="application/octet-stream"))
        found = _JOB.fullmatch(request.path)
        assert found is not None
        if found[1] is None:
            return self._create(request, batches) if request.method == "POST" else self._list(request, batches)
        if (batch := batches.find(_API, found[1])) is None:
            return _missing()
        if found[2] is not None:
            batches.cancel(batch)
        return Page(orjson.dumps(_document(batch)))

    def _create(self, request: Request, batches: Batches) -> Page:
        payload = payload_of(request.body)
        files = payload.get("input_files")
        if not isinstance(files, list) or len(files) != 1 or files[0] not in batches.files:
            raise BadRequest("The input file is not known.", param="input_files")
        if payload.get("endpoint") != "/v1/chat/completions" or not payload.get("model"):
            raise BadRequest("An endpoint and a model are required.", param="endpoint")
        rows = list(_rows(batches.files[files[0]], payload["model"]))
        batch = batches.create(_API, rows, metadata=payload.get("metadata"))
        return batches.created(batch, Page(orjson.dumps(_document(batch))))

    def _list(self, request: Request, batches: Batches) -> Page:
        query = parse_qs(request.query)
        page, size = int(query.get("page", ["0"])[0]), int(query.get("page_size", ["100"])[0])
        after = query.get("created_after", ["1970-01-01T00:00:00Z"])[0]
        since = datetime.fromisoformat(after).timestamp()
        listed = [each for each in batches.listed(_API) if each.created >= since]
        shown = [_document(each) for each in listed[page * size : (page + 1) * size]]
        return Page(orjson.dumps({"object": "list", "data": shown, "total": len(listed)}))


def _missing() -> Page:
    return Page(error_body("No such job.", code=None), 404)


def _rows(content: bytes, model: str) -> Iterator[Row]:
    for line in content.splitlines():
        if line.strip():
            row = payload_of(line)
            body = orjson.dumps({**row["body"], "model": model})
            yield Row(row["custom_id"], Request("POST", "/v1/chat/completions", {}, body, keep_alive=True))


def _document(batch: Batch) -> dict[str, Any]:
    name, state, done = f"job-{batch.number}", batch.state, batch.done or []
    failed = sum(each.is_error for each in done)
    return {
        "id": name,
        "object": "batch",
        **batch.fields,
        "status": _STATES[state],
        "output_file": f"{name}-output" if len(done) > failed else None,
        "error_file": f"{name}-errors" if failed else None,
        "errors": [{"message": "The batch is refused as a whole.", "count": 1}] if state == "failed" else [],
        "created_at": datetime.fromtimestamp(batch.created, UTC).isoformat(),
        "total_requests": batch.count,
        "completed_requests": len(done),
        "succeeded_requests": len(done) - failed,
        "failed_requests": failed,
    }
