"""Where something is: a path, or a bucket and a key. Text is turned into one of these once, and checked there."""

import re
from dataclasses import dataclass
from typing import Annotated, Self, TypeAlias
from urllib.parse import unquote

from pydantic import AfterValidator

_S3 = "s3://"
_S3_OTHERWISE = re.compile(r"s3[an]://", re.IGNORECASE)
_FILE = re.compile(r"file:(?://(?P<host>[^/]*))?(?P<path>/.*)", re.IGNORECASE)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class LocalPath:
    """On a disk."""

    path: str
    """Absolute or relative; neither `~` nor links are resolved."""


@dataclass(frozen=True, slots=True)
class S3Location:
    """An object, or a prefix of objects, in an object store."""

    bucket: str
    key: str
    """Without a leading slash; also a prefix or a glob."""

    @classmethod
    def of(cls, url: str) -> Self:
        """Split 's3://bucket/key', without checking it."""
        bucket, _, key = url.removeprefix(_S3).partition("/")
        return cls(bucket, key)


StoreLocation: TypeAlias = LocalPath | S3Location


def canonical_location(text: str) -> str:
    """The location in canonical form: s3a:// and s3n:// become s3://, and file:// becomes a path.

    Raises:
        ValueError: a file:// URL with another host, or without an absolute path.
    """
    if match := _S3_OTHERWISE.match(text):
        return f"{_S3}{text[match.end() :]}"
    if not text.lower().startswith("file:/"):
        return text
    match = _FILE.fullmatch(text)
    if match is None or match["host"] not in (None, "", "localhost"):
        raise ValueError("expected a file:// URL with three slashes, such as file:///home/me/prompts, or just the path")
    return unquote(match["path"])


def parse_location(text: str) -> StoreLocation:
    """The location that a path or URL names.

    Raises:
        ValueError: it is empty, has control characters, credentials or an unknown scheme, or names no bucket.
    """
    text = canonical_location(text)
    if not text.strip():
        raise ValueError("expected a local path or s3://bucket/prefix, got an empty path")
    if _CONTROL.search(text):
        raise ValueError(f"expected a local path or s3://bucket/prefix, got control characters in {text!r}")
    if re.match(r"s3:/(?!/)", text):
        raise ValueError(f"expected s3://bucket/prefix, with two slashes, got {text!r}")
    scheme, separator, _ = text.partition("://")
    if not separator:
        return LocalPath(text)
    if scheme != "s3":
        # The rest may hold credentials, so the message does not repeat it.
        raise ValueError(
            f"{scheme[:20]}:// is not a supported store: give a local path or s3://bucket/prefix "
            "(with an endpoint_url for stores that speak S3's protocol)"
        )
    found = S3Location.of(text)
    if "@" in found.bucket or ":" in found.bucket:
        raise ValueError(
            "an s3:// URL must not hold credentials: expected s3://bucket/prefix and the standard AWS settings"
        )
    if not _BUCKET.fullmatch(found.bucket):
        raise ValueError(f"expected s3://bucket/prefix, got {text!r}: {found.bucket!r} is not a valid bucket name")
    return found


def _written(value: str) -> str:
    if not value.strip() or _CONTROL.search(value):
        raise ValueError("expected a path or an s3:// URL without control characters")
    return canonical_location(value)


Location = Annotated[str, AfterValidator(_written)]
"""A location in a recipe, in canonical form."""
