"""Locations in one canonical form: an absolute or relative path, or s3://bucket/key."""

import re
from urllib.parse import unquote

_S3_OTHERWISE = re.compile(r"s3[an]://", re.IGNORECASE)
_FILE = re.compile(r"file:(?://(?P<host>[^/]*))?(?P<path>/.*)", re.IGNORECASE)


def canonical_location(text: str) -> str:
    """The location in canonical form: s3a:// and s3n:// become s3://, and file:// becomes a path.

    Raises:
        ValueError: a file:// URL of another host, or without an absolute path.
    """
    if match := _S3_OTHERWISE.match(text):
        return f"s3://{text[match.end() :]}"
    if not text.lower().startswith("file:/"):
        return text
    match = _FILE.fullmatch(text)
    if match is None or match["host"] not in (None, "", "localhost"):
        raise ValueError("expected a file:// URL with three slashes, such as file:///home/me/prompts, or just the path")
    return unquote(match["path"])
