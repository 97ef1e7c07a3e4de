"""A Teacher: a model behind one or more endpoints, with its account, limits, prices and terms.

A key is only ever held as a reference; `gen.secrets` resolves it in the worker that sends. No URL with a password or a
query gets past validation, and no key can travel in clear to a public host.
"""

import ipaddress
import re
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator

from stillhouse.schemas.aws import Aws, region_of
from stillhouse.schemas.base import Strict
from stillhouse.schemas.completion import FinishReason
from stillhouse.schemas.headers import Headers, Query, is_reference
from stillhouse.schemas.licences import SEEN_ON, TrainingUse, hosts_of, known_terms
from stillhouse.schemas.parameters import TeacherParameters
from stillhouse.schemas.secret_patterns import holds_likely_key, is_secret_body_field
from stillhouse.schemas.simulator import SimulatorSettings

_METHOD = re.compile(r"/(chat/completions|completions|responses|messages|models(/[^/]*)?)\Z")
"""Ends of URLs that are copied from examples of a request."""

TEACHER_APIS = ("openai-chat", "openai-responses", "anthropic", "gemini", "bedrock", "simulator")
"""The protocols spoken."""


def _api(value: str) -> str:
    if value not in TEACHER_APIS:
        raise ValueError(f"expected {' or '.join(f'`{api}`' for api in TEACHER_APIS)}, got {value!r}")
    return value


def _secret_reference(value: str) -> str:
    if not is_reference(value):
        # The value may be a key: it is not repeated.
        raise ValueError(
            "expected a reference, `env:NAME` or `file:/absolute/path`, never the key itself; "
            "put the key into an environment variable or a file on the nodes"
        )
    return value


def _endpoint_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError("expected a URL such as https://host/v1, got one that can't be read") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        # It may hold a password or a key: it is not repeated.
        raise ValueError("expected a URL without user, password, query or fragment; put the key into `api_key`")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        # It may be a key that was pasted into the wrong field.
        raise ValueError("expected a URL such as https://host/v1, got other text")
    if not is_host(parts.hostname):
        raise ValueError("expected a URL whose host has labels of 1 to 63 characters between its dots")
    return value.rstrip("/")


def _without_method(value: str) -> str:
    if _METHOD.search(value):
        raise ValueError("expected the API's base URL, without `/chat/completions` or the like")
    return value


def is_host(host: str) -> bool:
    """True if the text can be a host's name or address."""
    if ":" in host:  # an IPv6 address, which urlsplit has checked
        return True
    try:
        name = host.removesuffix(".").encode("idna").decode()
    except UnicodeError:
        return False
    return len(name) <= 253 and all(0 < len(label) <= 63 for label in name.split("."))


def _thinking(value: object) -> object:
    if value in ("auto", "none"):
        return value
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(tag, str) for tag in value) and value[1]:
        return tuple(value)
    raise ValueError(
        "expected `auto`, `none`, or the tags around reasoning, such as `[<think>, </think>]` (the first may be empty)"
    )


def _stream(value: object) -> object:
    if value == "auto" or isinstance(value, bool):
        return value
    raise ValueError(f"expected `auto`, `true` or `false`, got {value!r}")


ProfileName: TypeAlias = Literal[
    "auto",
    "openai",
    "azure",
    "vllm",
    "sglang",
    "llama.cpp",
    "ollama",
    "openrouter",
    "together",
    "fireworks",
    "groq",
    "mistral",
    "deepseek",
    "xai",
    "litellm",
]
"""Dialects of `openai-chat`; what each is, is in `gen.teachers.protocols.profiles`."""

_RESERVED = frozenset({"model", "messages", "input", "contents", "n", "stream", "stream_options"})


