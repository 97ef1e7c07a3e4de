"""Anthropic's Message Batches."""

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import orjson

from stillhouse.gen.simulator.batches.base import Batch, Batches, Done, Page, Row
from stillhouse.gen.simulator.dialects.anthropic import Anthropic
from stillhouse.gen.simulator.dialects.base import BadRequest, Dialect
from stillhouse.gen.simulator.dialects.messages import payload_of
from stillhouse.gen.simulator.wire import Request

_API = "anthropic"
_CALL = re.compile(r"/v1/messages/batches(?:/msgbatch_(\d+))?(?:/(results|cancel))?")
_KEY = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_HEADERS = {b"anthropic-version": b"2023-06-01"}
_DAY_S = 86_400


class AnthropicBatches:
    """/v1/messages/batches."""

    dialect: Dialect = Anthropic()

    def takes(self, request: Request) -> bool:
        """One path and those below it."""
        return _CALL.fullmatch(request.path) is not None

    def page(self, request: Request, batches: Batches) -> Page:
        """The reply to a call."""
        found = _CALL.fullmatch(request.path)
        assert found is not None
        host = request.headers.get(b"host", b"").decode("latin-1")
        match request.method, *found.groups():
            case "POST", None, None:
                batch = batches.create(_API, _rows(payload_of(request.body)))
                return batches.created(batch, Page(orjson.dumps(_document(batch, host))))
            case "GET", None, None:
                return self._list(request, batches, host)
            case method, str(number), action:
                one = batches.find(_API, number)
                if one is not None and action != "results":
                    if (method, action) == ("POST", "cancel"):
                        batches.cancel(one)
                    return Page(orjson.dumps(_document(one, host)))
                if one is not None and one.done is not None:
                    lines = b"".join([_row(each) for each in one.done])
                    return batches.downloaded(one, Page(lines, content_type="application/x-jsonl"))
        status, body, _ = self.dialect.failure(404)
        return Page(body, status)

    def _list(self, request: Request, batches: Batches, host: str) -> Page:
        query = parse_qs(request.query)
        limit, after = int(query.get("limit", ["20"])[0]), query.get("after_id", [""])[0]
        data = [_document(batch, host) for batch in batches.listed(_API)]
        start = next((place for place, each in enumerate(data, 1) if each["id"] == after), 0)
        shown = data[start : start + limit]
        ends = (
            {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
        )
        return Page(orjson.dumps({"data": shown, **ends, "has_more": start + limit < len(data)}))


def _rows(payload: dict[str, Any]) -> list[Row]:
    requests = payload.get("requests")
    if not isinstance(requests, list) or not requests:
        raise BadRequest("requests: Field required", param="requests")
    keys = [each["custom_id"] for each in requests]
    if len(set(keys)) < len(keys) or not all(_KEY.fullmatch(key) for key in keys):
        raise BadRequest("requests: custom_id must be unique and match ^[a-zA-Z0-9_-]{1,64}$", param="requests")
    return [
        Row(each["custom_id"], Request("POST", "/v1/messages", _HEADERS, orjson.dumps(each["params"]), keep_alive=True))
        for each in requests
    ]


def _row(done: Done) -> bytes:
    result: dict[str, Any] = {"type": {"cancelled": "canceled"}.get(done.fate, done.fate)}
    if done.fate == "answered":
        name, kind = ("message", "succeeded") if done.status < 300 else ("error", "errored")
        result = {"type": kind, name: orjson.Fragment(done.body)}
    return orjson.dumps({"custom_id": done.key, "result": result}, option=orjson.OPT_APPEND_NEWLINE)


def _document(batch: Batch, host: str) -> dict[str, Any]:
    name, has_ended = f"msgbatch_{batch.number}", batch.done is not None
    counts = {
        "processing": 0 if has_ended else batch.count,
        "succeeded": batch.of("answered"),
        "errored": batch.of("answered", failed=True),
        "canceled": batch.of("cancelled"),
        "expired": batch.of("expired"),
    }
    counts["errored"] += batch.count - sum(counts.values())
    return {
        "id": name,
        "type": "message_batch",
        "processing_status": "ended" if has_ended else "canceling" if batch.cancelled_s is not None else "in_progress",
        "request_counts": counts,
        "created_at": _moment(batch.created),
        "expires_at": _moment(batch.created + _DAY_S),
        "ended_at": _moment(batch.created + batch.ends_s - batch.created_s) if has_ended else None,
        "cancel_initiated_at": None,
        "archived_at": None,
        "results_url": f"http://{host}/v1/messages/batches/{name}/results" if has_ended else None,
    }


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
