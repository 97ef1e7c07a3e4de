"""Reads the answer in a chat completion document, in every unambiguous form that servers send.

Malformed extras (usage, log-probabilities) are left out: a paid answer is not lost because of them, and the journal
keeps the body.
"""

from collections.abc import Sequence
from typing import Any

from stillhouse.gen.teachers.json_text import text_of
from stillhouse.gen.teachers.outcome import Malformed, Outcome, Overload, ServerError
from stillhouse.gen.teachers.protocols.calls import calls_text
from stillhouse.gen.teachers.protocols.counts import count_in
from stillhouse.gen.teachers.protocols.envelopes import answer_in
from stillhouse.gen.teachers.protocols.finish import finish_of
from stillhouse.gen.teachers.protocols.values import dicts
from stillhouse.gen.teachers.thinking import has_markup, split_thoughts
from stillhouse.gen.teachers.token_scores import TokenScores
from stillhouse.schemas.completion import Completion, FinishReason, ReasoningSource, Usage
from stillhouse.schemas.teacher import Teacher

_TEXTS = ("text", "content", "value", "parts")
_THOUGHTS = ("thinking", "reasoning", "thought", "redacted_thinking")


def answer_document(document: Any) -> dict[str, Any] | None:
    """The object with `choices`: the document, the first of a list, or inside an envelope."""
    return answer_in(document, lambda found: bool(found.get("choices")))


def completion_of(document: dict[str, Any], teacher: Teacher, *, cut_out: bytes | None = None) -> Outcome:
    """The completion of the document's first choice; raises KeyError and similar if it has another shape.

    `cut_out`: the log-probabilities that were cut out of the document; see `gen.teachers.token_scores`.
    """
    usage = usage_of(document.get("usage"))
    choice = document["choices"][0]
    message = _message(choice)
    raw = choice.get("finish_reason")
    raw = str(raw) if isinstance(raw, (str, int)) and not isinstance(raw, bool) and raw != "" else None
    finish = finish_of(raw, teacher.finish_reasons)
    error = choice.get("error") or (document.get("error") if finish in ("failed", "unknown") else None)
    if finish == "failed" or (error and finish != "stop"):
        said = error.get("message") if isinstance(error, dict) else error
        words = f": {said[:300]}" if isinstance(said, str) else ""
        return ServerError(f"the answer broke off (finish_reason {raw}){words}", 200, usage)
    text, reasoning, source, odd = _texts(message, teacher)
    calls = message.get("tool_calls") or ([message["function_call"]] if message.get("function_call") else None)
    refusal = message.get("refusal")
    if text == "" and source != "think_tag" and (calls or refusal or reasoning):
        text = None  # some servers write null, and a stream can't tell the two apart
    reason: FinishReason = "refused" if refusal else finish
    if text is None and not (calls or refusal or reasoning) and (raw is None or reason in ("stop", "tool_calls")):
        shape = f" (parts of type {odd})" if odd else ""
        return Malformed(f"the message has no content{shape}", 200, usage)
    return Completion(
        text=text,
        finish_reason=reason,
        finish_reason_raw=raw[:200] if raw else None,
        reasoning=reasoning,
        reasoning_source=source,
        tool_calls=calls_text(calls) if calls else None,
        refusal=_text(refusal) or None,
        scores=scores_of(choice, cut_out),
        model=_text(document.get("model")),
        response_id=_text(document.get("id")),
        usage=usage,
        markup=text is not None and has_markup(text, teacher.thinking),
        reasoning_is_summary=_is_summary(message) if reasoning else None,
        reasoning_signatures=_signatures(message),
    )


def _is_summary(message: dict[str, Any]) -> bool | None:
    """OpenRouter's details say so; elsewhere it is unknown."""
    details = dicts(message.get("reasoning_details"))
    return any(detail.get("type") == "reasoning.summary" for detail in details) if details else None


def _signatures(message: dict[str, Any]) -> str | None:
    """The details that OpenRouter needs back with the reasoning, unchanged."""
    details = message.get("reasoning_details")
    found = [each for each in dicts(details) if each.get("signature") or each.get("data")] if details else []
    return text_of(found) if found else None


def without_choice(document: dict[str, Any], status: int) -> Malformed | Overload | None:
    """The trouble of a document whose choices are null or empty; None if it has none at all."""
    if "choices" not in document:
        return None
    usage = usage_of(document.get("usage"))
    if document["choices"] is not None or usage.input_tokens or usage.output_tokens:
        return Malformed("the answer has no choice", status, usage)
    return Overload("the answer has neither choices nor usage: it was not served", status)


