"""A Failure: a sample given up on, or a source row that is no prompt. Data, not a crash."""

from typing import Literal, TypeAlias, get_args

FailureKind: TypeAlias = Literal[
    "bad_row",  # a source row that is no prompt
    "too_long",  # the prompt does not fit the teacher's context
    "bad_request",  # the teacher refuses the request as malformed
    "malformed",  # a 200 that is no answer, again and again
    "ambiguous",  # cut connections and time-outs, again and again
    "overload",  # the teacher failed on its side, again and again
    "poison",  # asking it killed worker after worker
]
"""Why it was given up."""

RETRYABLE: tuple[FailureKind, ...] = tuple(kind for kind in get_args(FailureKind) if kind != "bad_row")
"""The kinds of samples, which can be asked again; a row that is no prompt can't."""

BODY_HEAD_CHARS = 2000
"""How much of a response's body a Failure keeps."""
