"""Reads the answer in a generateContent document: reasoning, function calls, blocked prompts, usage by Google's count.

Google counts reasoning beside the answer, not in it; `Usage` has both in the output.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

from stillhouse.gen.teachers.json_text import dumped
from stillhouse.gen.teachers.long_lists import LongList, TakenOut, in_parts, list_pattern
from stillhouse.gen.teachers.outcome import Malformed, Outcome, ServerError
from stillhouse.gen.teachers.protocols.calls import function_call
from stillhouse.gen.teachers.protocols.counts import count_in
from stillhouse.gen.teachers.protocols.finish import Finish, finish_of
from stillhouse.gen.teachers.protocols.reply_document import UNKNOWN_SHAPE
from stillhouse.gen.teachers.protocols.values import dicts, text
from stillhouse.gen.teachers.thinking import has_markup, split_thoughts
from stillhouse.gen.teachers.token_scores import TokenScores
from stillhouse.schemas.completion import Completion, FinishReason, Usage
from stillhouse.schemas.teacher import Teacher

_FINISHES: dict[str, Finish] = {
    "LANGUAGE": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "FINISH_REASON_UNSPECIFIED": "unknown",
    # The model's own mistakes, not calls: asking again may give a good answer.
    "MALFORMED_FUNCTION_CALL": "failed",
    "UNEXPECTED_TOOL_CALL": "failed",
    "TOO_MANY_TOOL_CALLS": "failed",
    "MALFORMED_RESPONSE": "failed",
    "MISSING_THOUGHT_SIGNATURE": "failed",
}


_SCORE_NAMES = ("chosenCandidates", "topCandidates")
SCORE_LISTS = list_pattern(_SCORE_NAMES)
_SOME_TOKENS = 500
"""Tokens that are read at once; with 20 alternatives each, they take some 600 KB."""


def answer_of(document: Any) -> dict[str, Any] | None:
    """The object that holds the candidates or says why there are none: the document, or inside an envelope."""
    for _ in range(3):
        if isinstance(document, list) and document:
            document = document[0]
        if not isinstance(document, dict) or document.get("error"):
            return None
        if any(name in document for name in ("candidates", "promptFeedback", "usageMetadata")):
            return document
        document = document.get("response") or document.get("data")
    return None


def completion_of(document: dict[str, Any], teacher: Teacher, *, taken: TakenOut | None = None) -> Outcome:
    """The completion of the first candidate; raises KeyError and similar if it has another shape.

    `taken`: the long lists that were taken out of the document, see `SCORE_LISTS`.
    """
    usage = usage_of(document.get("usageMetadata"))
    candidates = dicts(document.get("candidates"))
    if not candidates:
        return _without_candidate(document, usage)
    candidate = candidates[0]
    raw = text(candidate.get("finishReason")) or None
    finish = _finish(raw, teacher)
    if finish == "failed":
        words = text(candidate.get("finishMessage"))
        return ServerError(
            f"the answer broke off (finishReason {raw}){f': {words[:300]}' if words else ''}", 200, usage
        )
    parts = parts_of(candidate)
    answer = "".join(text(part.get("text")) or "" for part in parts if not part.get("thought"))
    thoughts = "".join(text(part.get("text")) or "" for part in parts if part.get("thought")) or None
    calls = [_call(part["functionCall"]) for part in parts if isinstance(part.get("functionCall"), dict)]
    reason: FinishReason = "tool_calls" if calls and finish == "stop" else finish
    split = split_thoughts(answer, teacher.thinking) if thoughts is None else None
    if split is not None and split.thoughts is not None:
        answer = split.text
    if not (answer or calls or thoughts or (split and split.thoughts)) and reason == "stop":
        return Malformed("the answer has no text", 200, usage)
    inline = split is not None and split.thoughts is not None
    return Completion(
        text=answer or None,
        finish_reason=reason,
        finish_reason_raw=raw[:200] if raw else None,
        reasoning=split.thoughts if split is not None else thoughts,
        reasoning_source="think_tag" if inline else "thought_part" if thoughts else None,
        tool_calls=json.dumps(calls, ensure_ascii=False) if calls else None,
        scores=_scores(candidate, taken),
        model=text(document.get("modelVersion")),
        response_id=text(document.get("responseId")),
        usage=usage,
        markup=has_markup(answer, teacher.thinking),
        reasoning_is_summary=False if inline else True if thoughts else None,
        reasoning_signatures=_signatures(parts),
        refusal_category=_category(candidate, raw) if reason == "content_filter" else None,
    )


def usage_of(usage: Any) -> Usage:
    """Tokens as billed: reasoning is output, and what tools put into the prompt is input."""
    if not isinstance(usage, dict):
        return Usage()
    prompt, answer = count_in(usage.get("promptTokenCount")), count_in(usage.get("candidatesTokenCount"))
    thoughts, tools = count_in(usage.get("thoughtsTokenCount")), count_in(usage.get("toolUsePromptTokenCount")) or 0
    total = count_in(usage.get("totalTokenCount"))
    if answer is None and thoughts is not None:
        answer = 0  # the whole budget went into reasoning
    if answer is None and prompt is not None and total is not None and total >= prompt + tools:
        answer = total - prompt - tools
    return Usage(
        input_tokens=prompt + tools if prompt else None,
        cached_tokens=count_in(usage.get("cachedContentTokenCount")),
        output_tokens=None if answer is None else answer + (thoughts or 0),
        reasoning_tokens=thoughts,
    )


def _without_candidate(document: dict[str, Any], usage: Usage) -> Outcome:
    """A blocked prompt is a refusal, which is data; anything else is useless."""
    reason = block_reason(document)
    if reason is None:
        return Malformed("the answer has no candidate", 200, usage)
    said = text(document["promptFeedback"].get("blockReasonMessage")) or f"the prompt was blocked ({reason})"
    return Completion(
        text=None,
        finish_reason="refused",
        finish_reason_raw=reason,
        refusal=said,
        model=text(document.get("modelVersion")),
        response_id=text(document.get("responseId")),
        usage=usage,
        refusal_category=reason,
    )


def block_reason(document: dict[str, Any]) -> str | None:
    """Why the prompt was blocked, if it was."""
    feedback = document.get("promptFeedback")
    reason = text(feedback.get("blockReason")) if isinstance(feedback, dict) else None
    return reason[:200] if reason else None


def _finish(raw: str | None, teacher: Teacher) -> Finish:
    if raw in _FINISHES and raw not in teacher.finish_reasons:
        return _FINISHES[raw]
    return finish_of(raw, teacher.finish_reasons)


def _category(candidate: dict[str, Any], raw: str | None) -> str | None:
    """The harm for which it was blocked, if Google names one, else the finish reason."""
    blocked = [text(each.get("category")) for each in dicts(candidate.get("safetyRatings")) if each.get("blocked")]
    return ",".join(each for each in blocked if each)[:200] or raw


def parts_of(candidate: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of the candidate's content."""
    content = candidate.get("content")
    return dicts(content.get("parts")) if isinstance(content, dict) else []