def _message(choice: dict[str, Any]) -> dict[str, Any]:
    """The choice's message, under any of its names; empty if there is none."""
    for name in ("message", "delta"):
        if isinstance(found := choice.get(name), dict):
            return found
        if isinstance(found, str):
            return {"content": found}
    text = choice.get("text")
    if text is None and choice.get("finish_reason") is None:
        raise KeyError("message")
    return {"content": text}


def _texts(
    message: dict[str, Any], teacher: Teacher
) -> tuple[str | None, str | None, ReasoningSource | None, str | None]:
    """(text, reasoning, where the reasoning was, types of other parts)."""
    text, thoughts, odd = _parts(message.get("content"))
    if thoughts:
        return text, thoughts, "content_part", odd
    if found := _text(message.get("reasoning")):
        return text, found, "reasoning", odd
    if found := _text(message.get("reasoning_content")):
        return text, found, "reasoning_content", odd
    if isinstance(details := message.get("reasoning_details"), list):
        found = "".join(_text(d.get("text")) or _text(d.get("summary")) or "" for d in details if isinstance(d, dict))
        if found:
            return text, found, "reasoning_details", odd
    if text is None:
        return None, None, None, odd
    split = split_thoughts(text, teacher.thinking)
    return split.text, split.thoughts, None if split.thoughts is None else "think_tag", odd


def _parts(content: Any) -> tuple[str | None, str, str | None]:
    """(text, reasoning, types of other parts) of a message's content in any form."""
    if not isinstance(content, (list, dict)):
        return _text(content), "", None
    text: list[str] = []
    thoughts: list[str] = []
    odd: set[str] = set()
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            text.append(part)
        elif isinstance(part, dict):
            kind = part.get("type")
            if kind in _THOUGHTS or part.get("thought") is True:
                thoughts.append(_inner(part, ("thinking", "text", "summary", "content")))
            elif any(isinstance(part.get(name), (str, list, dict)) for name in _TEXTS):
                text.append(_inner(part, _TEXTS))
            elif kind not in ("text", "output_text"):
                odd.add(str(kind)[:40])
    return ("".join(text) if text else None), "".join(thoughts), ", ".join(sorted(odd)) or None


def _inner(value: Any, names: Sequence[str], *, depth: int = 0) -> str:
    """All text under these names."""
    if isinstance(value, str):
        return value
    if depth > 6:
        return ""
    if isinstance(value, list):
        return "".join(_inner(each, names, depth=depth + 1) for each in value)
    if isinstance(value, dict):
        found = next((value[name] for name in names if isinstance(value.get(name), (str, list, dict))), "")
        return _inner(found, names, depth=depth + 1)
    return ""


def usage_of(usage: Any) -> Usage:
    """Tokens as billed, under either of their names."""
    if not isinstance(usage, dict):
        return Usage()
    inputs = _first(usage, "prompt_tokens_details", "input_tokens_details")
    outputs = _first(usage, "completion_tokens_details", "output_tokens_details")
    cached = inputs.get("cached_tokens") if isinstance(inputs, dict) else usage.get("prompt_cache_hit_tokens")
    input_tokens = count_in(_first(usage, "prompt_tokens", "input_tokens"))
    output_tokens = count_in(_first(usage, "completion_tokens", "output_tokens"))
    if not output_tokens and input_tokens and (total := count_in(usage.get("total_tokens"))) and total > input_tokens:
        output_tokens = total - input_tokens  # billed reasoning that is missing from the answer's count
    return Usage(
        input_tokens=input_tokens or None,  # every prompt has at least one token
        cached_tokens=count_in(cached),
        output_tokens=output_tokens,
        reasoning_tokens=count_in(outputs.get("reasoning_tokens")) if isinstance(outputs, dict) else None,
        cache_write_tokens=count_in(inputs.get("cache_write_tokens")) if isinstance(inputs, dict) else None,
    )


def _first(values: dict[str, Any], name: str, other: str) -> Any:
    found = values.get(name)
    return values.get(other) if found is None else found


def scores_of(choice: dict[str, Any], cut_out: bytes | None = None) -> TokenScores | None:
    """The log-probabilities, with the ids that come beside the answer."""
    scores = choice.get("logprobs")
    if not isinstance(scores, dict):
        return None
    return TokenScores.of(scores.get("content"), choice.get("token_ids"), cut_out=cut_out)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
