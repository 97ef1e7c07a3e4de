"""Which images an API accepts, as data; an image that it would refuse makes a bad row before anything is asked.

From the vendors' pages, clients and service models as read on `SEEN_ON`. Images that are not known to be refused are
sent.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import assert_never

from stillhouse.schemas.google_hosts import is_vertex
from stillhouse.schemas.image import Image, LinkedImage, MediaType, StoredImage
from stillhouse.schemas.teacher import Teacher

SEEN_ON = date(2026, 11, 26)

_MB = 10**6
_ALL: frozenset[MediaType] = frozenset(("image/png", "image/jpeg", "image/gif", "image/webp"))


@dataclass(frozen=True, slots=True)
class ImageRules:
    """What one API accepts."""

    types: frozenset[MediaType] = _ALL
    max_bytes: int | None = None
    """Maximum size of one image."""
    max_side: int | None = None
    """Maximum pixels of the longer side."""
    max_images: int | None = None
    """Maximum number of images in one request."""
    links: bool = True
    """True if it fetches images from URLs."""


_ANY = ImageRules()
_RULES: dict[str, ImageRules] = {
    "anthropic": ImageRules(max_bytes=5 * 2**20, max_side=8000, max_images=100),
    "bedrock": ImageRules(max_bytes=3_750_000, max_side=8000, max_images=20, links=False),
    "gemini": ImageRules(types=_ALL - {"image/gif"}, max_bytes=7 * _MB, max_images=900),
}
"""Rules by API; the others, including many servers that speak OpenAI's protocol, are not known to refuse any image."""


def refused_image(images: Sequence[Image], teachers: Iterable[Teacher]) -> str | None:
    """Why one of the teachers would refuse a prompt with these images, and what to do; None if all accept them."""
    return next((f"teacher {each.name}: {why}" for each in teachers for why in _refusals(images, each)), None)


def _refusals(images: Sequence[Image], teacher: Teacher) -> Iterator[str]:
    rules, api = _RULES.get(teacher.api, _ANY), f"`api: {teacher.api}`"
    if teacher.api == "anthropic" and any(map(is_vertex, teacher.urls)):
        rules, api = replace(rules, links=False), f"{api} on Vertex"
    if rules.max_images is not None and len(images) > rules.max_images:
        yield f"{api} takes at most {rules.max_images} images per request, got {len(images):,}"
    for image in images:
        match image:
            case LinkedImage():
                if not rules.links:
                    yield (
                        f"{api} takes images as bytes, not by URL: put their bytes into the column, or ask a "
                        "teacher of another API"
                    )
            case StoredImage(media_type, size=size, width=width, height=height):
                if media_type not in rules.types:
                    taken = ", ".join(sorted(rules.types))
                    yield f"{api} takes {taken}, got {media_type}: convert it"
                if rules.max_bytes is not None and size > rules.max_bytes:
                    yield f"{api} takes images of at most {rules.max_bytes:,} bytes, got {size:,}: shrink it"
                if rules.max_side is not None and max(width, height) > rules.max_side:
                    yield f"{api} takes at most {rules.max_side:,} pixels a side, got {width} x {height}"
            case _:
                assert_never(image)
