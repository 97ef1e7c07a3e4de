"""Refuses locations that prompts can't be read from, and says in one line how to download the data."""

import re
from urllib.parse import urlsplit

from stillhouse.gen.errors import SourceError

_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def refuse_elsewhere(path: str) -> None:
    """Raise SourceError if the path is a web or Hugging Face Hub URL."""
    scheme, separator, rest = path.partition("://")
    if not separator or scheme.lower() not in ("http", "https", "hf"):
        return
    if scheme.lower() == "hf":
        name = "/".join(rest.removeprefix("datasets/").split("@")[0].split("/")[:2])
    else:
        parts = urlsplit(path)
        name = "/".join(parts.path.removeprefix("/datasets/").split("/")[:2]) if parts.hostname in _HUB_HOSTS else ""
    if _HUB_NAME.fullmatch(name):
        raise SourceError(f"source.path: {scheme}:// can't be read: {_download(name)}", field="source.path")
    # The rest may hold credentials, so the message does not repeat it.
    raise SourceError(
        f"source.path: {scheme}:// can't be read: download the file first (`curl -LO '<the URL>'`), and give it as "
        "source.path; for a store that speaks S3's protocol, give s3://bucket/key and source.endpoint_url",
        field="source.path",
    )


def hub_advice(path: str) -> str:
    """Advice if a path that does not exist looks like a dataset's name on the Hugging Face Hub; otherwise empty."""
    return f"; if it is a dataset on the Hugging Face Hub: {_download(path)}" if _HUB_NAME.fullmatch(path) else ""


def _download(name: str) -> str:
    folder = name.rpartition("/")[2]
    return (
        f"get its Parquet with `hf download {name} --repo-type dataset --revision refs/convert/parquet --local-dir "
        f"{folder}`, and give {folder}, or a configuration's folder in it, as source.path"
    )
