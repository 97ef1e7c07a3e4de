"""Whose a key is, by its prefix, and which keys a provider's own host accepts: a mix-up is explained before a request.

A gateway accepts keys of any kind, so only providers' own hosts are listed.
"""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from stillhouse.schemas.google_hosts import is_vertex
from stillhouse.schemas.secret_patterns import OWNERS

_HOSTS = {
    "api.openai.com": "OpenAI",
    "api.anthropic.com": "Anthropic",
    "generativelanguage.googleapis.com": "Google",
    "openrouter.ai": "OpenRouter",
    "api.groq.com": "Groq",
    "api.x.ai": "xAI",
    "api.fireworks.ai": "Fireworks",
    "api.deepseek.com": "DeepSeek",
    "api.mistral.ai": "Mistral",
    "api.together.xyz": "Together",
    "api.together.ai": "Together",
}
_AZURE = ("openai.azure.com", "services.ai.azure.com", "cognitiveservices.azure.com")

_BEDROCK = re.compile(r"bedrock[\w.-]*\.amazonaws\.com")


def wrong_kind(key: str, *, urls: Iterable[str]) -> str | None:
    """Why none of these hosts can accept this key, without showing it; None if nothing speaks against it."""
    if key.lower().startswith("bearer "):
        return "begins with `Bearer `: give the key alone"
    if key.startswith(("{", "-----BEGIN")):
        return "holds a file of credentials, which only a Google Cloud host (Vertex) takes"
    if key.startswith(("AKIA", "ASIA")):
        return "holds an AWS access key's id, which is useless alone: see `aws.access_key_id`, with `api: bedrock`"
    found = next(((start, owner) for start, owner in OWNERS if key.startswith(start)), None)
    for url in urls:
        host = urlsplit(url).hostname or ""
        wanted = _owners(url, host)
        if found is not None and wanted and found[1] not in wanted:
            return f"holds a key of {found[1]} (it begins with {found[0]}), but {host} takes a key of {wanted[0]}"
    return None


def _owners(url: str, host: str) -> tuple[str, ...]:
    """Providers whose keys the host accepts; empty if unknown."""
    if _BEDROCK.fullmatch(host):
        return ("Bedrock",)
    if host.endswith(_AZURE):
        return ("Azure",)
    if is_vertex(url) and host.endswith("googleapis.com"):
        return ("Google Cloud", "Google")  # a token, or a key of the express mode
    return (_HOSTS[host],) if host in _HOSTS else ()
