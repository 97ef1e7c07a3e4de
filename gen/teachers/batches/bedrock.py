"""Bedrock's model invocation jobs: input and output are objects in a bucket of the account.

A job is created with the intent as its token, so a second call with it makes no second job.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import orjson

from stillhouse.gen.errors import UsageError
from stillhouse.gen.teachers.batches.base import (
    JSON_TYPE,
    MAX_PAGES,
    Access,
    Answered,
    Batch,
    BatchRefused,
    Intent,
    Job,
    Result,
    State,
    Steps,
    Unserved,
    check_cancelled,
    intent_in,
    looked,
    name_in,
    object_in,
    result_of,
)
from stillhouse.gen.teachers.batches.moments import moment_of
from stillhouse.gen.teachers.json_text import dumped
from stillhouse.gen.teachers.outcome import Auth
from stillhouse.gen.teachers.protocols.bedrock import SERVICE
from stillhouse.gen.teachers.protocols.bedrock_errors import BEDROCK_ERRORS
from stillhouse.gen.teachers.protocols.values import dicts, text
from stillhouse.gen.teachers.signals import trouble_of
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.schemas.batch import BatchSettings
from stillhouse.schemas.teacher import Teacher

if TYPE_CHECKING:
    from stillhouse.gen.teachers.aws import Signing

_UNSIGNED = {"accept": "application/json", "accept-encoding": "identity"}
_JOBS = "/model-invocation-job"
_PREFIX = "stillhouse-"
"""Prefix of a job's name, which ends with the intent."""
_STATES: dict[str, State] = {
    "Completed": "ended",
    "PartiallyCompleted": "ended",
    "Failed": "failed",
    "Stopped": "cancelled",
    "Expired": "expired",
}
"""Every other state is a running one."""


