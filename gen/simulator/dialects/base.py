"""The contract of a dialect: how a provider's API asks for an answer, and how it states answers and refusals.

It accepts and returns what the official clients send and read; unknown fields are ignored, as the providers do. A
dialect has no state. To add one, add a file here and a line in `DIALECTS`.
"""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stillhouse.gen.simulator.answers import Answer
from stillhouse.gen.simulator.limits import Level, Refusal
from stillhouse.gen.simulator.tools import Tool
from stillhouse.gen.simulator.wire import Request


class BadRequest(ValueError):
    """A body that the provider would answer with 400; `param` is the field at fault."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Asked:
    """The parts of a request that decide the answer, in any dialect."""

    model: str
    message: str
    """The text of the last user message, or of the last message of any role."""
    prompt: bytes
    """The prompt key of the messages, as in the records of a dataset; content parts count by their texts and images."""
    prompt_tokens: int
    images: tuple[bytes, ...] = ()
    """The keys of its images."""
    n: int = 1
    max_tokens: int | None = None
    seed: int | None = None
    top_logprobs: int | None = None
    """Number of alternatives; null: no log-probabilities."""
    scored: tuple[int, ...] = ()
    """The tokens to score, if no answer is requested."""
    score_start: int = 0
    """The position where their scores begin."""
    token_ids: bool = False
    """True if their tokens should be named by ids."""
    tools: tuple[Tool, ...] = ()
    """Tools that the answer may call: none after a tool's result, or if the request forbids calls."""
    must_call: bool = False
    """True if the answer must call one of them."""
    thinks: bool | None = None
    """True or false if the request switches reasoning on or off; null: the settings decide."""
    marked_tokens: int = 0
    """Prompt tokens marked for the cache."""
    schema: Mapping[str, Any] | None = None
    """The JSON Schema that the answer must fit; null: any form."""
    stream: bool = False
    in_array: bool = False
    """True if the stream comes as one JSON array, not as events."""
    include_usage: bool = False
    shows_reasoning: bool = True
    """True if the request asks for the text of the reasoning."""


class Error(NamedTuple):
    """An answer that is a refusal or a failure."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


class Spoken(NamedTuple):
    """What a dialect needs to write an answer."""

    asked: Asked
    answers: Sequence[Answer]
    reasoning_field: str | None
    """The name of the message's reasoning field in the settings, for a dialect with several."""
    serial: int
    created: int
    """Seconds since 1970."""


class Dialect(typing.Protocol):
    """One provider's API."""

    stream_type: str
    """The content type of a streamed answer."""

    def takes(self, path: str) -> bool:
        """True if a POST to this path asks for an answer."""
        ...

    def response_id(self, serial: int) -> str:
        """The id of an answer; it ends with the serial."""
        ...

    def headers(self, serial: int, levels: Sequence[Level], *, now: float) -> dict[str, str]:
        """The headers of every reply: the request's id, and what is left of the limits; `now`: seconds since 1970."""
        ...

    def unauthorized(self, request: Request, key: str, *, now: float) -> Error | None:
        """The refusal of a request without this key; None if it has the key. `now`: seconds since 1970."""
        ...

    def parse(self, request: Request) -> Asked:
        """Parse the request.

        Raises:
            BadRequest: it is not a JSON object, or a field has the wrong type or is out of range.
        """
        ...

    def answer(self, spoken: Spoken) -> bytes:
        """The body of a complete answer."""
        ...

    def stream(self, spoken: Spoken) -> list[bytes]:
        """The same answer as events."""
        ...

    def bad_request(self, error: BadRequest) -> Error:
        """The refusal of a request that can't be read."""
        ...

    def limited(self, refusal: Refusal) -> Error:
        """The refusal of a request above a limit."""
        ...

    def failure(self, status: int) -> Error:
        """The error of the provider, or of the proxy in front of it, for this status."""
        ...