def _sendable(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if taken := _RESERVED & value.keys():
        raise ValueError(f"{', '.join(sorted(taken))}: set by Stillhouse itself; leave it out of `extra`")
    if (path := next(_secrets_in(value), None)) is not None:
        # The value may be a key: it is not repeated.
        raise ValueError(
            f"{path}: expected no secret, for `extra` is stored with the dataset; use the teacher's `api_key`, or a "
            "header or query parameter that refers to an environment variable or a file (`headers: {name: env:NAME}`)"
        )
    return value


def _secrets_in(value: JsonValue, path: str = "") -> Iterator[str]:
    """The paths of what is a secret by its name or by its look."""
    if isinstance(value, str):
        name = path.rpartition(".")[2]
        if value and (is_secret_body_field(name) or holds_likely_key(value)):
            yield path
    elif isinstance(value, dict):
        for name, each in value.items():
            if holds_likely_key(name):
                yield f"a name in {path}" if path else "a name"
            yield from _secrets_in(each, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from _secrets_in(each, f"{path}.{place}")


Extra = Annotated[dict[str, JsonValue], AfterValidator(_sendable)]
"""Fields of a request's body that no parameter covers."""

SecretReference = Annotated[str, AfterValidator(_secret_reference)]
EndpointUrl = Annotated[str, AfterValidator(_endpoint_url)]
BaseUrl = Annotated[EndpointUrl, AfterValidator(_without_method)]


class Limits(Strict):
    """Limits of the account. A limit that is left out is discovered during the run."""

    requests_per_minute: Annotated[int, Field(gt=0)] | None = None
    """Requests per minute, across all workers and jobs that use the account."""
    tokens_per_minute: Annotated[int, Field(gt=0)] | None = None
    """Input and output tokens together, per minute."""
    input_tokens_per_minute: Annotated[int, Field(gt=0)] | None = None
    """Input tokens per minute."""
    output_tokens_per_minute: Annotated[int, Field(gt=0)] | None = None
    """Output tokens per minute."""
    in_flight: Annotated[int, Field(gt=0)] | None = None
    """Maximum number of requests in flight, across all workers."""


class _Prices(Strict):
    input: Annotated[float, Field(ge=0)]
    """USD per million input tokens."""
    output: Annotated[float, Field(ge=0)]
    """USD per million output tokens, reasoning included."""
    cached_input: Annotated[float, Field(ge=0)] | None = None
    """USD per million input tokens read from the provider's cache; by default the input price."""
    cache_write: Annotated[float, Field(ge=0)] | None = None
    """USD per million input tokens written to the provider's cache; by default the input price."""
    reasoning: Annotated[float, Field(ge=0)] | None = None
    """USD per million output tokens of reasoning; by default the output price."""


class PriceAbove(_Prices):
    """Prices of long requests."""

    input_tokens: Annotated[int, Field(gt=0)]
    """The prices apply to requests with more input tokens than this."""


class Price(_Prices):
    """USD per million tokens."""

    above: tuple[PriceAbove, ...] = ()
    """Prices of long requests, in ascending order; each applies to the whole request."""
    source: str | None = None
    """Where a looked-up price comes from; set by Stillhouse."""


class Terms(Strict):
    """What the teacher's terms say about training on its answers, as you read them."""

    training_use: TrainingUse
    """What the terms say about training a model on the answers."""
    license: str | None = None
    """The licence of the weights, or the name of the terms."""
    url: str | None = None
    """Where the terms are published."""
    seen_on: date | None = None
    """The day you read them."""
    obligations: tuple[str, ...] = ()
    """What anyone who trains on the answers must do."""
    authorisation: str | None = None
    """With `by-authorisation`: the reference of the written permission."""
    text_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 in hex of the text as you read it, if a copy is kept."""
    declared_by: Literal["user", "known-licence"] = "user"
    """Source of these terms: the user, or the table of known licences, which fills in for a recipe without `terms`."""

    @model_validator(mode="after")
    def _may_train(self) -> Self:
        if self.training_use == "prohibited":
            raise ValueError("these terms prohibit training on the answers: ask a teacher whose terms permit it")
        if self.training_use == "by-authorisation" and not self.authorisation:
            raise ValueError("`by-authorisation` needs `authorisation`: the reference of the written permission")
        return self


class Teacher(Strict):
    """A model behind one or more endpoints."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """The teacher's name, as in the dataset's `teacher` column."""
    api: Annotated[str, AfterValidator(_api)] = "openai-chat"
    """The protocol: `openai-chat`, `openai-responses`, `anthropic`, `gemini` or `bedrock`; `simulator` for the built-in
    teacher."""
    profile: ProfileName = "auto"
    """The server's dialect of `openai-chat`; `auto` decides by the host."""
    ask: TeacherParameters = TeacherParameters()
    """Parameters of the recipe's `ask` that differ for this teacher; null removes one: `{temperature: null}`."""
    extra: Extra = Field(default_factory=dict)
    """Merged into the bodies of this teacher's requests, over `ask.extra`."""
    headers: Headers = Field(default_factory=dict)
    """Additional request headers; a secret is a reference, `env:NAME` or `file:/path`."""
    query: Query = Field(default_factory=dict)
    """Query parameters of every request, such as `{api-version: 2026-10-01}`; a secret is a reference."""
    cache_prompt: bool | None = None
    """With `anthropic` and `bedrock`: mark the system prompt for the provider's cache. By default, only if `ask.system`
    is the same for every row: marking a prompt that is used once costs a quarter more."""
    base_url: BaseUrl | None = None
    """Base URL of the API, such as https://host/v1; only `openai-chat` needs the version in it. By default Anthropic's
    own with `anthropic`, and that of `aws.region` with `bedrock`."""
    endpoints: tuple[BaseUrl, ...] = ()
    """Several base URLs that serve the same model and share the load."""
    model: str = ""
    """The model's name as the API expects it."""
    api_key: SecretReference | None = None
    """Reference to the key, `env:NAME` or `file:/path`; resolved on the node that sends."""
    aws: Aws | None = None
    """With `bedrock`: region and keys, if there is no `api_key`; AWS's own credential chain supplies the rest."""
    account: str | None = None
    """Name of the account that the limits belong to; teachers of one account share them. By default the host and the
    key's reference."""
    limits: Limits = Limits()
    """Limits of the account."""
    timeout_s: Annotated[float, Field(gt=0)] = 600
    """Seconds for a whole attempt, from the first byte sent to the last received."""
    stream: Annotated[Literal["auto"] | bool, BeforeValidator(_stream)] = "auto"
    """Request streamed answers. `auto`: only from hosts known to cut silent connections, or once a long answer timed
    out."""
    stall_timeout_s: Annotated[float, Field(gt=0)] = 300
    """Seconds that a streamed answer may go without an event once it has begun; comments and pings don't count."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 6
    """Failed attempts after which a sample is given up on; waits for limits and overload do not count."""
    max_tokens_as: Literal["max_tokens", "max_completion_tokens"] | None = None
    """With `openai-chat`: the request field that carries `ask.max_tokens`; by default the `profile`'s."""
    finish_reasons: dict[str, FinishReason] = Field(default_factory=dict)
    """Maps this server's own finish reasons: `{done: stop}`; the empty string stands for a missing one."""
    thinking: Annotated[Literal["auto", "none"] | tuple[str, str], BeforeValidator(_thinking)] = "auto"
    """How reasoning is marked in the text: `auto`, `none`, or the tags around it, such as `[<think>, </think>]`."""
    price: Price | None = None
    """Token prices; by default looked up for a provider's own host."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of the samples that this teacher is asked, relative to the others."""
    allow_http: bool = False
    """Allow http:// to a public host. The key and the prompts then travel unencrypted."""
    terms: Terms | None = None
    """The teacher's terms on training. Required, except for the simulator and where the model's name or the API's host
    settles them."""
    simulator: SimulatorSettings | None = None
    """With `api: simulator`: how the built-in teacher behaves."""

    @model_validator(mode="after")
    def _fill_terms(self) -> Self:
        """Add what is known of the teacher's terms to what the recipe says of them."""
        known = known_terms(self.model, hosts=hosts_of(self.urls)) if self.api != "simulator" else None
        if known is None or known.prohibits:
            return self
        terms = self.terms or Terms(
            license=known.license,
            training_use=known.training_use,
            url=known.url,
            seen_on=SEEN_ON,
            declared_by="known-licence",
        )
        if missing := tuple(obligation for obligation in known.obligations if obligation not in terms.obligations):
            use = "permitted-with-obligations" if terms.training_use == "permitted" else terms.training_use
            terms = terms.model_copy(update={"training_use": use, "obligations": (*terms.obligations, *missing)})
        return self if terms is self.terms else self.model_copy(update={"terms": terms})

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.api == "simulator":
            if self.base_url or self.endpoints or self.api_key:
                raise ValueError("`api: simulator` starts its own server: leave out base_url, endpoints and api_key")
            if self.headers or self.query:
                raise ValueError("`api: simulator` takes no headers or query: leave them out")
            if self.profile != "auto":
                raise ValueError("`profile` goes with `api: openai-chat`")
            return self
        if self.profile != "auto" and self.api != "openai-chat":
            raise ValueError("`profile` goes with `api: openai-chat`")
        if self.max_tokens_as is not None and self.api != "openai-chat":
            raise ValueError("`max_tokens_as` goes with `api: openai-chat`")
        if self.simulator is not None:
            raise ValueError("`simulator:` goes with `api: simulator`")
        if problems := "\n".join(self._problems()):
            raise ValueError(problems)
        return self

    def _problems(self) -> Iterator[str]:
        """What a teacher behind a URL still lacks, all of it at once."""
        if self.base_url is not None and self.endpoints:
            yield "expected `base_url` or `endpoints`, got both"
        elif not self.urls:
            region = ", or `aws: {region: us-east-1}`" if self.api == "bedrock" else ""
            yield f"expected `base_url` or `endpoints`{region}, got none of them"
        if self.aws is not None and self.api != "bedrock":
            yield "`aws` goes with `api: bedrock`"
        elif self.aws is not None and self.api_key and self.aws.signs:
            yield "expected `api_key` or the keys of `aws`, got both"
        elif self.api == "bedrock" and self.urls and self.api_key is None and self.region is None:
            yield "the hosts' names don't tell the region to sign for: add it, such as `aws: {region: us-east-1}`"
        if self.api_key and self.api.startswith("openai") and "authorization" in map(str.lower, self.headers):
            yield "`api_key` and the header `authorization` are the same thing: give only one"
        if not self.model:
            yield "`model` is missing: the model's name as the API expects it"
        known = known_terms(self.model, hosts=hosts_of(self.urls))
        if known is not None and known.prohibits:
            if self.terms is None or self.terms.training_use != "by-authorisation":
                yield (
                    f"the {known.license} prohibits training on its answers ({known.says}): ask another teacher, or "
                    "give `terms: {training_use: by-authorisation, authorisation: …}`, the written permission's "
                    "reference, which every shard then names"
                )
        elif self.terms is None:
            yield (
                "`terms` is missing: whether its answers may be trained on, as you read it, such as "
                "`terms: {license: MIT, training_use: permitted, url: https://…, seen_on: 2026-11-22}`"
            )
        for url in self.urls:
            host = urlsplit(url).hostname or ""
            if not (self.allow_http or url.startswith("https://") or is_near(host)):
                yield (
                    f"http:// to a public host ({host}) would send the key and the prompts unencrypted: "
                    "use https://, or set `allow_http: true`"
                )

    @property
    def urls(self) -> tuple[str, ...]:
        """The endpoints' base URLs; none for a simulator that is not started yet."""
        if self.endpoints or self.base_url:
            return self.endpoints or (self.base_url or "",)
        if self.api == "anthropic":
            return ("https://api.anthropic.com/v1",)
        if self.api == "bedrock" and self.aws is not None and self.aws.region:
            return (f"https://bedrock-runtime.{self.aws.region}.amazonaws.com",)
        return ()

    @property
    def region(self) -> str | None:
        """With `bedrock`: the region to sign for, where it is known."""
        return region_of(self.aws or Aws(), self.endpoints or filter(None, [self.base_url]))

    @property
    def model_name(self) -> str:
        """The model to ask for."""
        return self.model or "simulator"

    @property
    def limits_key(self) -> str:
        """The name of who shares the limits."""
        if self.account:
            return self.account
        if self.api == "simulator":
            return f"simulator/{self.name}"
        hosts = ",".join(sorted({urlsplit(url).netloc for url in self.urls}))
        signs = self.aws.access_key_id or self.aws.profile if self.aws else None
        return f"{hosts}/{self.api_key or signs or ('AWS keys' if self.api == 'bedrock' else 'no key')}"


def is_near(host: str) -> bool:
    """True if a host is loopback, private or a single label, so that http:// to it stays inside."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".svc", ".svc.cluster.local", ".localhost"))
    return address.is_loopback or address.is_private
