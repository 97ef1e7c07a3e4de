"""Which fault a request meets, and what a provider says when it fails."""

import math
from collections.abc import Sequence
from http import HTTPStatus

import orjson

from stillhouse.schemas.simulator import Fault

_ERRORS = {
    400: ("Invalid request.", "invalid_request_error", None),
    401: ("Incorrect API key provided: sk-sim*****lator.", "invalid_request_error", "invalid_api_key"),
    402: ("Insufficient balance.", "insufficient_quota", "insufficient_quota"),
    403: ("Project does not have access to this model.", "invalid_request_error", "model_not_found"),
    404: ("The model does not exist or you do not have access to it.", "invalid_request_error", "model_not_found"),
    408: ("Request timed out.", "timeout_error", None),
    429: ("Rate limit reached on requests per min (RPM). Please try again in 1s.", "requests", "rate_limit_exceeded"),
    500: ("The server had an error while processing your request. Sorry about that!", "server_error", None),
    503: ("The engine is currently overloaded, please try again later.", "server_error", "server_is_overloaded"),
    529: ("Overloaded", "overloaded_error", None),
}
"""Status to (message, type, code)."""

_FROM_PROXIES = frozenset({502, 504})


def pick(faults: Sequence[Fault], *, chance: float, uptime_s: float, number: int) -> Fault | None:
    """The fault of a request, by an even `chance` in [0, 1), the seconds since the start, and which request it is."""
    for fault in faults:
        in_time = fault.start_s <= uptime_s < (math.inf if fault.stop_s is None else fault.stop_s)
        if in_time and fault.start_request <= number < (math.inf if fault.stop_request is None else fault.stop_request):
            if chance < fault.share:
                return fault
            chance -= fault.share
    return None


def default_body(status: int) -> bytes:
    """What OpenAI, or the proxy in front of it, sends with this status."""
    if status in _FROM_PROXIES:
        title = f"{status} {HTTPStatus(status).phrase}".encode()
        return b"<html>\r\n<head><title>%b</title></head>\r\n<body><h1>%b</h1></body>\r\n</html>\r\n" % (title, title)
    message, kind, code = _ERRORS.get(status, (f"Simulated failure with status {status}.", "api_error", None))
    return error_body(message, kind=kind, code=code)


def error_body(
    message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None
) -> bytes:
    """The OpenAI protocol's error object as JSON."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})
