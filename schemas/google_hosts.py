"""Where Google serves models, its own and Anthropic's: AI Studio, Vertex, or a replacement for either."""

import re
from urllib.parse import urlsplit

_VERSION = re.compile(r"/v\d+[a-z0-9]*(/|\Z)")


def is_vertex(url: str) -> bool:
    """True if the base URL is Vertex's, judged by its host or by the project in its path."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    vertex = host.endswith("aiplatform.googleapis.com") or (host.startswith("aiplatform.") and "googleapis" in host)
    return vertex or "/projects/" in parts.path


def model_base(url: str, *, publisher: str = "google") -> str:
    """The URL below which `/models/…` is found; adds the version and Vertex's publisher if they are left out."""
    parts = urlsplit(url)
    path = parts.path
    if is_vertex(url):
        if not _VERSION.match(path):
            path = f"/v1{path}"
        if "/publishers/" not in path:
            path = f"{path}/publishers/{publisher}"
    elif not _VERSION.search(path):
        path = f"{path}/v1beta"
    return parts._replace(path=path).geturl()
