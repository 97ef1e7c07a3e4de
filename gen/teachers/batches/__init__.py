"""The providers' batch APIs, one module each; `base` is their contract."""

from collections.abc import Callable, Mapping

from stillhouse.gen.errors import UsageError
from stillhouse.gen.teachers.batches.anthropic import AnthropicBatches
from stillhouse.gen.teachers.batches.base import BatchApi
from stillhouse.gen.teachers.batches.bedrock import BedrockBatches
from stillhouse.gen.teachers.batches.gemini import GeminiBatches
from stillhouse.gen.teachers.batches.mistral import MistralBatches
from stillhouse.gen.teachers.batches.openai import OpenAIBatches
from stillhouse.gen.teachers.batches.together import TogetherBatches
from stillhouse.gen.teachers.protocols.profiles import profile_name_of
from stillhouse.schemas.batch import BatchSettings
from stillhouse.schemas.teacher import Teacher

BATCHES: Mapping[tuple[str, str], Callable[[Teacher, BatchSettings], BatchApi]] = {
    ("openai-chat", "openai"): OpenAIBatches,
    ("openai-chat", "azure"): OpenAIBatches,
    ("openai-chat", "groq"): OpenAIBatches,
    ("openai-chat", "mistral"): MistralBatches,
    ("openai-chat", "together"): TogetherBatches,
    ("openai-responses", ""): OpenAIBatches,
    ("anthropic", ""): AnthropicBatches,
    ("gemini", ""): GeminiBatches,
    ("bedrock", ""): BedrockBatches,
    ("simulator", ""): OpenAIBatches,
}
"""By a teacher's `api` and, for `openai-chat`, its profile. APIs of another form, or none, are missing."""


def batches_of(teacher: Teacher, settings: BatchSettings) -> BatchApi:
    """The teacher's batch API.

    Raises:
        UsageError: there is none, or the settings lack what it needs.
    """
    profile = profile_name_of(teacher) if teacher.api == "openai-chat" else ""
    found = BATCHES.get((teacher.api, profile))
    if found is None:
        hosts = ", ".join(teacher.urls)
        known = "OpenAI's, Azure's, Groq's, Mistral's, Together's, Anthropic's, Gemini's and Bedrock's"
        raise UsageError(
            f"teachers.{teacher.name}: no batch API is known for `api: {teacher.api}` at {hosts} (known are "
            f"{known}): name the server's `profile`, or leave out `mode`"
        )
    return found(teacher, settings)
