"""The batch APIs that the simulator speaks, one module each; `base` is their contract."""

from stillhouse.gen.simulator.batches.anthropic import AnthropicBatches
from stillhouse.gen.simulator.batches.base import BatchSite
from stillhouse.gen.simulator.batches.bedrock import BedrockBatches
from stillhouse.gen.simulator.batches.gemini import GeminiBatches
from stillhouse.gen.simulator.batches.mistral import MistralBatches
from stillhouse.gen.simulator.batches.openai import OpenAIBatches
from stillhouse.gen.simulator.batches.together import TogetherBatches
from stillhouse.gen.simulator.wire import Request

SITES: tuple[BatchSite, ...] = (
    MistralBatches(),
    OpenAIBatches(),
    AnthropicBatches(),
    GeminiBatches(),
    BedrockBatches(),
    TogetherBatches(),
)
"""In the order in which they are tried."""


def site_of(request: Request) -> BatchSite | None:
    """The API that a request belongs to."""
    return next((site for site in SITES if site.takes(request)), None)
