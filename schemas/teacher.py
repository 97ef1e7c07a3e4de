"""A Teacher: a model behind one or more endpoints, with its account, limits, prices and terms.

A key is only ever held as a reference, which `gen.teachers.keys` resolves in the worker that sends the request.
Validation refuses URLs with a password or a query, and http:// to a public host.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from stillhouse.schemas.aws import Aws, region_of
from stillhouse.schemas.base import Strict
from stillhouse.schemas.batch import BatchSettings
from stillhouse.schemas.completion import FinishReason
from stillhouse.schemas.endpoint_url import BaseUrl, is_near
from stillhouse.schemas.extra import Extra
from stillhouse.schemas.google_hosts import is_vertex
from stillhouse.schemas.headers import Headers, Query, is_reference
from stillhouse.schemas.licences import SEEN_ON, hosts_of, known_terms
from stillhouse.schemas.limits import Limits
from stillhouse.schemas.parameters import TeacherParameters
from stillhouse.schemas.price import Price
from stillhouse.schemas.simulator import SimulatorSettings
from stillhouse.schemas.terms import Terms

TEACHER_APIS = ("openai-chat", "openai-responses", "anthropic", "gemini", "bedrock", "vllm", "sglang", "simulator")
"""The supported protocols; `vllm` and `sglang` are `openai-chat` with that profile, and can also score given tokens."""


_LIKE_CHAT = ("openai-chat", "vllm", "sglang")


def _api(value: str) -> str:
    if value not in TEACHER_APIS:
        raise ValueError(f"expected {' or '.join(f'`{api}`' for api in TEACHER_APIS)}, got {value!r}")
    return value


def _secret_reference(value: str) -> str:
    if not is_reference(value):
        # The value may be a key, so the message does not repeat it.
        raise ValueError(
            "expected a reference, `env:NAME` or `file:/absolute/path`, never the key itself; "
            "put the key into an environment variable or a file on the nodes"
        )
    return value


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
"""Dialects of `openai-chat`; `gen.teachers.protocols.profiles` defines them."""

SecretReference = Annotated[str, AfterValidator(_secret_reference)]


class Teacher(Strict):
    """A model behind one or more endpoints."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """The teacher's name, as in the dataset's `teacher` column."""
    api: Annotated[str, AfterValidator(_api)] = "openai-chat"
    """The protocol: `openai-chat`, `openai-responses`, `anthropic`, `gemini` or `bedrock`; `vllm` and `sglang` speak
    `openai-chat` and support `ask.score`; `simulator` for the built-in teacher."""
    profile: ProfileName = "auto"
    """The server's dialect of `openai-chat`; `auto` decides by the host."""
    role: Literal["answer", "judge"] = "answer"
    """The teacher's task: to `answer` the prompts, or to `judge` answers for the checks that name it."""
    ask: TeacherParameters = TeacherParameters()
    """Parameters that differ from the recipe's `ask` for this teacher; null removes one: `{temperature: null}`. A judge
    uses only these, and nothing of the recipe's `ask`."""
    extra: Extra = Field(default_factory=dict)
    """Merged into the bodies of this teacher's requests, over `ask.extra`."""
    headers: Headers = Field(default_factory=dict)
    """Additional request headers; a secret is a reference, `env:NAME` or `file:/path`."""
    query: Query = Field(default_factory=dict)
    """Query parameters of every request, such as `{api-version: 2026-10-01}`; a secret is a reference."""
    cache_prompt: bool | None = None
    """With `anthropic` and `bedrock`: mark the system prompt for the provider's cache. By default only if `ask.system`
    is the same for every row, because marking a prompt that is used once costs 25 % more."""
    base_url: BaseUrl | None = None
    """Base URL of the API, such as https://host/v1; only `openai-chat` needs the version in it. By default Anthropic's
    own with `anthropic`, and that of `aws.region` with `bedrock`."""
    endpoints: tuple[BaseUrl, ...] = ()
    """Base URLs of several servers of the same model, which share the load."""
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
    """Seconds for a whole attempt, from the first byte sent to the last byte received."""
    mode: Literal["online", "batch", "batch-then-online"] = "online"
    """`batch`: ask through the provider's batch API, at half price, for answers within a day. OpenAI, Azure, Groq,
    Mistral, Together, Anthropic, Gemini on AI Studio and Bedrock have one that works here; Fireworks and xAI don't.
    `batch-then-online`: ask in batches once, then ask online, at the online price, for what they left unanswered and
    for further samples that `accept` needs. A judge can use `online` or `batch`."""
    batch: BatchSettings = BatchSettings()
    """With `mode: batch` or `batch-then-online`: how large its batches are, and how many may be open at once."""
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
    """Translates this server's own finish reasons: `{done: stop}`; the empty string stands for a missing one."""
    thinking: Annotated[Literal["auto", "none"] | tuple[str, str], BeforeValidator(_thinking)] = "auto"
    """How reasoning is marked in the text: `auto`, `none`, or the tags around it, such as `[<think>, </think>]`."""
    price: Price | None = None
    """Token prices; by default looked up for a provider's own host. With `mode: batch` or `batch-then-online`, those of
    batches."""
    online_price: Price | None = None
    """With `mode: batch-then-online`: token prices of what is asked online; by default looked up, or twice a `price`
    that the recipe states."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """With `route: weighted`: this teacher's part of the samples, relative to the others; 3 beside 1 means three
    quarters."""
    allow_http: bool = False
    """Allow http:// to a public host. The key and the prompts then travel unencrypted."""
    terms: Terms | None = None
    """The teacher's terms on training. Required, except for the simulator and if the model's name or the API's host
    settles them."""
    simulator: SimulatorSettings | None = None
    """With `api: simulator`: how the built-in teacher behaves."""

    @model_validator(mode="after")
    def _fill_terms(self) -> Self:
        """Add the known terms of the teacher to those in the recipe."""
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
    def _batched(self) -> Self:
        if self.mode == "online" and self.batch != BatchSettings():
            raise ValueError("`batch` goes with `mode: batch` or `mode: batch-then-online`")
        if self.mode != "batch-then-online" and self.online_price is not None:
            raise ValueError("`online_price` goes with `mode: batch-then-online`; `price` is that of any other mode")
        if self.batch.bedrock is not None and self.api != "bedrock":
            raise ValueError("`batch.bedrock` goes with `api: bedrock`")
        return self

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.api == "simulator":
            if self.base_url or self.endpoints or self.api_key:
                raise ValueError("`api: simulator` starts its own server: leave out base_url, endpoints and api_key")
            if self.headers or self.query:
                raise ValueError("`api: simulator` takes no headers or query: leave them out")
            if self.profile != "auto":
                raise ValueError("`profile` works only with `api: openai-chat`: remove it")
            return self
        if self.profile != "auto" and self.api != "openai-chat":
            raise ValueError(f"`profile` works only with `api: openai-chat`, got `api: {self.api}`: remove it")
        if self.max_tokens_as is not None and self.api not in _LIKE_CHAT:
            raise ValueError(f"`max_tokens_as` works only with chat completions, got `api: {self.api}`: remove it")
        if self.simulator is not None:
            raise ValueError(f"`simulator:` works only with `api: simulator`, got `api: {self.api}`: remove it")
        if problems := "\n".join(self._problems()):
            raise ValueError(problems)
        return self

    def _problems(self) -> Iterator[str]:
        """All settings that a teacher behind a URL still lacks."""
        yield from self._odd_urls()
        if self.aws is not None and self.api != "bedrock":
            yield f"`aws` works only with `api: bedrock`, got `api: {self.api}`: remove it"
        elif self.aws is not None and self.api_key and self.aws.signs:
            yield "expected `api_key` or the keys of `aws`, got both"
        elif self.api == "bedrock" and self.urls and self.api_key is None and self.region is None:
            yield "the host names don't contain the region to sign for: add it, such as `aws: {region: us-east-1}`"
        has_own = "authorization" in map(str.lower, self.headers)
        if self.api_key and has_own and self.api in (*_LIKE_CHAT, "openai-responses"):
            yield "`api_key` and the header `authorization` are the same thing: give only one"
        if not self.model:
            yield "`model` is missing: the model's name as the API expects it"
        known = known_terms(self.model, hosts=hosts_of(self.urls))
        if self.role == "judge":  # `judge_rules` checks its terms
            pass
        elif known is not None and known.prohibits:
            if self.terms is None or self.terms.training_use != "by-authorisation":
                yield (
                    f"training on its answers is prohibited by the {known.license} ({known.says}): ask another teacher "
                    "or, with a written permission, set `terms: {training_use: by-authorisation, authorisation: "
                    "REFERENCE}`, which is recorded in every shard"
                )
        elif self.terms is None:
            yield (
                "`terms` is missing: say whether its answers may be used for training, as you read its terms, such "
                "as `terms: {license: MIT, training_use: permitted, url: https://…, seen_on: 2026-11-22}`"
            )

    def _odd_urls(self) -> Iterator[str]:
        if self.base_url is not None and self.endpoints:
            yield "expected `base_url` or `endpoints`, got both"
        elif not self.urls:
            region = ", or `aws: {region: us-east-1}`" if self.api == "bedrock" else ""
            yield f"expected `base_url` or `endpoints`{region}, got none"
        if self.api == "anthropic" and len(set(map(is_vertex, self.urls))) > 1:
            yield "some endpoints are on Vertex and some are not: make them separate teachers, each with its own key"
        for url in self.urls:
            host = urlsplit(url).hostname or ""
            if not (self.allow_http or url.startswith("https://") or is_near(host)):
                yield (
                    f"http:// to a public host ({host}) would send the key and the prompts unencrypted: "
                    "use https://, or set `allow_http: true`"
                )

    @property
    def urls(self) -> tuple[str, ...]:
        """The endpoints' base URLs; empty for a simulator that has not been started."""
        if self.endpoints or self.base_url:
            return self.endpoints or (self.base_url or "",)
        if self.api == "anthropic":
            return ("https://api.anthropic.com/v1",)
        if self.api == "bedrock" and self.aws is not None and self.aws.region:
            return (f"https://bedrock-runtime.{self.aws.region}.amazonaws.com",)
        return ()

    @property
    def region(self) -> str | None:
        """With `bedrock`: the region to sign for, if known."""
        return region_of(self.aws or Aws(), self.endpoints or filter(None, [self.base_url]))

    @property
    def model_name(self) -> str:
        """The model to ask for."""
        return self.model or "simulator"

    @property
    def limits_key(self) -> str:
        """The name of the account whose limits apply."""
        if self.account:
            return self.account
        if self.api == "simulator":
            return f"simulator/{self.name}"
        hosts = ",".join(sorted({urlsplit(url).netloc for url in self.urls}))
        signs = self.aws.access_key_id or self.aws.profile if self.aws else None
        return f"{hosts}/{self.api_key or signs or ('AWS keys' if self.api == 'bedrock' else 'no key')}"
