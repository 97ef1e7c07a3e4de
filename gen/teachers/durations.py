"""Durations as servers write them: seconds, Go's `6m0s`, and moments by the server's own clock.

A moment is compared with the reply's `Date`, because our clock may be wrong. Anything but a finite, non-negative number
is ignored.
"""

import email.utils
import math
import re
from collections.abc import Mapping
from datetime import datetime

MAX_WAIT_S = 3600.0
"""The longest wait that a teacher can ask for; after that we try again."""

_EPOCH_S, _EPOCH_MS = 1e9, 1e11
"""Numbers above these are timestamps, not durations, in seconds or milliseconds."""
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6}(?:\.\d{1,9})?)s)?(?:(\d{1,6}(?:\.\d{1,9})?)ms)?")
"""Go's format: `6m0s`, `120ms`."""


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait according to `retry-after-ms`, or `retry-after` in seconds or as a date, within [0, MAX_WAIT_S].

    The SDKs use the same order.
    """
    if (wait := number_in(_named(headers, "retry-after-ms"))) is not None:
        return min(wait / 1000, MAX_WAIT_S)
    value = _named(headers, "retry-after")
    if (wait := number_in(value)) is not None:
        return min(wait, MAX_WAIT_S)
    then, now = _date(value), _date(headers.get("date"))
    return min(max(then - now, 0.0), MAX_WAIT_S) if then is not None and now is not None else None


def _named(headers: Mapping[str, str], name: str) -> str | None:
    """The header, also under the longer name that a gateway passes it on with: `llm_provider-retry-after`."""
    if (value := headers.get(name)) is not None:
        return value
    return next((value for each, value in headers.items() if each.endswith(f"-{name}")), None)


def passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    """A refusal's headers that say when to retry, including names that can't be listed in advance."""
    ends = ("-retry-after", "-retry-after-ms", "ratelimit-reset")
    return {name: value for name, value in headers.items() if name.endswith(ends)}


def reset_s(value: str | None, headers: Mapping[str, str]) -> float | None:
    """Seconds until reset, at most MAX_WAIT_S, from a duration or a timestamp by the server's own clock."""
    if value is None:
        return None
    if (number := number_in(value)) is not None:
        if number < _EPOCH_S:
            return min(number, MAX_WAIT_S)
        then: float | None = number / 1000 if number >= _EPOCH_MS else number
    elif (found := _DURATION.fullmatch(value.strip())) is not None and any(found.groups()):
        hours, minutes, seconds, millis = (float(part or 0) for part in found.groups())
        return min(3600 * hours + 60 * minutes + seconds + millis / 1000, MAX_WAIT_S)
    else:
        then = _moment(value)
    now = _date(headers.get("date"))
    return min(max(then - now, 0.0), MAX_WAIT_S) if then is not None and now is not None else None


def moment_in(value: str) -> float | None:
    """Seconds since 1970, from a date or from a number too large to be a duration."""
    number = number_in(value)
    if number is None:
        return _moment(value)
    seconds = number / 1000 if number >= _EPOCH_MS else number
    return seconds if _EPOCH_S <= seconds < 1e10 else None


def number_in(value: str | None) -> float | None:
    """The finite, non-negative number that the text spells, if it does."""
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _moment(value: str) -> float | None:
    """RFC 3339, as Anthropic sends it."""
    try:
        moment = datetime.fromisoformat(value.strip())
        return moment.timestamp() if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _date(value: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() if value else None
    except (ValueError, OverflowError):
        return None
