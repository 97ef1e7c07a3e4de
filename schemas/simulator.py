"""Settings of the built-in teacher: one frozen value, the same in a recipe, on the command line and in tests.

All randomness of the simulator comes from `seed` and the serial number of the request, so the same settings and the
same order of requests give the same answers and faults.
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
    """Limits that the simulator enforces, with 429 and the real headers; a null limit is not enforced."""

    requests_per_minute: PositiveInt | None = None
    """Chat requests admitted per minute."""
    input_tokens_per_minute: PositiveInt | None = None
    """Prompt tokens admitted per minute."""
    output_tokens_per_minute: PositiveInt | None = None
    """Completion tokens per minute, by the answers' actual length; a long answer leaves a debt, and nothing is
    admitted until time has repaid it."""
    total_tokens_per_minute: PositiveInt | None = None
    """Prompt and completion tokens together, per minute; with a debt, like `output_tokens_per_minute`."""
    in_flight: PositiveInt | None = None
    """Maximum number of requests served at once."""
    burst_s: PositiveFloat = 1.0
    """Seconds of `requests_per_minute` that may be used at once; with 1, a limit of 60 is 1 request per second."""
    token_burst_s: PositiveFloat = 5.0
    """Seconds of each token limit that may be used at once."""
    headers: bool = True
    """Every answer's `x-ratelimit-…` headers report what is left of the limits."""


class _Fault(_Settings):
    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the admitted requests that get this fault. The shares of several faults add up; earlier ones win."""
    start_s: float = Field(default=0.0, ge=0)
    """Seconds after the simulator's start at which the fault begins."""
    stop_s: PositiveFloat | None = None
    """Seconds after the simulator's start at which the fault ends; null: never."""
    start_request: int = Field(default=0, ge=0)
    """Number of the first chat request that may get the fault, counted from 0."""
    stop_request: PositiveInt | None = None
    """Number of the first chat request after the fault has ended; null: it never ends."""

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
    """An HTTP answer that is not a completion."""
    status: int = Field(default=500, ge=200, le=599)
    """The HTTP status."""
    body: str | None = None
    """The body, sent unchanged; null: what a provider of the OpenAI protocol sends with this status."""
    headers: dict[_HeaderName, _HeaderValue] = Field(default_factory=dict)
    """Additional headers, such as `retry-after`."""


class ResetFault(_Fault):
    """Resets the connection (RST)."""

    kind: Literal["reset"] = "reset"
    """A connection reset."""
    when: Literal["before", "headers", "body"] = "before"
    """When it happens: before anything is sent, after the headers, or in the middle of the body."""


class TruncateFault(_Fault):
    """Sends the headers and half of the body, then closes the connection cleanly."""

    kind: Literal["truncate"] = "truncate"
    """A body shorter than its Content-Length."""


class HangFault(_Fault):
    """Never answers; the connection stays open until the client closes it."""

    kind: Literal["hang"] = "hang"
    """Never sends an answer."""


class TrickleFault(_Fault):
    """Sends the right answer in small pieces, so that no single read times out."""

    kind: Literal["trickle"] = "trickle"
    """An answer that arrives slowly."""
    over_s: PositiveFloat = 10.0
    """Seconds over which the body is spread evenly."""


class SilenceFault(_Fault):
    """Cuts an answer when a gateway has waited too long for a byte from the provider; streams are not affected."""

    kind: Literal["silence"] = "silence"
    """A timeout of a gateway."""
    after_s: PositiveFloat = 100.0
    """Seconds that the gateway waits."""
    status: int = Field(default=524, ge=400, le=599)
    """The status that it answers with."""


Fault = Annotated[
    StatusFault | ResetFault | TruncateFault | HangFault | TrickleFault | SilenceFault, Field(discriminator="kind")
]


