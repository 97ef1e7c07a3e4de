"""The providers' batch APIs, one module each; `base` is their contract."""

from collections.abc import Callable, Mapping
from functools import partial

from stillhouse.gen.errors import UsageError
from stillhouse.gen.teachers import reply_threads
from stillhouse.gen.teachers.apart import APART, APART_BYTES
from stillhouse.gen.teachers.batches.anthropic import AnthropicBatches
from stillhouse.gen.teachers.batches.base import BatchApi, Result
from stillhouse.gen.teachers.batches.bedrock import BedrockBatches
from stillhouse.gen.teachers.batches.gemini import GeminiBatches
from stillhouse.gen.teachers.batches.mistral import MistralBatches
from stillhouse.gen.teachers.batches.openai import OpenAIBatches
from stillhouse.gen.teachers.batches.together import TogetherBatches
from stillhouse.gen.teachers.protocols.profiles import profile_name_of
from stillhouse.gen.teachers.reply_threads import LARGE_BYTES
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


async def read_result(teacher: Teacher, settings: BatchSettings, api: BatchApi, line: bytes) -> Result:
    """Read one line of a batch's results where `gen.teachers.reading` would read a reply of its size.

    `api`: the teacher's.
    """
    if len(line) < LARGE_BYTES:
        return api.read(line)
    if len(line) < APART_BYTES:
        return await reply_threads.read(partial(api.read, line))
    return await reply_threads.read(partial(APART.call, _read_apart, teacher, settings, line))


def _read_apart(teacher: Teacher, settings: BatchSettings, line: bytes) -> Result:
    return batches_of(teacher, settings).read(line)
