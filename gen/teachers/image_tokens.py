"""The maximum number of input tokens of an image: estimates, because no API states it before it has answered.

The formulas are those that vendors were known to publish on `AS_OF`; none was checked against an answer. Scaling an
image down before it is counted only makes it cheaper, so if models of one API differ, the most expensive one decides.
Servers of open models count patches of 28 or 32 pixels. The true count comes with each answer: what exceeds the
estimate is a debt to the account's limit, and later requests are estimated by it.
"""

from datetime import date
from math import ceil
from typing import assert_never

from stillhouse.schemas.claude_models import is_claude
from stillhouse.schemas.image import Image, LinkedImage, StoredImage
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.teacher import Teacher

AS_OF = date(2026, 11, 26)

CHARS_PER_TOKEN = 4
"""The rule for input tokens: English prose in the tokenizers in use has 4 to 4.5; code and other scripts have fewer."""

_CLAUDE_SIDE, _CLAUDE_PIXELS = 2576, 750
"""Claude scales the longer side to this many pixels (older models to 1568) and counts one token per this many
pixels."""
_GEMINI_SMALL, _GEMINI_TILE, _GEMINI_TOKENS, _GEMINI_NEW = 384, 768, 258, 1120
"""Up to Gemini 2.5, 258 tokens for a small image and for each tile of others; from 3 on, at most 1,120 per image."""
_TILE, _TILE_SIDE, _TILE_SHORT = 512, 2048, 768
"""GPT-4o scales an image into a square of 2,048 pixels, then its shorter side to 768, and counts tiles of 512."""
_TILE_TOKENS = {"gpt-4o-mini": (2833, 5667)}
"""(base, each tile) for models that count tiles, by prefix of their names; for all others `_USUAL_TILE`."""
_USUAL_TILE = (85, 170)
_PATCH, _PATCH_FACTOR, _MOST_PATCHES = 28, 2.46, 10_000
"""Other models count patches: the smallest patch, the highest factor and the highest count of any known model."""
_MOST_SIDE = 8000
"""Assumed for an image of unknown size."""


def chars_of(prompt: Prompt, teacher: Teacher) -> int:
    """Characters of the prompt, plus for each image the characters that correspond to its maximum number of tokens."""
    tokens = [image_tokens(image, api=teacher.api, model=teacher.model_name) for image in prompt.images]
    return prompt.chars + sum(tokens) * CHARS_PER_TOKEN


def image_tokens(image: Image, *, api: str, model: str) -> int:
    """Maximum input tokens of the image; one that the teacher fetches itself counts as very large."""
    match image:
        case StoredImage(width=width, height=height):
            pass
        case LinkedImage():
            width = height = _MOST_SIDE
        case _:
            assert_never(image)
    if api == "anthropic" or is_claude(model):
        return _claude(width, height)
    if api == "gemini":
        return _gemini(width, height)
    return max(_patches(width, height), _tiles(width, height, model))


def _claude(width: int, height: int) -> int:
    scale = min(1.0, _CLAUDE_SIDE / max(width, height))
    return ceil(width * scale * height * scale / _CLAUDE_PIXELS)


def _gemini(width: int, height: int) -> int:
    if max(width, height) <= _GEMINI_SMALL:
        return _GEMINI_NEW
    unit = max(_GEMINI_SMALL // 1.5, min(_GEMINI_TILE, min(width, height) / 1.5))
    return max(_GEMINI_NEW, _GEMINI_TOKENS * ceil(width / unit) * ceil(height / unit))


def _tiles(width: int, height: int, model: str) -> int:
    scale = min(1.0, _TILE_SIDE / max(width, height))
    scale *= min(1.0, _TILE_SHORT / (min(width, height) * scale))
    tiles = ceil(width * scale / _TILE) * ceil(height * scale / _TILE)
    base, each = next((cost for name, cost in _TILE_TOKENS.items() if model.startswith(name)), _USUAL_TILE)
    return base + each * tiles


def _patches(width: int, height: int) -> int:
    return ceil(min(_MOST_PATCHES, ceil(width / _PATCH) * ceil(height / _PATCH)) * _PATCH_FACTOR)
