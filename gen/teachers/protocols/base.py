"""The contract of a protocol: how it turns a question into a request, and a reply into an outcome.

A protocol is bound to one teacher and one `ask`, holds no connection and is pure: the same question and the same reply
give the same bytes and the same Outcome, live or from a journal. To add one, add a file here with a class that is
constructed with (teacher, ask), and a line in `PROTOCOLS`.
"""

import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import orjson

from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.outcome import Outcome
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.gen.teachers.vocabulary import ErrorVocabulary
from stillhouse.schemas.image import SentImage
from stillhouse.schemas.prompt import Message
from stillhouse.schemas.scored import Scored
from stillhouse.schemas.tool import Tool
from stillhouse.schemas.tool_call import paired

Framing: TypeAlias = Literal["json", "sse", "eventstream", "json_array"]
"""How the events of a streamed reply are separated; `json`: the protocol streams nothing."""


class Request(NamedTuple):
    """One sample in the form in which any protocol asks it; what all samples share is known to the protocol from the
    start.
    """

    messages: tuple[Message, ...]
    sample: int = 0
    """Number of the sample of its prompt, which is added to the recipe's seed."""
    stream: bool = False
    """True if the answer should come as a stream of events."""
    images: tuple[SentImage, ...] = ()
    """Images at the start of the first user message."""
    tools: tuple[Tool, ...] = ()
    """Tools that the answer may call; always present if messages call tools or contain results."""
    scored: Scored | None = None
    """Under `ask.score`: the tokens to score; there are no messages then."""


class Protocol(typing.Protocol):
    """How one teacher is asked."""

    errors: ErrorVocabulary
    """The protocol's vocabulary of errors and limits."""
    framing: Framing
    """How the protocol's streamed replies are framed."""

    def request(self, ask: Request, *, base_url: str, key: Credentials, now: float) -> HttpRequest:
        """The request, with all its headers and signed if the protocol signs; `now`: UTC seconds since 1970."""
        ...

    def fold(self, raw: Reply) -> Reply:
        """The reply that a raw stream adds up to, as if it had come unstreamed; any other reply unchanged.

        An incomplete stream stays as it is, and `read` reports it as Ambiguous. Never raises.
        """
        ...

    def read(self, reply: Reply) -> Outcome:
        """The outcome of a folded reply, from what the journal keeps of it. Never raises, whatever a teacher sends."""
        ...


class Offers:
    """The field that offers tools, built once for consecutive requests that offer the same tools."""

    def __init__(self, field: Callable[[Sequence[Tool]], Mapping[str, Any]]) -> None:
        """`field`: builds the API's field, as a mapping of its name to its value."""
        self._field = field
        self._made: tuple[Sequence[Tool], Mapping[str, Any], bytes] = ((), {}, b"")

    def of(self, tools: Sequence[Tool]) -> Mapping[str, Any]:
        """The field; an empty mapping if there are no tools."""
        return self._of(tools)[1]

    def encoded(self, tools: Sequence[Tool]) -> bytes:
        """The field as JSON after a comma; empty if there are no tools."""
        return self._of(tools)[2]

    def _of(self, tools: Sequence[Tool]) -> tuple[Sequence[Tool], Mapping[str, Any], bytes]:
        if self._made[0] is not tools:
            field = self._field(tools) if tools else {}
            self._made = (tools, field, b"," + orjson.dumps(field)[1:-1] if field else b"")
        return self._made


def paired_messages(ask: Request) -> tuple[Message, ...]:
    """The messages, in which results name their calls; only requests with tools can have some."""
    return paired(ask.messages) if ask.tools else ask.messages


class Destinations:
    """URL and headers of requests that differ only in their body, built once per endpoint and key."""

    def __init__(
        self,
        path: str,
        headers: Callable[[Credentials], Mapping[str, str]],
        *,
        base: Callable[[str], str] = str,
    ) -> None:
        """`path`: appended to an endpoint's base URL, which `base` completes, for instance with the API's version."""
        self._path = path
        self._headers = headers
        self._base = base
        self._made: dict[str, tuple[Credentials, str, Mapping[str, str]]] = {}

    def post(self, base_url: str, key: Credentials, body: bytes) -> HttpRequest:
        """A POST of this body."""
        made = self._made.get(base_url)
        if made is None or made[0] is not key:
            url = self._base(base_url) + self._path
            if key.query:
                url += f"{'&' if '?' in self._path else '?'}{key.query}"
            made = self._made[base_url] = (key, url, {**self._headers(key), **key.headers})
        return HttpRequest("POST", made[1], made[2], body)