class SimulatorBatches(_Settings):
    """How the simulator's batches behave; times are in seconds, in place of a provider's hours."""

    latency_s: float = Field(default=1.0, ge=0, le=86_400)
    """Seconds from a batch's creation to its end; its requests finish evenly over this time."""
    shuffle: bool = True
    """Return results in a different order from the requests."""
    listed_after_s: float = Field(default=0.0, ge=0)
    """Seconds for which a batch is missing from listings."""
    lost_replies: int = Field(default=0, ge=0)
    """Number of batches whose creation is answered by a reset connection; they exist nevertheless."""
    broken_downloads: int = Field(default=0, ge=0)
    """Number of downloads of results that break off in the middle."""
    deleted: int = Field(default=0, ge=0)
    """Number of batches whose results are gone when they are requested."""
    expired: float = Field(default=0.0, ge=0, le=1)
    """Share of requests that the provider does not reach in time; a batch with one expires."""
    missing: float = Field(default=0.0, ge=0, le=1)
    """Share of requests without a line in the results."""
    failed: int = Field(default=0, ge=0)
    """Number of batches that are rejected as a whole after inspection."""
    lost: int = Field(default=0, ge=0)
    """Number of batches that are forgotten as soon as they are created."""
    max_open_requests: PositiveInt | None = None
    """Maximum number of requests in batches that have not ended; a batch that would exceed it gets 429. null: no
    limit."""


class SimulatorSettings(_Settings):
    """The built-in teacher: its answers, speed, limits and faults."""

    model: str = Field(default="simulator", min_length=1)
    """The model that `GET /v1/models` lists. A request may name any model, and the answer repeats the name."""
    api_key: str | None = Field(default=None, min_length=1)
    """A key for tests: requests without it get 401. null: no key is needed."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """Seed of answers, latencies and faults, together with each request's serial number."""
    first_serial: int = Field(default=0, ge=0, lt=2**63)
    """Serial number of the first request; set it so that a restarted simulator continues with new answers."""

    answers: CarriedFile | str | None = None
    """JSONL file of {"prompt": …, "answer": …}: a message that is or contains such a prompt gets its answer."""
    accuracy: float = Field(default=1.0, ge=0, le=1)
    """Share of right answers to known prompts and to arithmetic; the others are wrong."""
    output_tokens: Annotated[
        tuple[Annotated[int, Field(ge=1, le=131_072)], Annotated[int, Field(ge=1, le=131_072)]], Field(strict=False)
    ] = (16, 96)
    """[minimum, maximum] tokens of an answer, drawn uniformly; a token is four characters."""
    distinct: PositiveInt | None = None
    """Number of different answers to one prompt; null: all are different."""
    reasoning: Literal["reasoning", "reasoning_content", "think"] | None = None
    """Where reasoning goes: a message field of that name, or <think>…</think> at the start of the content."""

    tool_calls: float = Field(default=1.0, ge=0, le=1)
    """Share of answers that call a tool, if the request offers tools and leaves the choice to the model."""

    gullible: float = Field(default=0.0, ge=0, le=1)
    """As a judge: share of the answers whose own claims about their score it believes."""

    latency_s: float = Field(default=0.0, ge=0, le=86_400)
    """Median time to an answer, in seconds."""
    latency_spread: float = Field(default=0.0, ge=0, le=5)
    """Sigma of the log-normal distribution of latencies; 0: all equal, 0.5: 1 in 20 takes over 2.3 times the median."""
    limits: SimulatorLimits = SimulatorLimits()
    """Limits that are enforced with 429."""
    faults: Annotated[tuple[Fault, ...], Field(strict=False)] = ()
    """What goes wrong, how often and when."""
    batches: SimulatorBatches = SimulatorBatches()
    """How batches behave."""
    log: str | None = None
    """JSONL file that gets a line for every request, including those in batches."""

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        least, most = self.output_tokens
        if least > most:
            raise ValueError(f"output_tokens is [minimum, maximum], got [{least}, {most}]")
        return self
