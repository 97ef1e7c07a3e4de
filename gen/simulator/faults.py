"""Decides which fault a request gets."""

import math
from collections.abc import Sequence
from http import HTTPStatus

from stillhouse.schemas.simulator import Fault

FROM_PROXIES = frozenset({502, 504})
"""Statuses that come from the proxy in front of a provider."""


def pick(faults: Sequence[Fault], *, chance: float, uptime_s: float, number: int) -> Fault | None:
    """The fault of a request, by a uniform `chance` in [0, 1), the seconds since the start, and the request's
    number."""
    for fault in faults:
        in_time = fault.start_s <= uptime_s < (math.inf if fault.stop_s is None else fault.stop_s)
        if in_time and fault.start_request <= number < (math.inf if fault.stop_request is None else fault.stop_request):
            if chance < fault.share:
                return fault
            chance -= fault.share
    return None


def proxy_page(status: int) -> bytes:
    """The page that a proxy sends with one of its statuses."""
    title = f"{status} {HTTPStatus(status).phrase}".encode()
    return b"<html>\r\n<head><title>%b</title></head>\r\n<body><h1>%b</h1></body>\r\n</html>\r\n" % (title, title)
