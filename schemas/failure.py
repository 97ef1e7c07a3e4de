"""A Failure: a sample given up on, or a source row that doesn't make a prompt. Data, not a crash."""

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

FailureKind: TypeAlias = Literal[
    "bad_row",  # a source row that is not a prompt
    "too_long",  # the prompt does not fit the teacher's context
    "bad_request",  # the teacher refuses the request as malformed
    "malformed",  # a 200 without an answer, repeatedly
    "ambiguous",  # cut connections and timeouts, repeatedly
    "overload",  # the teacher failed on its side `max_attempts` times
    "poison",  # three workers died while asking it
    "unchecked",  # a check could not judge its answer
    "budget",  # there was no money left to ask it
    "expired",  # the provider did not reach it within a batch's time, repeatedly
    "stopped",  # `run --finish` ended before it was asked
]
"""Why the sample was given up on."""

WHAT_TO_DO: Mapping[FailureKind, str] = {
    "too_long": "Raise the context length of the teacher's server and run `stillhouse retry DATASET --kind too_long`, "
    "or ask a shorter prompt from a new source file",
    "bad_request": "Correct what the teacher refuses (a changed `ask` needs another dataset.path), then run "
    "`stillhouse retry DATASET --kind bad_request`",
    "malformed": "Check what the server, or a proxy in front of it, sends (`body_head` shows it), then run "
    "`stillhouse retry DATASET --kind malformed`",
    "ambiguous": "Run `stillhouse retry DATASET --kind ambiguous`; if it happens again, allow more time (timeout_s, a "
    "gateway's own limit)",
    "overload": "Run `stillhouse retry DATASET --kind overload` once the teacher has recovered",
    "poison": "Check the logs of the workers that died (out of memory?), then run `stillhouse retry DATASET --kind "
    "poison`",
    "unchecked": "Its answer is in _stillhouse/raw; once the check can judge it, `stillhouse retry DATASET --kind "
    "unchecked` has it judged, without asking again",
    "budget": "Raise the recipe's `budget` and run it again: it asks these samples by itself",
    "expired": "Run `stillhouse retry DATASET --kind expired` when the provider is less busy, or ask it online "
    "(`mode: online`)",
    "stopped": "Run `stillhouse retry DATASET --kind stopped` to ask it now",
}
"""What to do about each kind, for people; a bad row's own message says what was expected."""

RETRYABLE: tuple[FailureKind, ...] = tuple(kind for kind in get_args(FailureKind) if kind != "bad_row")
"""Kinds of samples that can be asked again; a bad row can't."""

BODY_HEAD_CHARS = 2000
"""How many characters of a response's body a Failure keeps."""
