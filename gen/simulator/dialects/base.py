"""The contract of a dialect: how a provider's API asks for an answer, and how it says what is answered or refused.

What is accepted and what comes back is what the official clients send and read; what is not known is ignored, as the
providers do. A dialect holds no state. To add one: a file here, and a line in `DIALECTS`.
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
    """What of a request decides the answer, in any dialect."""

    model: str
    message: str
    """The text of the last user message, or of the last of any role."""
    prompt: bytes
    """The prompt key of the messages, as in the records of a dataset; of content parts texts and images count."""
    prompt_tokens: int
    images: tuple[bytes, ...] = ()
    """The keys of its images."""
    n: int = 1
    max_tokens: int | None = None
    seed: int | None = None
    top_logprobs: int | None = None
    """null: no log-probabilities."""
    scored: tuple[int, ...] = ()
    """The tokens to score, where no answer is asked for."""
    score_start: int = 0
    """The place where their scores begin."""
    token_ids: bool = False
    """True if their tokens are to be named by ids."""
    tools: tuple[Tool, ...] = ()
    """Tools that the answer may call: none after a tool's result, or where the request forbids calls."""
    must_call: bool = False
    """True if the answer has to call one of them."""
    thinks: bool | None = None
    """True or false if the request switches reasoning on or off; null: left to the settings."""
    marked_tokens: int = 0
    """Of the prompt's, those marked for the cache."""
    schema: Mapping[str, Any] | None = None
    """The JSON Schema that the answer has to fit; null: its form is free."""
    stream: bool = False
    in_array: bool = False
    """True if the stream comes as one JSON array, and not as events."""
    include_usage: bool = False
    shows_reasoning: bool = True
    """True if the request wants the text of the reasoning."""


class Error(NamedTuple):
    """An answer that is a refusal or a failure."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


class Spoken(NamedTuple):
    """What a dialect needs to say an answer."""

    asked: Asked
    answers: Sequence[Answer]
    reasoning_field: str | None
    """The settings' field of the message for reasoning, where a dialect has several."""
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
        """The id of an answer; it ends in the serial."""
        ...

    def headers(self, serial: int, levels: Sequence[Level], *, now: float) -> dict[str, str]:
        """Those of every reply: the request's id, and what is left of the limits; `now`: seconds since 1970."""
        ...

    def unauthorized(self, request: Request, key: str, *, now: float) -> Error | None:
        """The refusal of a request that does not show this key; None where it does. `now`: seconds since 1970."""
        ...

    def parse(self, request: Request) -> Asked:
        """What is asked.

        Raises:
            BadRequest: no JSON object, or a field of the wrong type or out of range.
        """
        ...

    def answer(self, spoken: Spoken) -> bytes:
        """The body of a whole answer."""
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
        """What the provider, or the proxy in front of it, sends with this status."""
        ...
