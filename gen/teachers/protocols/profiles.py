"""Dialects of OpenAI's chat completions, as data: where a compatible server departs from what most of them take.

Facts as the vendors' pages and clients had them in autumn 2026.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from stillhouse.schemas.teacher import Teacher


@dataclass(frozen=True, slots=True)
class Profile:
    """One dialect."""

    hosts: tuple[str, ...] = ()
    """Hosts that speak it, each with all hosts below it."""
    max_tokens: str = "max_tokens"
    """The field for the output limit."""
    seed: str = "seed"
    always: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every request."""


PLAIN = Profile()
"""What most servers take."""

PROFILES: dict[str, Profile] = {
    # `max_tokens` is deprecated there, and refused by reasoning models.
    "openai": Profile(hosts=("openai.com",), max_tokens="max_completion_tokens"),
    "azure": Profile(hosts=("openai.azure.com",), max_tokens="max_completion_tokens"),
    "vllm": PLAIN,
    "sglang": PLAIN,
    "llama.cpp": PLAIN,
    "ollama": PLAIN,
    # So that only upstreams are chosen whose terms allow training on their answers.
    "openrouter": Profile(hosts=("openrouter.ai",), always={"provider": {"enforce_distillable_text": True}}),
    "together": Profile(hosts=("api.together.xyz", "api.together.ai")),
    "fireworks": Profile(hosts=("api.fireworks.ai",)),
    "groq": Profile(hosts=("api.groq.com",)),
    "mistral": Profile(hosts=("api.mistral.ai",), seed="random_seed"),
    "deepseek": Profile(hosts=("api.deepseek.com",)),
    "xai": Profile(hosts=("api.x.ai",)),
    "litellm": PLAIN,
}
"""By the name that a recipe uses; those without hosts stand anywhere."""


def profile_of(teacher: Teacher) -> Profile:
    """The profile that the recipe names, else the one of the teacher's hosts, else the plain one."""
    if teacher.profile != "auto":
        return PROFILES[teacher.profile]
    hosts = [urlsplit(url).hostname or "" for url in teacher.urls]
    return next((found for found in PROFILES.values() if any(_is_among(host, found.hosts) for host in hosts)), PLAIN)


def _is_among(host: str, known: tuple[str, ...]) -> bool:
    return any(host == each or host.endswith(f".{each}") for each in known)
