"""The contract of a provider's batch API: the requests of its calls, and what their replies mean.

Pure: a call is a generator that yields requests, receives their replies, and returns their combined result; it raises
`BatchRefused` if the provider refuses. Its caller decides when and how often to send. Only `create` must not be
repeated before `find` has shown that its batch does not exist, unless the API `repeats`. Every id in a batch begins
with the intent's id. No URL in a reply is ever followed: results are read from the endpoint that the key belongs to.
"""

import re
import typing
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.lenient_json import document_in
from stillhouse.gen.teachers.outcome import Ambiguous, Malformed, Trouble
from stillhouse.gen.teachers.protocols.reply_document import UNKNOWN_SHAPE, document_of
from stillhouse.gen.teachers.signals import trouble_of
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.gen.teachers.vocabulary import ErrorVocabulary

CLOCK_SKEW_S = 600.0
"""How much earlier than our intent its batch may have been created, because clocks of nodes differ."""
MAX_INPUT_BYTES = 64 * 2**20
"""Maximum input of one batch, whatever the provider accepts: it is held in memory while it is uploaded."""
MAX_PAGES = 100
"""Maximum pages of a listing that are read; no account has more batches of the last day."""
JSON_TYPE: Mapping[str, str] = {"content-type": "application/json"}
HAS_ENDED = (400, 409)
"""Statuses with which providers refuse to cancel a batch that has ended."""

T = TypeVar("T")
Steps: TypeAlias = Generator[HttpRequest, Reply, T]
"""A call: yields requests, receives replies, returns its result."""


class Access(NamedTuple):
    """Where a call is made, and with which credentials."""

    base_url: str
    key: Credentials
    now: float
    """UTC seconds since 1970."""


class Intent(NamedTuple):
    """A batch that is about to be created, or may have been."""

    id: str
    """24 hex digits: the batch's name, and the beginning of its requests' ids."""
    requests: int
    """Number of requests in it."""
    at: float
    """When it was decided, in UTC seconds since 1970."""


class Job(NamedTuple):
    """An intent with the lines of its input, as `BatchApi.line` makes them."""

    intent: Intent
    lines: Sequence[bytes]


State: TypeAlias = Literal["running", "ended", "expired", "cancelled", "failed", "lost"]
"""`ended`, `expired` and `cancelled` may have results; `failed`: rejected as a whole, without results; `lost`: the
provider does not know it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the provider reports it."""

    id: str
    state: State
    intent: str | None = None
    """The intent that it names; None if it names none, or its API has no names."""
    count: int | None = None
    """Requests in it, if reported."""
    created_at: float | None = None
    """UTC seconds since 1970, if reported."""
    outputs: tuple[str, ...] = ()
    """Names of the files with its results."""
    trouble: Trouble | None = None
    """Why it failed as a whole."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A request's reply, as the online API would have sent it."""

    key: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class Unserved:
    """A request that was never served, and costs nothing."""

    key: str
    why: Literal["expired", "cancelled"]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line of results that is not a result."""

    message: str


Result: TypeAlias = Answered | Unserved | Unreadable


class BatchRefused(Exception):
    """The provider refused a call."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.message)
        self.trouble = trouble


class BatchApi(typing.Protocol):
    """How one teacher's batches are made, found and read."""

    errors: ErrorVocabulary
    """The protocol's error vocabulary."""
    max_requests: int
    """Requests that a batch may hold."""
    max_bytes: int
    """Bytes of input that a batch may hold."""
    kept_days: float | None
    """Days after its creation until a batch's results may be gone; None if they are kept."""
    names: bool
    """True if a batch names its intent; otherwise only the ids in its results do."""
    repeats: bool
    """True if creating a batch again with its intent makes no second one."""

    def line(self, key: str, request: HttpRequest) -> bytes:
        """A request of the online API as a line of input, without a line end; `key`: its id in the batch."""
        ...

    def upload(self, job: Job, at: Access) -> Steps[str]:
        """Store the input at the provider, which costs nothing and may be repeated; returns its name for `create`."""
        ...

    def create(self, job: Job, uploaded: str, at: Access) -> Steps[Batch]:
        """Create the batch, in one request."""
        ...

    def find(self, intent: Intent, at: Access) -> Steps[tuple[Batch, ...]]:
        """Batches that this intent may have created: those that name it or, if none does, those of its time and
        size."""
        ...

    def look(self, batch_id: str, at: Access) -> Steps[Batch]:
        """The batch as it is now."""
        ...

    def cancel(self, batch_id: str, at: Access) -> Steps[None]:
        """Cancel it; what is finished is kept, and billed."""
        ...

    def results(self, batch: Batch, at: Access) -> Sequence[HttpRequest]:
        """Requests for the files with its results, one result per line in any order; none if there are no results."""
        ...

    def read(self, line: bytes) -> Result:
        """The result in a line. Never raises, whatever the line contains."""
        ...


