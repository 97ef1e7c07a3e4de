"""An image of a prompt, as far as it is known without its bytes, which are read from the source again when needed."""

import hashlib
from dataclasses import dataclass
from typing import Literal, TypeAlias

MediaType: TypeAlias = Literal["image/png", "image/jpeg", "image/gif", "image/webp"]


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image whose bytes are in the source."""

    media_type: MediaType
    sha256: bytes
    size: int
    """Size in bytes."""
    width: int
    """Width and height in pixels."""
    height: int
    name: str | None = None
    """The path that the source gives beside the bytes."""

    @property
    def key(self) -> bytes:
        """What counts for the prompt's key."""
        return stored_key(self.sha256)


@dataclass(frozen=True, slots=True)
class LinkedImage:
    """An image that the teacher fetches itself."""

    url: str
    """https://…"""

    @property
    def key(self) -> bytes:
        """What counts for the prompt's key."""
        return linked_key(self.url)


Image: TypeAlias = StoredImage | LinkedImage


@dataclass(frozen=True, slots=True)
class InlineImage:
    """A stored image with its bytes, as it is sent."""

    media_type: MediaType
    data: bytes


SentImage: TypeAlias = InlineImage | LinkedImage


def stored_key(sha256: bytes) -> bytes:
    """The key of an image whose bytes have this SHA-256."""
    return b"sha256:" + sha256


def linked_key(url: str) -> bytes:
    """The key of an image at this URL."""
    return b"url:" + url.encode()


def key_of(data: bytes) -> bytes:
    """The key of an image of these bytes."""
    return stored_key(hashlib.sha256(data).digest())


def media_type_of(data: bytes) -> MediaType | None:
    """The media type that an image's first bytes show, whatever its name; None for types that teachers do not
    accept."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    return None