class BedrockBatches:
    """POST /model-invocation-job at Bedrock's control plane; PUT and GET at S3."""

    errors = BEDROCK_ERRORS
    max_requests = 50_000
    max_bytes = 200 * 10**6
    kept_days: float | None = None
    names = True
    repeats = True

    def __init__(self, teacher: Teacher, settings: BatchSettings) -> None:
        """Raises UsageError: the settings lack bucket and role, or the region is unknown."""
        if settings.bedrock is None:
            raise UsageError(
                f"teachers.{teacher.name}.batch: Bedrock reads and writes batches in a bucket of yours: add `bedrock: "
                "{s3: s3://bucket/folder, role_arn: arn:aws:iam::…:role/…}`"
            )
        if teacher.region is None:
            raise UsageError(
                f"teachers.{teacher.name}.aws: a batch's bucket needs the region: add `region`, such as us-east-1"
            )
        self._place = settings.bedrock
        self._bucket, _, folder = self._place.s3.removeprefix("s3://").rstrip("/").partition("/")
        self._folder = f"{folder}/" if folder else ""
        self._region = teacher.region
        self._model = teacher.model_name
        self._hours = settings.window_h
        self._signing: Signing | None = None

    def line(self, key: str, request: HttpRequest) -> bytes:
        """A Converse body with its record's id."""
        return b'{"recordId":"%b","modelInput":%b}' % (key.encode(), request.body)

    def upload(self, job: Job, at: Access) -> Steps[str]:
        """Store the requests in an object named after the intent; returns its URI."""
        key = f"{self._folder}{job.intent.id}.jsonl"
        reply = yield self._object("PUT", key, at, b"\n".join(job.lines) + b"\n")
        if not 200 <= reply.status < 300:
            raise BatchRefused(trouble_of(reply, self.errors))
        return f"s3://{self._bucket}/{key}"

    def create(self, job: Job, uploaded: str, at: Access) -> Steps[Batch]:
        """Create the job, with the intent as its token and in its name."""
        body = {
            "jobName": f"{_PREFIX}{job.intent.id}",
            "roleArn": self._place.role_arn,
            "modelId": self._model,
            "clientRequestToken": job.intent.id,
            "inputDataConfig": {"s3InputDataConfig": {"s3Uri": uploaded, "s3InputFormat": "JSONL"}},
            "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": f"s3://{self._bucket}/{self._folder}"}},
            "timeoutDurationInHours": self._hours,
            "modelInvocationType": "Converse",
        }
        reply = yield self._call("POST", _JOBS, at, orjson.dumps(body))
        identity = name_in(object_in(reply, self.errors), "jobArn")
        return Batch(identity, "running", job.intent.id, job.intent.requests)

    def find(self, intent: Intent, at: Access) -> Steps[tuple[Batch, ...]]:
        """Find the job by its token, among those listed under the name."""
        query = f"?maxResults=100&nameContains={_PREFIX}{intent.id}"
        found: list[Batch] = []
        path = f"{_JOBS}s{query}"
        for _ in range(MAX_PAGES):
            reply = yield self._call("GET", path, at)
            page = object_in(reply, self.errors)
            jobs = map(self._batch, dicts(page.get("invocationJobSummaries")))
            found += [each for each in jobs if each.intent == intent.id]
            token = text(page.get("nextToken"))
            if not token:
                break
            path = f"{_JOBS}s{query}&nextToken={quote(token, safe='')}"
        return tuple(found)

    def look(self, batch_id: str, at: Access) -> Steps[Batch]:
        """The job's current state."""
        reply = yield self._call("GET", f"{_JOBS}/{quote(batch_id, safe='')}", at)
        return looked(batch_id, reply, self.errors, self._batch)

    def cancel(self, batch_id: str, at: Access) -> Steps[None]:
        """What is finished stays in the bucket."""
        reply = yield self._call("POST", f"{_JOBS}/{quote(batch_id, safe='')}/stop", at)
        check_cancelled(reply, self.errors)

    def results(self, batch: Batch, at: Access) -> Sequence[HttpRequest]:
        """One object, in a folder that the job created."""
        return [self._object("GET", key, at) for key in batch.outputs]

    def read(self, line: bytes) -> Result:
        """The output in a line, or its error as the online API would have sent it."""
        return result_of(line, _row)

    def _batch(self, document: dict[str, Any]) -> Batch:
        arn = name_in(document, "jobArn")
        state = _STATES.get(text(document.get("status")) or "", "running")
        intent = intent_in(document.get("clientRequestToken"))
        intent = intent or intent_in((text(document.get("jobName")) or "").removeprefix(_PREFIX))
        count = document.get("totalRecordCount")
        message = text(document.get("message")) or "Bedrock does not say why the job failed"
        refusal = Reply(400, JSON_TYPE, dumped({"message": message}))
        place = document.get("outputDataConfig")
        place = place.get("s3OutputDataConfig") if isinstance(place, dict) else None
        folder = text(place.get("s3Uri")) if isinstance(place, dict) else None
        if folder and folder.rstrip("/") != self._place.s3.rstrip("/"):
            raise BatchRefused(Auth(f"job {arn} writes to {folder}: set `batch.bedrock.s3` to that to collect it", 200))
        # A stopped job may have output; an expired one never began.
        has_output = state in ("ended", "cancelled") and intent is not None
        return Batch(
            arn,
            state,
            intent,
            count if type(count) is int and count > 0 else None,
            moment_of(document.get("submitTime")),
            (f"{self._folder}{arn.rpartition('/')[2]}/{intent}.jsonl.out",) if has_output else (),
            trouble_of(refusal, self.errors) if state == "failed" else None,
        )

    def _call(self, method: str, path: str, at: Access, body: bytes = b"") -> HttpRequest:
        """A request to the control plane, whose host is that of the models without `-runtime`."""
        parts = urlsplit(at.base_url)
        host = parts.netloc.replace("bedrock-runtime", "bedrock", 1)
        url = parts._replace(netloc=host).geturl() + path
        if at.key.aws is None:
            bearer = {"authorization": f"Bearer {at.key.key}"} if at.key.key else {}
            return HttpRequest(method, url, {**JSON_TYPE, **_UNSIGNED, **bearer, **at.key.headers}, body)
        if self._signing is None:
            from stillhouse.gen.teachers.aws import Signing

            self._signing = Signing(SERVICE, self._region)
        signed = self._signing.headers(method, url, JSON_TYPE, body, keys=at.key.aws.current(now=at.now), now=at.now)
        return HttpRequest(method, url, {**signed, **_UNSIGNED, **at.key.headers}, body)

    def _object(self, method: str, key: str, at: Access, body: bytes = b"") -> HttpRequest:
        """A request for an object in the bucket; Bedrock's own key does not work for S3."""
        from stillhouse.gen.teachers.aws import s3_headers

        if at.key.aws is None:
            raise UsageError("Bedrock's batches are in S3, which takes no Bedrock key: give AWS's keys in `aws`")
        base = f"https://{self._bucket}.s3.{self._region}.amazonaws.com"
        if "." in self._bucket or self._place.s3_endpoint:  # a bucket's host name has no certificate there, or its own
            base = f"{self._place.s3_endpoint or f'https://s3.{self._region}.amazonaws.com'}/{self._bucket}"
        url = f"{base}/{quote(key, safe='/~')}"
        keys = at.key.aws.current(now=at.now)
        return HttpRequest(method, url, s3_headers(method, url, body, keys=keys, region=self._region, now=at.now), body)


def _row(row: dict[str, Any]) -> Result:
    key = row["recordId"]
    if not isinstance(key, str):
        raise TypeError("recordId")
    if isinstance(row.get("modelOutput"), dict):
        return Answered(key, Reply(200, JSON_TYPE, dumped(row["modelOutput"])))
    error: Mapping[str, Any] = row["error"]
    code, message = error.get("errorCode"), text(error.get("errorMessage")) or "the record failed"
    if re.search(r"expired|timed out", message.lower()):
        return Unserved(key, "expired")
    status = code if type(code) is int and 400 <= code < 600 else 500
    return Answered(key, Reply(status, JSON_TYPE, dumped({"message": message})))
