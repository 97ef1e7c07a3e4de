"""Dialects of OpenAI's chat completions, as data: where a compatible server differs from most others.

Facts as the vendors' pages and clients had them in autumn 2026.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from stillhouse.gen.teachers.keys import Credentials
from stillhouse.schemas.teacher import Teacher


@dataclass(frozen=True, slots=True)
class Profile:
    """One dialect."""

    hosts: tuple[str, ...] = ()
    """Hosts that speak it, including all hosts below each."""
    max_tokens: str = "max_tokens"
    """The field for the output limit."""
    seed: str = "seed"
    path: str = ""
    """The API's path on these hosts, for a base URL that only names a host."""
    key_header: str = ""
    """The header for the key; empty: `authorization`, as a bearer token."""
    always: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every request."""
    stream: Mapping[str, Any] = field(default_factory=lambda: {"stream_options": {"include_usage": True}})
    """Fields of a request for a stream: without them most servers leave out the usage."""
    token_ids: Mapping[str, Any] = field(default_factory=dict)
    """Fields that request tokens' ids beside their log-probabilities."""
    takes_schema: bool = True
    """True if `response_format` may contain a JSON Schema."""
    minds_strict: bool = False
    """True if a schema that is not `strict` is followed as well as the model can, and no better."""
    strict_models: str = ""
    """Part of the names of the models that accept `strict`; the others refuse it."""


_SPELT_IDS = {"return_tokens_as_token_ids": True}

PLAIN = Profile(token_ids=_SPELT_IDS)
"""What most servers accept. Ids are requested in vLLM's way, which others ignore."""

PROFILES: dict[str, Profile] = {
    # `max_tokens` is deprecated there, and refused by reasoning models. Its streams are padded unless that is turned
    # off.
    "openai": Profile(
        hosts=("openai.com",),
        max_tokens="max_completion_tokens",
        path="/v1",
        stream={"stream_options": {"include_usage": True, "include_obfuscation": False}},
        minds_strict=True,
    ),
    "azure": Profile(
        hosts=("openai.azure.com", "services.ai.azure.com", "cognitiveservices.azure.com"),
        max_tokens="max_completion_tokens",
        path="/openai/v1",
        key_header="api-key",
        minds_strict=True,
    ),
    "vllm": PLAIN,
    "sglang": PLAIN,
    "llama.cpp": PLAIN,
    "ollama": PLAIN,
    # So that only upstreams are chosen whose terms allow training on their answers.
    "openrouter": Profile(
        hosts=("openrouter.ai",), path="/api/v1", always={"provider": {"enforce_distillable_text": True}}
    ),
    "together": Profile(hosts=("api.together.xyz", "api.together.ai"), path="/v1"),
    "fireworks": Profile(hosts=("api.fireworks.ai",), path="/inference/v1"),
    "groq": Profile(hosts=("api.groq.com",), path="/openai/v1", strict_models="gpt-oss"),
    "mistral": Profile(hosts=("api.mistral.ai",), path="/v1", seed="random_seed", stream={}),  # usage comes anyway
    "deepseek": Profile(hosts=("api.deepseek.com",), takes_schema=False),  # only JSON of any form
    "xai": Profile(hosts=("api.x.ai",), path="/v1"),
    "litellm": PLAIN,
}
"""By the name that a recipe uses; profiles without hosts may be anywhere."""


def profile_of(teacher: Teacher) -> Profile:
    """The profile that the recipe names, else that of the teacher's hosts, else the plain one."""
    return PROFILES.get(profile_name_of(teacher), PLAIN)


def profile_name_of(teacher: Teacher) -> str:
    """The name of the teacher's profile; empty for the plain one."""
    if teacher.api in PROFILES:  # vllm and sglang
        return teacher.api
    if teacher.profile != "auto":
        return teacher.profile
    hosts = [urlsplit(url).hostname or "" for url in teacher.urls]
    return next((name for name, found in PROFILES.items() if any(_is_among(host, found.hosts) for host in hosts)), "")


def complete_base(base_url: str) -> str:
    """The base URL, with the path of a known host's API if it only names the host."""
    parts = urlsplit(base_url)
    if parts.path:
        return base_url
    host = parts.hostname or ""
    return base_url + next((found.path for found in PROFILES.values() if _is_among(host, found.hosts)), "")


def key_headers(profile: Profile, key: Credentials) -> dict[str, str]:
    """JSON both ways, uncompressed (answers are small, and a decompressor can be used to exhaust memory), and the
    key."""
    headers = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
    if key.key is None:
        return headers
    if profile.key_header and not key.key.startswith("eyJ"):  # a token of Entra is a bearer token everywhere
        return headers | {profile.key_header: key.key}
    return headers | {"authorization": f"Bearer {key.key}"}


def _is_among(host: str, known: tuple[str, ...]) -> bool:
    return any(host == each or host.endswith(f".{each}") for each in known)