@dataclass(frozen=True, slots=True)
class Address:
    """Builds a provider's requests."""

    base: Callable[[str], str]
    """Completes an endpoint's base URL."""
    headers: Callable[[Credentials], Mapping[str, str]]

    def request(
        self, method: str, path: str, at: Access, body: bytes = b"", *, headers: Mapping[str, str] | None = None
    ) -> HttpRequest:
        """A request to this path, which may include a query."""
        url = self.base(at.base_url) + path
        if at.key.query:
            url += f"{'&' if '?' in path else '?'}{at.key.query}"
        return HttpRequest(method, url, {**self.headers(at.key), **(headers or {}), **at.key.headers}, body)


def object_in(reply: Reply, errors: ErrorVocabulary) -> dict[str, Any]:
    """The JSON object in a reply to a call.

    Raises:
        BatchRefused: it is a refusal, or contains none.
    """
    if not 200 <= reply.status < 300:
        raise BatchRefused(trouble_of(reply, errors))
    document = document_of(reply)
    if isinstance(document, (Malformed, Ambiguous)):
        raise BatchRefused(document)
    if not isinstance(document, dict):
        raise BatchRefused(Malformed("a JSON object was expected", reply.status))
    return document


def name_in(document: Mapping[str, Any], field: str) -> str:
    """The id in this field.

    Raises:
        BatchRefused: there is none.
    """
    value = document.get(field)
    if not isinstance(value, str) or not value:
        raise BatchRefused(Malformed(f"the reply has no `{field}`", 200))
    return value


def intent_in(value: Any) -> str | None:
    """The value if it can be an intent's id."""
    return value if isinstance(value, str) and _INTENT.fullmatch(value) else None


_INTENT = re.compile(r"[0-9a-f]{24}")


def gone(reply: Reply) -> bool:
    """True if the provider does not know the requested object."""
    return reply.status in (404, 410)


def looked(batch_id: str, reply: Reply, errors: ErrorVocabulary, read: Callable[[dict[str, Any]], Batch]) -> Batch:
    """The batch in the reply to a look at it, which is `lost` if the provider does not know it.

    Raises:
        BatchRefused: the look was refused.
    """
    return Batch(batch_id, "lost") if gone(reply) else read(object_in(reply, errors))


def check_cancelled(reply: Reply, errors: ErrorVocabulary, *, ended: Collection[int] = HAS_ENDED) -> None:
    """Accept the reply to a cancellation, also if the batch is gone or its status shows that it has already `ended`.

    Raises:
        BatchRefused: it was refused for another reason.
    """
    if not (gone(reply) or reply.status in ended):
        object_in(reply, errors)


def ahead_s(reply: Reply, at: Access) -> float:
    """How much the provider's clock is ahead of ours by its reply; 0 if that does not say."""
    try:
        return parsedate_to_datetime(reply.headers["date"]).timestamp() - at.now
    except (LookupError, ValueError, TypeError, OverflowError):
        return 0.0


def is_too_old(batch: Batch, intent: Intent, *, ahead_s: float) -> bool:
    """True if the batch was created before the intent was decided on; in a list, newest first, the rest are too.

    `ahead_s`: how much the provider's clock is ahead of ours.
    """
    return batch.created_at is not None and batch.created_at - ahead_s < intent.at - CLOCK_SKEW_S


def result_of(line: bytes, read: Callable[[dict[str, Any]], Result]) -> Result:
    """What `read` returns for the line's object; an `Unreadable` if it fails."""
    try:
        document = document_in(line)
        if isinstance(document, dict):
            return read(document)
    except UNKNOWN_SHAPE:
        pass
    return Unreadable(f"not a result: {' '.join(line[:200].decode('utf-8', 'replace').split())}")
