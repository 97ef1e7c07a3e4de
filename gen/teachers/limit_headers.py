"""Reads from a reply's headers what is left of the account's limits."""

from collections.abc import Mapping

from stillhouse.gen.limits.shares import Ceiling, Resource
from stillhouse.gen.teachers.durations import number_in, reset_s
from stillhouse.gen.teachers.vocabulary import ErrorVocabulary

LIMIT_STANDS_S = 300.0
"""How long a limit that a gateway states without a reset applies after it was hit."""


def ceilings_of(
    headers: Mapping[str, str], errors: ErrorVocabulary, *, age_s: float, refused: bool = False, answers: int = 0
) -> dict[Resource, Ceiling]:
    """What remains of the account's limits, by a reply's headers; `age_s`: how long ago its request was admitted.

    `answers`: how many came within a minute lately.

    The remainder is spread over the time until reset. With a fixed window that uses up exactly what is left; with a
    bucket that refills continuously it binds when less than half is left, and settles at what others leave of the
    limit. Nothing left counts as one in that time, because only an answer can show that there is more. A limit without
    a reset is per minute, and applies once it is hit; one that answers exceeded more than twice, which two windows of a
    minute can't explain, is another's or of another time.
    """
    if errors.remaining_headers.isdisjoint(headers):
        return {}
    found: dict[Resource, Ceiling] = {}
    for each in errors.limits:
        if (value := headers.get(each.remaining)) is None:
            continue
        left, until_reset_s = number_in(value), reset_s(headers.get(each.reset), headers)
        if left is not None and until_reset_s is not None and until_reset_s > age_s:
            found[each.resource] = Ceiling(max(left, 1.0) / until_reset_s, until_reset_s, age_s)
        elif left is not None and each.reset not in headers:
            limit = number_in(headers.get(each.remaining.replace("remaining", "limit")))
            exceeded = each.resource == "requests" and limit is not None and answers > 2 * limit
            if limit and not exceeded and (refused or left <= limit / 10):
                found[each.resource] = Ceiling(limit / 60, LIMIT_STANDS_S, age_s)
    return found
