"""Guards against runs that yield nothing: counts settled samples, and decides when to stop and what to change.

Pure, one per worker; counts are per teacher and endpoint, over the run. Refusals by policy are data and never count. A
sample counts once its answer is read, whether this worker received it or found it in a journal; so a corrected
`finish_reasons` or `thinking` is judged by the answers already paid for.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from stillhouse.gen.worker.settlements import Settlement

STOP_AFTER = 50
"""Settled samples without a record that are enough evidence."""

STOP_AFTER_TOO_LONG = 500
"""Sources may be sorted by length, and a prompt that does not fit costs nothing."""

MIN_ALIKE = 3
"""If a whole chunk of at least this many prompts fails in the same way, the recipe is suspected; fewer prompts may just
be bad."""

STOP_AFTER_ALIKE = 50
"""This many Failures alike in a row, at an endpoint that served others before, mean that something changed there."""

_REFUSALS = ("refused", "content_filter", "duplicate_answer")
_CHANGES = ("bad_request", "malformed", "ambiguous")
"""Reasons of Failures after such a change: another model, an expired login, a gateway that cuts answers off."""
_OF_PROMPT = ("too_long", "poison")
"""Reasons that lie in a chunk's prompts."""

Key: TypeAlias = tuple[str, str]
"""(teacher, endpoint)."""


@dataclass(frozen=True, slots=True)
class Useless:
    """Why a run should stop."""

    key: Key
    reason: str
    message: str
    kind: Literal["failed", "paused"] = "failed"


@dataclass(slots=True)
class _Tally:
    records: int = 0
    useless: Counter[str] = field(default_factory=Counter)
    prompts: set[object] = field(default_factory=set)
    """The first few useless samples."""
    shown: dict[str, Settlement] = field(default_factory=dict)
    """One example per reason."""
    last: str | None = None
    """Why the last sample failed, if for one of `_CHANGES`."""
    in_a_row: int = 0
    """Samples that failed for that reason, one after the other."""
    replies: int = 0
    """Useless replies to samples that are asked again; each may be paid for."""


class Guard:
    """Counts settled samples."""

    def __init__(self) -> None:
        self._tallies: dict[Key, _Tally] = {}
        self._cleared: set[Key] = set()

    def note(self, settlements: Iterable[Settlement], *, found: bool = False) -> Useless | None:
        """Count these; returns why to stop, if they are enough evidence.

        `found`: they were in a journal, so they don't say what the endpoint does now.
        """
        useless = None
        for each in settlements:
            key = (each.teacher, each.endpoint)
            if (tally := self._tallies.get(key)) is None:
                tally = self._tallies[key] = _Tally()
            if not each.settled:
                tally.replies += 1
                tally.shown.setdefault("malformed", each)
            elif each.reason is None:
                tally.records += 1
                tally.last, tally.in_a_row = None, 0
                continue  # never a reason to stop
            elif each.reason not in _REFUSALS:
                tally.useless[each.reason] += 1
                tally.shown.setdefault(each.reason, each)
                if len(tally.prompts) < MIN_ALIKE:
                    tally.prompts.add(each.prompt)
                reason = each.reason if each.reason in _CHANGES and not found else None
                tally.in_a_row = tally.in_a_row + 1 if reason == tally.last else 1
                tally.last = reason
            else:
                tally.last = None
            useless = useless or self._told(key, tally)
        return useless

    def at_chunk_end(self, *, prompts: int) -> Useless | None:
        """Why to stop, judged by all samples so far, now that a chunk of this many prompts is complete."""
        for key, tally in self._tallies.items():
            if tally.records or key in self._cleared or len(tally.useless) != 1:
                continue
            if min(len(tally.prompts), prompts) < MIN_ALIKE:
                continue
            (reason,) = tally.useless
            if reason not in _OF_PROMPT:
                return self._verdict(key, tally)
        return None

    def forgive(self, teacher: str) -> None:
        """Forget the teacher's samples so far: others replace it, so they are not a reason to stop."""
        for key in [key for key in self._tallies if key[0] == teacher]:
            del self._tallies[key]

    def clear(self, useless: Useless) -> None:
        """Earlier runs have records from this teacher and endpoint, so the recipe is not at fault."""
        self._cleared.add(useless.key)

    def _told(self, key: Key, tally: _Tally) -> Useless | None:
        if tally.records or key in self._cleared:
            if tally.last is None or tally.in_a_row != STOP_AFTER_ALIKE:
                return None
            message = (
                f"teacher {key[0]}: the last {STOP_AFTER_ALIKE} samples all failed as {tally.last} "
                f"({tally.shown[tally.last].words}), after it had answered others: check what has changed there, then "
                "run the same command again; `stillhouse retry` asks the failed ones again"
            )
            return Useless(key, tally.last, message, "paused")
        counted = tally.useless.total() - tally.useless["too_long"]
        if (
            counted + tally.replies >= 2 * STOP_AFTER
            or counted >= STOP_AFTER
            or tally.useless["too_long"] >= STOP_AFTER_TOO_LONG
        ):
            return self._verdict(key, tally)
        return None

    def _verdict(self, key: Key, tally: _Tally) -> Useless:
        counts = tally.useless + Counter(malformed=tally.replies)
        (reason, count), total = counts.most_common(1)[0], counts.total()
        shown, where = tally.shown[reason], f" at {key[1]}" if key[1] else ""
        message = (
            f"teacher {key[0]}{where}: none of the first {total} requests yielded a record; {count} of them are "
            f"{reason} ({shown.words}). {_advice(reason, shown.words).format(teacher=key[0], word=shown.word)}. What "
            f"was paid for stays in the journal. One reply: {shown.head}"
        )
        return Useless(key, reason, message)


