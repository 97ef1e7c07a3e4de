"""The column `images` of a record: each image itself, or where it is in the source."""

import json
from typing import Any, Literal, assert_never
from urllib.parse import quote

import pyarrow as pa

from stillhouse.gen.dataset.chunk import Chunk
from stillhouse.gen.dataset.image_reader import Origin
from stillhouse.schemas.arrow import IMAGES
from stillhouse.schemas.image import Image, InlineImage, LinkedImage, SentImage, StoredImage
from stillhouse.schemas.prompt import Prompt

_FEATURES = json.dumps({"info": {"features": {IMAGES: {"feature": {"_type": "Image"}, "_type": "List"}}}})
"""Types of columns in the form in which `datasets` looks for them in a file."""


def with_features(schema: pa.Schema, images: Literal["reference", "embed"] | None) -> pa.Schema:
    """The schema of a file; embedded images are marked as such, so that `datasets` decodes them."""
    return schema.with_metadata({"huggingface": _FEATURES}) if images == "embed" else schema


def stored_images(chunk: Chunk, prompt: Prompt) -> list[dict[str, Any]]:
    """The column's value for one of the chunk's prompts; an image that is a URL stays one.

    Raises:
        SourceError: the source is gone or changed.
        StoreAway, StoreRefused: its store does not answer, or refuses.
    """
    assert chunk.images is not None, f"{chunk.id}: has no images"
    if chunk.columns.images == "embed":
        sent = chunk.images.read(prompt)
        return [_embedded(each, image) for each, image in zip(sent, prompt.images, strict=True)]
    origin = chunk.images.origins[prompt.key]
    return [{"bytes": None, "path": reference(image, origin, place=place)} for place, image in enumerate(prompt.images)]


def _embedded(sent: SentImage, image: Image) -> dict[str, Any]:
    match sent:
        case LinkedImage(url):
            return {"bytes": None, "path": url}
        case InlineImage(data=data):
            return {"bytes": data, "path": image.name if isinstance(image, StoredImage) else None}
        case _:
            assert_never(sent)


def reference(image: Image, origin: Origin, *, place: int) -> str:
    """An image's URL, or its place in the source: FILE#row=12&image=0&sha256=….

    `row` counts from 0 in the file, `image` from 0 among the row's images.
    """
    if isinstance(image, LinkedImage):
        return image.url
    return f"{quote(origin.file.url, safe='/:')}#row={origin.at.row}&image={place}&sha256={image.sha256.hex()}"
