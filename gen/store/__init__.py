"""Opens the store that a path or URL names; `base.py` has the contract of all stores."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from stillhouse.gen.errors import StoreRefused
from stillhouse.gen.store.base import Store
from stillhouse.schemas.location import LocalPath, S3Location, StoreLocation, parse_location

_GLOB = re.compile(r"[*?\[]")
_SHOWN = 100
"""Maximum number of characters shown of a path that can't be resolved."""


def open_store(
    url: str,
    *,
    endpoint_url: str | None = None,
    region: str | None = None,
    path_style: bool | None = None,
    encryption: str | None = None,
    patience_s: float = 60.0,
) -> Store:
    """The store at `url`, a local path or 's3://bucket/prefix'; nothing is requested or created yet.

    `endpoint_url` and `region` default to the standard AWS settings. `path_style` (the bucket in the path instead of
    the host name) defaults to true if an `endpoint_url` is given. `encryption` is requested for each object: 'AES256',
    'aws:kms' or 'aws:kms:<key id>'. `patience_s` is how long one operation is retried before it raises `StoreAway`; a
    local disk is not retried. Raises `StoreRefused` for a malformed url.
    """
    location = _parsed(url)
    if isinstance(location, LocalPath):
        from stillhouse.gen.store.local import LocalStore

        return LocalStore(_local(location.path))
    # boto3 takes a third of a second to import, which local datasets don't need.
    from stillhouse.gen.store.s3 import S3Store

    _check_prefix(location)
    if endpoint_url is not None:
        _check_endpoint(endpoint_url)
    return S3Store(
        location.bucket,
        prefix=location.key.rstrip("/"),
        endpoint_url=endpoint_url,
        region=region,
        path_style=path_style,
        encryption=encryption,
        patience_s=patience_s,
    )


def split_url(url: str) -> tuple[str, str]:
    """Split a source's url into (url of a store's root, key or glob below it); '' as the key means everything below the
    root.

    's3://b/a/*.parquet' -> ('s3://b', 'a/*.parquet'); 'data/x/*.jsonl' -> ('/home/u/data/x', '*.jsonl'). A local folder
    becomes a root with the key ''. On S3, only a LIST can tell a folder from an object, so the key is returned as it
    was written. Raises `StoreRefused` for a malformed url.
    """
    location = _parsed(url)
    if isinstance(location, S3Location):
        return f"s3://{location.bucket}", location.key
    with _resolving(url):
        path = Path(location.path).expanduser()
        if not _GLOB.search(str(path)):
            path = path.resolve()
            return (str(path), "") if path.is_dir() else (str(path.parent), path.name)
        first_glob = next(i for i, part in enumerate(path.parts) if _GLOB.search(part))
        return str(Path(*path.parts[:first_glob]).resolve()), "/".join(path.parts[first_glob:])


def _parsed(url: str) -> StoreLocation:
    try:
        return parse_location(url)
    except ValueError as error:
        raise StoreRefused(str(error)) from error


def _check_prefix(location: S3Location) -> None:
    segments = location.key.rstrip("/").split("/")
    if location.key and any(segment in {"", ".", ".."} for segment in segments):
        url = f"s3://{location.bucket}/{location.key}"
        raise StoreRefused(f"expected s3://bucket/prefix without '//', '.' and '..' in it, got {url!r}")


def _check_endpoint(endpoint_url: str) -> None:
    parts = urlsplit(endpoint_url)
    if "@" in parts.netloc:
        raise StoreRefused(
            "an endpoint_url must not hold credentials: give https://host:port and the standard AWS settings"
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise StoreRefused(f"expected an endpoint_url like https://host:port, got {endpoint_url!r}")


def _local(url: str) -> Path:
    """The root of a local store; a symlink is resolved once, here."""
    with _resolving(url):
        root = Path(url).expanduser().resolve()
        is_file = os.path.lexists(root) and not root.is_dir()
    if is_file:
        raise StoreRefused(f"expected a folder at {root}, got a file: give another path or move the file away")
    return root


@contextmanager
def _resolving(url: str) -> Iterator[None]:
    try:
        yield
    # no rights, a name that is too long, no such home, or a loop of symlinks
    except (OSError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise StoreRefused(f"the path {url[:_SHOWN]!r} can't be resolved: {why}") from error
