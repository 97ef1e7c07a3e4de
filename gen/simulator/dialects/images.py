"""Images in requests: checked as providers check them, and identified by their keys."""

import base64
import binascii
from typing import Any

from stillhouse.gen.simulator.dialects.base import BadRequest
from stillhouse.schemas.image import key_of, linked_key, media_type_of

IMAGE_TOKENS = 258
"""Input tokens that each image costs."""


def inline_image(data: Any, kind: Any, *, param: str) -> bytes:
    """The key of a base64 image with this declared media type.

    Raises:
        BadRequest: it is not base64, or not an image of that type.
    """
    try:
        found = base64.b64decode(data, validate=True) if isinstance(data, str) else b""
    except (binascii.Error, ValueError):
        raise BadRequest("Could not decode the image: invalid base64 data.", param=param) from None
    actual = media_type_of(found)
    if actual is None:
        raise BadRequest("Could not process image: expected png, jpeg, gif or webp.", param=param)
    if actual != kind:
        raise BadRequest(f"The image was specified as {kind}, but it appears to be {actual}.", param=param)
    return key_of(found)


def image_at(url: Any, *, param: str) -> bytes:
    """The key of an image at a data: or https:// URL.

    Raises:
        BadRequest: it is another URL, or its data is not an image of the declared type.
    """
    if isinstance(url, str) and url.startswith("data:"):
        kind, _, data = url[len("data:") :].partition(";base64,")
        return inline_image(data, kind, param=param)
    if not isinstance(url, str) or not url.startswith("https://"):
        raise BadRequest("Expected a base64-encoded data URL or an https URL of an image.", param=param)
    return linked_key(url)