def _call(call: dict[str, Any]) -> dict[str, Any]:
    return function_call(call.get("id"), call.get("name"), call.get("args") or {})


def _signatures(parts: Sequence[dict[str, Any]]) -> str | None:
    """Each with the position of its part, because a signature belongs to its part; pieces of a text are one part."""
    found: list[dict[str, Any]] = []
    place, last = -1, None
    for part in parts:
        if last is None or not continues(part, last):
            place += 1
        if isinstance(part.get("thoughtSignature"), str):
            found.append({"part": place, "thoughtSignature": part["thoughtSignature"]})
        last = part
    return json.dumps(found) if found else None


def continues(part: dict[str, Any], last: dict[str, Any]) -> bool:
    """True if the part continues the last one's text, as in streams; a signature ends its part."""
    both_texts = isinstance(part.get("text"), str) and isinstance(last.get("text"), str)
    return both_texts and bool(part.get("thought")) == bool(last.get("thought")) and not last.get("thoughtSignature")


def _scores(candidate: dict[str, Any], taken: TakenOut | None) -> TokenScores | None:
    """Google gives ids, and the chosen token may be missing from the most likely ones."""
    result = candidate.get("logprobsResult")
    if taken is not None:
        result = taken.put_back(result, _SCORE_NAMES)
        return None if result is None else _long_scores(result.get("chosenCandidates"), result.get("topCandidates"))
    if not isinstance(result, dict):
        return None
    chosen, tops = (result.get(name) or [] for name in _SCORE_NAMES)
    try:
        return TokenScores.of(_entries(zip(chosen, tops or [{}] * len(chosen), strict=True)))
    except UNKNOWN_SHAPE:
        return None


def _long_scores(chosen: Any, tops: Any) -> TokenScores | None:
    """The log-probabilities in two lists of which one is long; None unless they are lists of objects, of the same
    length."""
    if any(not isinstance(each, (list, LongList)) for each in (chosen, tops)) or len(chosen) != len(tops):
        return None
    pairs = zip(
        itertools.chain.from_iterable(in_parts(chosen)), itertools.chain.from_iterable(in_parts(tops)), strict=True
    )
    texts: list[bytes] = []
    try:
        while some := list(itertools.islice(pairs, _SOME_TOKENS)):
            texts.append(dumped(_entries(some))[1:-1])
    except UNKNOWN_SHAPE:
        return None
    return TokenScores(b"[%b]" % b",".join(texts))


def _entries(pairs: Iterable[tuple[dict[str, Any], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Raises one of UNKNOWN_SHAPE rather than leave out a position, which would shift those after it."""
    return [{**_entry(token), "top_logprobs": list(map(_entry, top.get("candidates") or ()))} for token, top in pairs]


def _entry(token: dict[str, Any]) -> dict[str, Any]:
    """A token as OpenAI writes it, with its id."""
    return {"token": token.get("token"), "id": token.get("tokenId"), "logprob": token.get("logProbability")}
