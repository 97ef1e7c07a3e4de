"""What each family of OpenAI's own models accepts, as data: a parameter that a family does not accept gets a 400.

From OpenAI's pages and clients as read on `SEEN_ON`. Families that are not listed are asked as the recipe says.
"""

import re
from datetime import date
from typing import Literal, NamedTuple

SEEN_ON = date(2026, 11, 26)


class OpenAIModel(NamedTuple):
    """One family."""

    reasons: Literal["always", "by default", "when asked", "never"]
    """When it reasons. While it does, it accepts neither temperature nor top_p and gives no log-probabilities."""
    tools_on_chat: bool = True
    """True if it calls tools over chat completions while it reasons."""
    stops: bool = True
    """True if it accepts `stop`."""


_FAMILIES: tuple[tuple[str, OpenAIModel], ...] = (  # the first match counts
    (r"gpt-6(\.\d)?-(astra|terra)|gpt-6\.\d", OpenAIModel("always", tools_on_chat=False)),
    (r"gpt-6-(sol|luna)", OpenAIModel("by default", tools_on_chat=False)),
    (r"gpt-5\.\d-pro", OpenAIModel("always", tools_on_chat=False)),
    (r"gpt-5\.[56]", OpenAIModel("by default", tools_on_chat=False)),
    (r"gpt-5\.[123]-chat|gpt-5\.1-codex", OpenAIModel("always")),
    (r"gpt-5\.4", OpenAIModel("when asked", tools_on_chat=False)),
    (r"gpt-5\.[123]", OpenAIModel("when asked")),
    (r"gpt-5-chat", OpenAIModel("never")),
    (r"gpt-5(?![.\d])", OpenAIModel("always")),
    (r"o3|o4-mini", OpenAIModel("always", stops=False)),
    (r"o1", OpenAIModel("always")),
    (r"gpt-4|gpt-3\.5|chatgpt-4o", OpenAIModel("never")),
)


def openai_model_of(model: str) -> OpenAIModel | None:
    """The family of a model's name; None if unknown."""
    return next((family for pattern, family in _FAMILIES if re.match(rf"({pattern})(?![a-z0-9])", model)), None)
