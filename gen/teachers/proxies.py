"""The environment's proxies, read once per URL. An unusable variable is reported by name before anything is sent."""

import ipaddress
import os
import urllib.request
from urllib.parse import SplitResult, urlsplit

from stillhouse.gen.errors import UsageError
from stillhouse.schemas.endpoint_url import is_host

_SPEAKS = ("http", "https")


def proxy_for(url: str) -> str | None:
    """The proxy's URL for an endpoint, by `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy` in either case.

    Raises:
        UsageError: the variable that applies contains no usable proxy.
    """
    target = urlsplit(url)
    host = target.hostname or ""
    if _bypassed(host) or urllib.request.proxy_bypass_environment(target.netloc):  # type: ignore[attr-defined]
        return None
    for kind in (target.scheme, "all"):
        name, value = _variable(f"{kind}_proxy")
        if value:
            return _checked(name, value)
    return None


def _variable(name: str) -> tuple[str, str]:
    """(the name as set, its value); the lower-case one takes precedence, as with curl."""
    for each in (name, name.upper()):
        if each in os.environ:
            return each, os.environ[each].strip()
    return name, ""


def _checked(name: str, value: str) -> str:
    """The value as a URL; http if it has no scheme, as with curl."""
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise _wrong(name, "its port is not a number") from None
    if parts.scheme not in _SPEAKS:
        raise _wrong(name, f"{parts.scheme}:// proxies are not supported")
    if not host or not is_host(host) or port == 0:
        raise _wrong(name, "it names no host")
    return _with_port(parts)


def _with_port(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.netloc}" if parts.port else f"{parts.scheme}://{parts.netloc.rstrip(':')}"


def _wrong(name: str, why: str) -> UsageError:
    # Its value may hold a password, so the message does not repeat it.
    return UsageError(
        f"the environment variable {name} is not a usable proxy ({why}); expected http://host:port: correct it, unset "
        "it, or add the teacher's host to no_proxy"
    )


def _bypassed(host: str) -> bool:
    """True if `no_proxy` names the address's network, as `127.0.0.0/8` does; Python handles names."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    _, value = _variable("no_proxy")
    for entry in value.split(","):
        try:
            if address in ipaddress.ip_network(entry.strip(), strict=False):
                return True
        except ValueError:
            continue
    return False
