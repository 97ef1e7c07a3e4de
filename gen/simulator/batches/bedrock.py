"""Bedrock's model invocation jobs, and the part of S3 that they need, below `/s3`."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import orjson

from stillhouse.gen.simulator.batches.base import Batch, Batches, Done, Page, Row
from stillhouse.gen.simulator.dialects.base import BadRequest, Dialect
from stillhouse.gen.simulator.dialects.bedrock import Bedrock
from stillhouse.gen.simulator.dialects.messages import payload_of
from stillhouse.gen.simulator.wire import Request

_API = "bedrock"
_JOBS = "/model-invocation-jobs"
_JOB = re.compile(r"/model-invocation-job(?:/(.+?))?(/stop)?")
_ARN = "arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/"
_OBJECT = re.compile(r"/s3/([^/]+)/(.+)")
_STATES = {"running": "InProgress", "cancelling": "Stopping", "ended": "Completed", "cancelled": "Stopped"}
_NOT_FOUND = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchKey</Code><Message>No such key.</Message></Error>'
)


class BedrockBatches:
    """/model-invocation-job."""

    dialect: Dialect = Bedrock()

    def takes(self, request: Request) -> bool:
        """Jobs and objects."""
        return request.path == _JOBS or any(each.fullmatch(request.path) for each in (_JOB, _OBJECT))

    def page(self, request: Request, batches: Batches) -> Page:
        """The reply to a call."""
        if (found := _OBJECT.fullmatch(request.path)) is not None:
            return self._object(request, f"s3://{found[1]}/{unquote(found[2])}", batches)
        if request.path == _JOBS:
            return self._list(request, batches)
        found = _JOB.fullmatch(request.path)
        assert found is not None
        if found[1] is None:
            return self._create(payload_of(request.body), batches)
        batch = batches.find(_API, unquote(found[1]).removeprefix(_ARN))
        if batch is None:
            status, body, headers = self.dialect.failure(404)
            return Page(body, status, headers=headers)
        if found[2] is not None:
            batches.cancel(batch)
            return Page(b"{}")
        return Page(orjson.dumps(_document(batch)))

    def _create(self, payload: dict[str, Any], batches: Batches) -> Page:
        token = payload.get("clientRequestToken")
        same = [each for each in batches.known(_API) if token and each.fields["clientRequestToken"] == token]
        if same:  # a second call with a token makes no second job
            return Page(orjson.dumps({"jobArn": _arn(same[0])}))
        source = payload["inputDataConfig"]["s3InputDataConfig"]["s3Uri"]
        target = payload["outputDataConfig"]["s3OutputDataConfig"]["s3Uri"]
        if source not in batches.files:
            raise BadRequest(f"The input {source} can't be read with the role {payload.get('roleArn')}.")
        if payload.get("modelInvocationType") != "Converse":
            raise BadRequest("The simulator knows jobs of the type Converse alone.")
        rows = list(_rows(batches.files[source], payload["modelId"]))
        batch = batches.create(_API, rows, **payload, source=source, target=target)
        return batches.created(batch, Page(orjson.dumps({"jobArn": _arn(batch)})))

    def _list(self, request: Request, batches: Batches) -> Page:
        query = parse_qs(request.query)
        most, start = int(query.get("maxResults", ["100"])[0]), int(query.get("nextToken", ["0"])[0])
        part = query.get("nameContains", [""])[0]
        listed = [each for each in batches.listed(_API) if part in each.fields["jobName"]]
        shown = [_document(each) for each in listed[start : start + most]]
        more = {"nextToken": str(start + most)} if start + most < len(listed) else {}
        return Page(orjson.dumps({"invocationJobSummaries": shown} | more))

    def _object(self, request: Request, uri: str, batches: Batches) -> Page:
        if request.method == "PUT":
            batches.files[uri] = request.body
            return Page(b"", headers={"etag": f'"{len(request.body)}"'})
        for batch in batches.known(_API):
            folder = f"{batch.fields['target'].rstrip('/')}/{batch.number}"
            if batch.done and uri == f"{folder}/{batch.fields['source'].rpartition('/')[2]}.out":
                lines = b"".join([_row(each) for each in batch.done if each.fate != "cancelled"])
                return batches.downloaded(batch, Page(lines, content_type="binary/octet-stream"))
        if uri in batches.files:
            return Page(batches.files[uri], content_type="binary/octet-stream")
        return Page(_NOT_FOUND, 404, content_type="application/xml")


def _rows(content: bytes, model: str) -> Iterator[Row]:
    path = f"/model/{quote(model, safe='')}/converse"
    for line in content.splitlines():
        if line.strip():
            row = payload_of(line)
            yield Row(row["recordId"], Request("POST", path, {}, orjson.dumps(row["modelInput"]), keep_alive=True))


def _row(done: Done) -> bytes:
    row: dict[str, Any] = {"recordId": done.key}
    if done.fate != "answered":
        row["error"] = {"errorCode": 400, "errorMessage": "The record expired before it was processed."}
    elif done.status < 300:
        row["modelOutput"] = orjson.Fragment(done.body)
    else:
        message = orjson.loads(done.body).get("message", "The record failed.")
        row["error"] = {"errorCode": done.status, "errorMessage": message}
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _arn(batch: Batch) -> str:
    return f"{_ARN}{batch.number}"


def _document(batch: Batch) -> dict[str, Any]:
    state, fields = batch.state, batch.fields
    status = _STATES.get(state, state.capitalize())
    if state == "expired":  # Bedrock's word for a job that never began
        status = "PartiallyCompleted"
    made = datetime.fromtimestamp(batch.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    names = ("jobName", "modelId", "clientRequestToken", "roleArn", "inputDataConfig", "outputDataConfig")
    return {
        "jobArn": _arn(batch),
        **{name: fields[name] for name in names if fields.get(name) is not None},
        "status": status,
        "submitTime": made,
        "lastModifiedTime": made,
        "totalRecordCount": batch.count,
        **({"message": "The batch is refused as a whole."} if state == "failed" else {}),
    }