def _advice(reason: str, words: str) -> str:
    return _NOTHING_THERE if words.startswith("HTTP 404") else _ADVICE.get(reason, _OTHER_ADVICE)


_NOTHING_THERE = (
    "The server does not know this address, or this model: check `teachers.{teacher}.base_url`, which with `api: "
    "openai-chat` usually ends in /v1, and `model`, then run again"
)
_OTHER_DATASET = "a changed `ask` needs another `dataset.path`"
_OTHER_ADVICE = (
    f"The recipe or the teacher is at fault, not the data: correct it and run again (if anything was paid for, "
    f"{_OTHER_DATASET})"
)
_ADVICE = {
    "length": "The answers are cut off: raise `ask.max_tokens` (" + _OTHER_DATASET + "), or keep them as they are with "
    "`teachers.{teacher}.finish_reasons: {{'{word}': stop}}`, which also applies to answers already paid for",
    "unknown_finish": "If that word is a normal end here, set `teachers.{teacher}.finish_reasons: {{'{word}': stop}}` "
    "and run again: it also applies to answers already paid for",
    "markup": "If its reasoning is marked in another way, set `teachers.{teacher}.thinking: [<open>, <close>]` (or "
    "none) and run again: it also applies to answers already paid for",
    "only_reasoning": "All text is in the reasoning: raise `ask.max_tokens` or ask the model not to think ("
    + _OTHER_DATASET
    + "); if the tags mean something else, set `teachers.{teacher}.thinking`, which also applies to answers already "
    "paid for",
    "unasked_tool_call": "It calls tools although the recipe offers none: offer them in `ask.tools`, and records "
    "keep the calls (" + _OTHER_DATASET + ")",
    "invalid_tool_call": "Its calls name no function, or their arguments are not a JSON object: check the server's "
    "parser of tool calls",
    "unknown_tool": "It calls tools that it was not offered: name them in the prompt as they are in `ask.tools` or "
    "`source.tools`, or ask another model",
    "invalid_arguments": "The arguments of its calls do not fit the tools' schemas: describe these better, or ask "
    "another model",
    "empty": "It answers without text: it may need streaming (`teachers.{teacher}.stream: true`), or another `ask` ("
    + _OTHER_DATASET
    + ")",
    "ambiguous": "Answers are lost on the way: try shorter ones (`ask.max_tokens`; " + _OTHER_DATASET + "), a higher "
    "`teachers.{teacher}.timeout_s`, `teachers.{teacher}.stream: true`, or a gateway that waits longer",
}
