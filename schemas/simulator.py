"""What the built-in teacher is told to be: one frozen value, the same in a recipe, on the command line and in tests.

All randomness of the simulator comes from `seed` and the serial number of the request, so equal settings and equal
order of requests give equal answers and equal faults.
"""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from stillhouse.schemas.base import Strict
from stillhouse.schemas.carried_file import CarriedFile


class _Settings(Strict):
    model_config = ConfigDict(strict=True)


_HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]
_HeaderValue = Annotated[str, Field(pattern=r"^[ -~]*$")]


class SimulatorLimits(_Settings):
    """What the simulator refuses to exceed, with 429 and the real headers; a limit that is null is not enforced."""

    requests_per_minute: PositiveInt | None = None
    """Chat requests admitted per minute."""
    input_tokens_per_minute: PositiveInt | None = None
    """Prompt tokens admitted per minute."""
    output_tokens_per_minute: PositiveInt | None = None
    """Completion tokens per minute, by what the answers really hold; a long answer leaves a debt that is waited off."""
    total_tokens_per_minute: PositiveInt | None = None
    """Prompt and completion tokens per minute together, with debt as above."""
    in_flight: PositiveInt | None = None
    """Requests served at one moment."""
    burst_s: PositiveFloat = 1.0
    """Seconds of `requests_per_minute` that may be used at once; 1 means that a limit of 60 is one request a second."""
    token_burst_s: PositiveFloat = 5.0
    """Seconds of each token limit that may be used at once."""
    headers: bool = True
    """Whether every answer tells what is left, in `x-ratelimit-…` headers; false: like a provider that tells nobody."""


class _Fault(_Settings):
    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the admitted requests that meet this fault. The shares of several faults add up; the first ones win."""
    start_s: float = Field(default=0.0, ge=0)
    """Seconds after the simulator's start at which the fault begins."""
    stop_s: PositiveFloat | None = None
    """Seconds after the simulator's start at which it ends; null: never."""
    start_request: int = Field(default=0, ge=0)
    """The number of the first chat request that may meet it, counted from 0."""
    stop_request: PositiveInt | None = None
    """The number of the first one after it that may not; null: none."""

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.stop_s is not None and self.stop_s <= self.start_s:
            raise ValueError(f"stop_s must be later than start_s ({self.start_s}), got {self.stop_s}")
        if self.stop_request is not None and self.stop_request <= self.start_request:
            raise ValueError(
                f"stop_request must be above start_request ({self.start_request}), got {self.stop_request}"
            )
        return self


class StatusFault(_Fault):
    """Answers with this status and body instead of the completion; status 200 with a body gives a malformed success."""

    kind: Literal["status"] = "status"
    """An HTTP answer that is no completion."""
    status: int = Field(default=500, ge=200, le=599)
    """The HTTP status."""
    body: str | None = None
    """The body, sent as it is; null: what a provider of the OpenAI protocol sends with this status."""
    headers: dict[_HeaderName, _HeaderValue] = Field(default_factory=dict)
    """Further headers, such as `retry-after`."""


class ResetFault(_Fault):
    """Resets the connection (RST)."""

    kind: Literal["reset"] = "reset"
    """A connection reset."""
    when: Literal["before", "headers", "body"] = "before"
    """Before anything is sent, after the headers, or in the middle of the body."""


class TruncateFault(_Fault):
    """Sends the headers and half of the body, then closes the connection in good order."""

    kind: Literal["truncate"] = "truncate"
    """A body shorter than its Content-Length."""


class HangFault(_Fault):
    """Never answers; the connection stays open until the client closes it."""

    kind: Literal["hang"] = "hang"
    """No answer at all."""


class TrickleFault(_Fault):
    """Sends the right answer in small pieces, so that no timeout for a single read sees anything wrong."""

    kind: Literal["trickle"] = "trickle"
    """An answer that drips."""
    over_s: PositiveFloat = 10.0
    """Seconds over which the body is spread evenly."""


class SilenceFault(_Fault):
    """Cuts an answer for which a gateway before the provider waits too long without a byte; streams get past it."""

    kind: Literal["silence"] = "silence"
    """A gateway's time-out."""
    after_s: PositiveFloat = 100.0
    """Seconds that the gateway waits."""
    status: int = Field(default=524, ge=400, le=599)
    """The status that it answers with."""


Fault = Annotated[
    StatusFault | ResetFault | TruncateFault | HangFault | TrickleFault | SilenceFault, Field(discriminator="kind")
]


class SimulatorSettings(_Settings):
    """The built-in teacher: what it says, how fast, what it refuses and how it breaks."""

    model: str = Field(default="simulator", min_length=1)
    """The model that `GET /v1/models` lists. A request may name any model and gets its name back."""
    api_key: str | None = Field(default=None, min_length=1)
    """A key for tests: requests without it get 401. null: any key or none."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """What answers, latencies and faults are drawn from, together with the request's serial."""
    first_serial: int = Field(default=0, ge=0, lt=2**63)
    """The first request's serial: a simulator started again goes on with new answers where this is set."""

    answers: CarriedFile | str | None = None
    """JSONL file of {"prompt": …, "answer": …}: a message that is or contains such a prompt gets its answer."""
    accuracy: float = Field(default=1.0, ge=0, le=1)
    """Share of right answers among those to known prompts and to arithmetic; the others are wrong."""
    output_tokens: Annotated[
        tuple[Annotated[int, Field(ge=1, le=131_072)], Annotated[int, Field(ge=1, le=131_072)]], Field(strict=False)
    ] = (16, 96)
    """[least, most] tokens of an answer, drawn evenly; a token is four characters."""
    distinct: PositiveInt | None = None
    """How many different answers there are to one prompt; null: no two are alike."""
    reasoning: Literal["reasoning", "reasoning_content", "think"] | None = None
    """Where a reasoning text goes: a field of the message by that name, or <think>…</think> heading the content."""

    tool_calls: float = Field(default=1.0, ge=0, le=1)
    """Share of the answers to requests with tools that call one of them, where the request leaves it to the model."""

    latency_s: float = Field(default=0.0, ge=0, le=86_400)
    """Median time to an answer, in seconds."""
    latency_spread: float = Field(default=0.0, ge=0, le=5)
    """Sigma of the log-normal distribution of latencies; 0: all alike, 0.5: 1 in 20 takes over 2.3 times the median."""
    limits: SimulatorLimits = SimulatorLimits()
    """What is refused with 429."""
    faults: Annotated[tuple[Fault, ...], Field(strict=False)] = ()
    """What goes wrong, how often and when."""
    log: str | None = None
    """JSONL file to which a line for every request is appended."""

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        least, most = self.output_tokens
        if least > most:
            raise ValueError(f"output_tokens is [least, most], got [{least}, {most}]")
        return self
