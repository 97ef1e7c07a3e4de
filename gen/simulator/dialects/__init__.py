"""The APIs that the simulator speaks, one module each; `base` is their contract."""

from functools import lru_cache

from stillhouse.gen.simulator.dialects.anthropic import Anthropic
from stillhouse.gen.simulator.dialects.base import Dialect
from stillhouse.gen.simulator.dialects.bedrock import Bedrock
from stillhouse.gen.simulator.dialects.gemini import Gemini
from stillhouse.gen.simulator.dialects.openai_chat import OpenAIChat
from stillhouse.gen.simulator.dialects.openai_responses import OpenAIResponses
from stillhouse.gen.simulator.dialects.scoring import Completions, Generate

DIALECTS: tuple[Dialect, ...] = (
    OpenAIChat(),
    OpenAIResponses(),
    Anthropic(),
    Gemini(),
    Bedrock(),
    Completions(),
    Generate(),
)
"""No two have a path in common."""


@lru_cache(maxsize=1000)
def dialect_of(path: str) -> Dialect | None:
    """The dialect for requests to this path."""
    return next((dialect for dialect in DIALECTS if dialect.takes(path)), None)
