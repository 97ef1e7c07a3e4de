"""A Failure: a sample given up on, or a source row that makes no prompt. Data, not a crash."""

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

FailureKind: TypeAlias = Literal[
    "bad_row",  # a source row that is no prompt
    "too_long",  # the prompt does not fit the teacher's context
    "bad_request",  # the teacher refuses the request as malformed
    "malformed",  # a 200 that is no answer, again and again
    "ambiguous",  # cut connections and time-outs, again and again
    "overload",  # the teacher failed on its side, as often as `max_attempts` allows
    "poison",  # asking it killed worker after worker
    "unchecked",  # a check could not judge its answer
    "budget",  # there was no money left to ask it
    "expired",  # the provider did not get to it within a batch's time, again and again
    "stopped",  # `run --finish` ended the asking before its turn
]
"""Why it was given up."""

WHAT_TO_DO: Mapping[FailureKind, str] = {
    "too_long": "Raise the context length of the teacher's server and run `stillhouse retry DATASET --kind too_long`, "
    "or ask a shorter prompt from a new source file",
    "bad_request": "Correct what the teacher refuses (a changed `ask` needs another dataset.path), then run "
    "`stillhouse retry DATASET --kind bad_request`",
    "malformed": "Check what the server, or a proxy before it, sends (`body_head` shows it), then run "
    "`stillhouse retry DATASET --kind malformed`",
    "ambiguous": "Run `stillhouse retry DATASET --kind ambiguous`; if it happens again, allow more time (timeout_s, a "
    "gateway's own limit)",
    "overload": "Run `stillhouse retry DATASET --kind overload` once the teacher has recovered",
    "poison": "Check the logs of the workers that died (out of memory?), then run `stillhouse retry DATASET --kind "
    "poison`",
    "unchecked": "Its answer is in _stillhouse/raw; once the check can judge it, `stillhouse retry DATASET --kind "
    "unchecked` has it judged, and asks nothing",
    "budget": "Raise the recipe's `budget` and run it again: it asks these by itself",
    "expired": "Run `stillhouse retry DATASET --kind expired` when the provider is less busy, or ask it online "
    "(`mode: online`)",
    "stopped": "Run `stillhouse retry DATASET --kind stopped` to ask it after all",
}
"""By kind, for people; a bad row's message itself says what was expected."""

RETRYABLE: tuple[FailureKind, ...] = tuple(kind for kind in get_args(FailureKind) if kind != "bad_row")
"""Kinds of samples, which can be asked again; a bad row can't."""

BODY_HEAD_CHARS = 2000
"""How much of a response's body a Failure keeps."""
