"""Teachers' terms that are known for certain, by the model's name on the Hub, its id on Bedrock, or the API's host.

It contains only what the texts themselves say, as read on `SEEN_ON`; nothing is guessed from a family's name, and
whatever is not listed is undeclared. This is not legal advice.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

SEEN_ON = date(2026, 11, 22)

TrainingUse: TypeAlias = Literal["permitted", "permitted-with-obligations", "by-authorisation", "prohibited"]
"""What the terms say about training a model on the answers."""

_LLAMA_OBLIGATIONS = (
    'If a model trained on the answers is distributed, its name must begin with "Llama".',
    'Whoever distributes it must display "Built with Llama" and pass on the Llama licence with it.',
    "With more than 700 million monthly active users, you must request a licence from Meta.",
)


@dataclass(frozen=True, slots=True)
class Known:
    """Known terms."""

    license: str
    training_use: TrainingUse
    url: str | None = None
    obligations: tuple[str, ...] = ()
    says: str = ""
    """If they prohibit training, what they say."""

    @property
    def prohibits(self) -> bool:
        """True if nobody may train on the answers without a permission of their own."""
        return self.training_use == "prohibited"


def _llama(version: str) -> Known:
    return Known(f"Llama {version} Community License", "permitted-with-obligations", obligations=_LLAMA_OBLIGATIONS)


def _closed(license: str, says: str) -> Known:
    return Known(license, "prohibited", says=says)


_APACHE = Known("Apache-2.0", "permitted")
_R1 = Known("MIT", "permitted", url="https://github.com/deepseek-ai/DeepSeek-R1/blob/main/LICENSE")
_ON_BEDROCK = r"(arn:aws[\w-]*:bedrock:[^/]*/)?([a-z]{2,6}(-[a-z]{2,6})?\.)?"
"""Prefixes of a model's id: the ARN of a model or an inference profile, and the region's group (`us.`, `us-gov.`)."""
_CLAUDE = _closed(
    "Anthropic Commercial Terms D.4",
    'no access "to train competing AI models ... except as expressly approved by Anthropic"',
)
_OLD_LLAMA = 'its results may not be used "to improve any other large language model"'

_BY_MODEL: tuple[tuple[str, Known], ...] = (
    (r"deepseek-ai/DeepSeek-R1(-Zero|-0528)?", _R1),
    (r"deepseek-ai/DeepSeek-R1-Distill-Llama-8B", _llama("3.1")),
    (r"deepseek-ai/DeepSeek-R1-Distill-Llama-70B", _llama("3.3")),
    (r"Qwen/Qwen3-[0-9.]+B(-.+)?", _APACHE),
    (r"openai/gpt-oss-(20b|120b)", _APACHE),
    (r"meta-llama/(Meta-)?Llama-3\.1-.+", _llama("3.1")),
    (r"meta-llama/Llama-3\.2-.+", _llama("3.2")),
    (r"meta-llama/Llama-3\.3-.+", _llama("3.3")),
    (r"meta-llama/Llama-4-.+", _llama("4")),
    (r"meta-llama/Llama-2-.+", _closed("Llama 2 Community License", _OLD_LLAMA)),
    (r"meta-llama/Meta-Llama-3-.+", _closed("Llama 3 Community License", _OLD_LLAMA)),
    # Only Anthropic's terms apply, on its own API or through others (Bedrock, Vertex, gateways).
    (r"(anthropic/)?claude-(\d|opus|sonnet|haiku|fable|mythos|instant)[\w.@:-]*", _CLAUDE),
    # Bedrock's ids. It has its own terms, but the model's terms decide what may be done with answers.
    (rf"{_ON_BEDROCK}anthropic\.claude-.+", _CLAUDE),
    (rf"{_ON_BEDROCK}deepseek\.r1-.+", _R1),
    (rf"{_ON_BEDROCK}openai\.gpt-oss-(20b|120b)-.+", _APACHE),
    (rf"{_ON_BEDROCK}qwen\.qwen3-((coder|vl|next)-)?\d+b-.+", _APACHE),
    (rf"{_ON_BEDROCK}meta\.llama3-1-.+", _llama("3.1")),
    (rf"{_ON_BEDROCK}meta\.llama3-2-.+", _llama("3.2")),
    (rf"{_ON_BEDROCK}meta\.llama3-3-.+", _llama("3.3")),
    (rf"{_ON_BEDROCK}meta\.llama4-.+", _llama("4")),
    (rf"{_ON_BEDROCK}meta\.llama2-.+", _closed("Llama 2 Community License", _OLD_LLAMA)),
    (rf"{_ON_BEDROCK}meta\.llama3-(8b|70b)-.+", _closed("Llama 3 Community License", _OLD_LLAMA)),
)

_OPENAI = _closed(
    "OpenAI Services Agreement 3.3(e)",
    'answers may not be used "to develop artificial intelligence models that compete with OpenAI\'s products", '
    "except for its Permitted Exceptions",
)
_GEMINI = _closed(
    "Gemini API Additional Terms", 'the services may not be used "to develop models that compete with" them'
)
_XAI = _closed("xAI Enterprise Terms", 'no product similar to or competitive with theirs, and no "distill"ing')

_ON_PLATFORM: tuple[tuple[str, str, Known], ...] = (
    (r"openrouter\.ai", r"openai/(?!gpt-oss).+", _OPENAI),
    (r"openrouter\.ai", r"openai/gpt-oss-(20b|120b)(:.+)?", _APACHE),
    (r"openrouter\.ai", r"google/gemini-.+", _GEMINI),
    (r"openrouter\.ai", r"x-ai/.+", _XAI),
    (r"(.+\.|.+-)?aiplatform(\..+)?\.googleapis\.com", r"(.*/)?gemini-.+", _GEMINI),
)
"""(host, model on it, terms) of platforms on which each model's owner decides what may be done with answers."""

_BY_HOST: Mapping[str, Known] = {
    "api.openai.com": _OPENAI,
    "api.anthropic.com": _CLAUDE,
    "generativelanguage.googleapis.com": _GEMINI,
    "api.x.ai": _XAI,
    "api.deepseek.com": Known("DeepSeek Open Platform Terms 4.2(3)", "permitted"),
}
"""Terms by host. A platform that serves others' models under those models' terms is not listed."""


def known_terms(model: str, *, hosts: tuple[str, ...]) -> Known | None:
    """The known terms of a teacher: the stricter of its model's and its hosts'; None if neither is known."""
    found = [known for pattern, known in _BY_MODEL if re.fullmatch(pattern, model, re.IGNORECASE)]
    found += [_BY_HOST[host] for host in hosts if host in _BY_HOST]
    found += [
        known
        for where, what, known in _ON_PLATFORM
        if any(re.fullmatch(where, host) for host in hosts) and re.fullmatch(what, model, re.IGNORECASE)
    ]
    strictness = ("permitted", "permitted-with-obligations", "prohibited")
    return max(found, key=lambda known: strictness.index(known.training_use), default=None)


def hosts_of(urls: Iterable[str]) -> tuple[str, ...]:
    """The hosts in these URLs that can be parsed."""
    hosts = []
    for url in urls:
        with suppress(ValueError):
            hosts.append(urlsplit(url).hostname or "")
    return tuple(hosts)
