"""The images of a source row, checked before anything is asked. No URL in a row is ever opened."""

import base64
import binascii
import hashlib
import importlib
import importlib.util
import io
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from stillhouse.gen.errors import UsageError
from stillhouse.gen.source.columns import is_in, value_of
from stillhouse.gen.source.conversation import NoPrompt, kind_of, text
from stillhouse.schemas.image import Image, LinkedImage, MediaType, StoredImage, media_type_of

MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded: this many pixels take 200 MB."""
MAX_SIDE = 16_383
"""The longest side that all of the formats support."""
MAX_IMAGES = 1000
"""Per prompt."""
_MAX_URL_CHARS = 8192
_DECODERS: dict[MediaType, tuple[str, str]] = {
    "image/png": ("PngImagePlugin", "PngImageFile"),
    "image/jpeg": ("JpegImagePlugin", "JpegImageFile"),
    "image/gif": ("GifImagePlugin", "GifImageFile"),
    "image/webp": ("WebPImagePlugin", "WebPImageFile"),
}
"""Pillow's classes, by module and name: only that of the type that the bytes show is tried. `Image.open` would print
warnings about images that are refused here anyway."""
_TYPES = "PNG, JPEG, GIF or WebP"
_EMBED = (
    "embed it: `from datasets.table import embed_table_storage; "
    'ds.with_format("arrow").map(embed_table_storage, batched=True, batch_size=100)`'
)


def require_pillow() -> None:
    """Refuse a recipe with images if the library that reads them is not installed.

    Raises:
        UsageError: it is not; says how to install it.
    """
    if importlib.util.find_spec("PIL") is None:
        raise UsageError(
            "source.images needs a library that is not installed; install it: pip install 'stillhouse[images]'"
        )


def images_in(values: Mapping[str, Any], columns: Sequence[str], *, decode: bool) -> tuple[Image, ...]:
    """The row's images, column by column; empty if its columns are empty lists.

    `decode`: also check that each can be decoded to its end, which takes milliseconds.

    Raises:
        NoPrompt: a column contains something else, or all of them are null.
    """
    contents = list(_contents(values, columns))
    if len(contents) > MAX_IMAGES:
        raise NoPrompt(f"source.images: expected at most {MAX_IMAGES:,} images, got {len(contents):,}")
    return tuple(
        LinkedImage(content) if isinstance(content, str) else _stored(content, what, name, decode=decode)
        for what, content, name in contents
    )


def bytes_in(values: Mapping[str, Any], columns: Sequence[str]) -> list[bytes | None]:
    """The bytes of each image of `images_in`; None for a URL.

    Raises:
        NoPrompt: as there.
    """
    return [None if isinstance(content, str) else content for _, content, _ in _contents(values, columns)]


def _contents(values: Mapping[str, Any], columns: Sequence[str]) -> Iterator[tuple[str, bytes | str, str | None]]:
    """(description, bytes or URL, name) of each image."""
    found = [(name, value_of(values, name)) for name in columns]
    if all(value is None for _, value in found):
        states = [f"{name!r} is {'null' if is_in(values, name) else 'missing'}" for name in columns]
        raise NoPrompt(f"source.images: column {', '.join(states)}; a row without images has an empty list")
    for name, value in found:
        if isinstance(value, list):
            for number, item in enumerate(value, 1):
                yield _content(item, f"column {name!r}, image {number}")
        elif value is not None:
            yield _content(value, f"column {name!r}")


def _content(value: Any, what: str) -> tuple[str, bytes | str, str | None]:
    name = None
    if isinstance(value, Mapping) and value.keys() <= {"bytes", "path"} and value:
        data, name = value.get("bytes"), value.get("path")
        name = text(name, f"{what}, its path") if name is not None else None
        if data is None and name is not None and not name.startswith("https://"):
            raise NoPrompt(f"{what}: has a path and no bytes, and files that rows name are not opened: {_EMBED}")
        value = name if data is None else data
        if isinstance(data, str):
            raise NoPrompt(f"{what}: expected bytes in its field 'bytes', got text: write it as a data: URL")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return what, bytes(value), name
    if isinstance(value, str):
        return what, _addressed(text(value, what), what), name
    raise NoPrompt(
        f"{what}: expected an image: bytes, {{bytes, path}}, or an https:// or data: URL, got {kind_of(value)}"
    )


def _addressed(url: str, what: str) -> bytes | str:
    """The bytes in a data: URL, or the https:// URL."""
    if url[:5].lower() == "data:":
        head, comma, data = url[5:].partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise NoPrompt(
                f"{what}: expected a data: URL in base64, such as data:image/png;base64,…, got data:{head[:60]}"
            )
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise NoPrompt(f"{what}: the data: URL is not valid base64") from None
    if not url.lower().startswith("https://"):
        raise NoPrompt(
            f"{what}: expected an https:// or data: URL, got other text; files that rows name are not opened"
        )
    if len(url) > _MAX_URL_CHARS or not url.isprintable() or " " in url:
        raise NoPrompt(f"{what}: expected a URL of at most {_MAX_URL_CHARS:,} characters without spaces or controls")
    try:
        parts = urlsplit(url)
        host, is_private = parts.hostname or "", parts.username is not None or parts.port == 0
    except ValueError:
        host, is_private = "", False
    if not host:
        raise NoPrompt(f"{what}: the URL names no host")
    if is_private or not _is_public(host):
        raise NoPrompt(f"{what}: expected a public URL, got one with a user name or a host of a private network")
    return url


def _is_public(host: str) -> bool:
    """False for addresses and names that only mean something on the sender's machine or network."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_global
    except ValueError:
        return "." in host.strip(".") and not host.rstrip(".").endswith((".localhost", ".local", ".internal"))


def _stored(data: bytes, what: str, name: str | None, *, decode: bool) -> StoredImage:
    media_type = media_type_of(data)
    if media_type is None:
        got = "nothing" if not data else "other bytes"
        raise NoPrompt(f"{what}: expected a {_TYPES} image, got {got}: convert it to one of these")
    try:
        width, height = _decoded(data, media_type, what, whole=decode)
    except NoPrompt:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise whatever comes to them on hostile bytes
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise NoPrompt(
            f"{what}: the {media_type} image can't be decoded ({reason}): it is cut off or damaged"
        ) from None
    return StoredImage(media_type, hashlib.sha256(data).digest(), len(data), width, height, name)


def _decoded(data: bytes, media_type: MediaType, what: str, *, whole: bool) -> tuple[int, int]:
    """(width, height) in pixels, from the head; `whole`: decode the image, or the first of several, to its end."""
    module, name = _DECODERS[media_type]
    decoder = getattr(importlib.import_module(f"PIL.{module}"), name)
    with decoder(io.BytesIO(data), "") as image:
        width, height = image.size
        if not 0 < width * height <= MAX_PIXELS or max(width, height) > MAX_SIDE:
            raise NoPrompt(
                f"{what}: expected at most {MAX_PIXELS // 10**6} megapixels and {MAX_SIDE:,} pixels a side, "
                f"got {width} x {height}: shrink it"
            )
        if whole:
            image.draft(None, (1, 1))  # a JPEG is decoded at an eighth of its size, anything else in full
            image.load()
    return width, height
