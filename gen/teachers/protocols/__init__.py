"""Teacher protocols, one module each; `base` is their contract."""

from collections.abc import Callable, Mapping

from stillhouse.gen.teachers.protocols.anthropic import Anthropic
from stillhouse.gen.teachers.protocols.base import Protocol
from stillhouse.gen.teachers.protocols.bedrock import Bedrock
from stillhouse.gen.teachers.protocols.gemini import Gemini
from stillhouse.gen.teachers.protocols.openai_chat import OpenAIChat
from stillhouse.gen.teachers.protocols.openai_responses import OpenAIResponses
from stillhouse.gen.teachers.protocols.sglang_scoring import SglangScoring
from stillhouse.gen.teachers.protocols.vllm_scoring import VllmScoring
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.teacher import Teacher

PROTOCOLS: Mapping[str, Callable[[Teacher, Ask], Protocol]] = {
    "openai-chat": OpenAIChat,
    "openai-responses": OpenAIResponses,
    "gemini": Gemini,
    "anthropic": Anthropic,
    "bedrock": Bedrock,
    "vllm": OpenAIChat,
    "sglang": OpenAIChat,
    "simulator": OpenAIChat,
}
"""By a teacher's `api`. The built-in teacher speaks OpenAI's protocol."""

SCORING: Mapping[str, Callable[[Teacher, Ask], Protocol]] = {
    "vllm": VllmScoring,
    "sglang": SglangScoring,
    "simulator": VllmScoring,
}
"""By a teacher's `api`, for `ask.score`."""


def protocol_of(teacher: Teacher, ask: Ask) -> Protocol:
    """The teacher's protocol, bound to what is asked."""
    return (PROTOCOLS if ask.score is None else SCORING)[teacher.api](teacher, ask)
