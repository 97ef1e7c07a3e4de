"""Checks of teachers' endpoint URLs: they hold no password, and are base URLs, not the URL of an example request."""

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

_METHOD = re.compile(
    r"/(chat/completions|completions|responses|messages|models(/[^/]*)?|model/.+/(converse|invoke)[\w-]*)\Z"
)
"""URL endings that come from example requests."""


def _endpoint_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError("expected a URL such as https://host/v1, got one that can't be read") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        # It may hold a password or a key, so the message does not repeat it.
        raise ValueError("expected a URL without user, password, query or fragment; put the key into `api_key`")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        # It may be a key pasted into the wrong field.
        raise ValueError("expected a URL such as https://host/v1, got other text")
    if not is_host(parts.hostname):
        raise ValueError("expected a URL whose host has labels of 1 to 63 characters between its dots")
    return value.rstrip("/")


def _without_method(value: str) -> str:
    if _METHOD.search(value):
        raise ValueError("expected the API's base URL, without `/chat/completions` or the like")
    return value


def is_host(host: str) -> bool:
    """True if the text can be a host's name or address."""
    if ":" in host:  # an IPv6 address, which urlsplit has checked
        return True
    try:
        name = host.removesuffix(".").encode("idna").decode()
    except UnicodeError:
        return False
    return len(name) <= 253 and all(0 < len(label) <= 63 for label in name.split("."))


def is_near(host: str) -> bool:
    """True if a host is loopback, private or a single label, so that http:// to it stays in the local network."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".svc", ".svc.cluster.local", ".localhost"))
    return address.is_loopback or address.is_private


EndpointUrl = Annotated[str, AfterValidator(_endpoint_url)]
BaseUrl = Annotated[EndpointUrl, AfterValidator(_without_method)]
