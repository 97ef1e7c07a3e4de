"""Reads the output items of OpenAI's Responses: reasoning with its summary, messages, refusals and function calls."""

import json
from dataclasses import replace
from typing import Any

from stillhouse.gen.teachers.json_text import dumped
from stillhouse.gen.teachers.outcome import Malformed, Outcome, ServerError, Trouble
from stillhouse.gen.teachers.protocols.calls import function_call
from stillhouse.gen.teachers.protocols.chat_answer import usage_of
from stillhouse.gen.teachers.protocols.finish import finish_of
from stillhouse.gen.teachers.protocols.values import dicts, text
from stillhouse.gen.teachers.signals import trouble_of
from stillhouse.gen.teachers.thinking import has_markup, split_thoughts
from stillhouse.gen.teachers.token_scores import TokenScores
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.teachers.vocabulary import ErrorVocabulary
from stillhouse.schemas.completion import Completion, FinishReason
from stillhouse.schemas.teacher import Teacher

_STATUS_OF = {"rate_limit_exceeded": 429, "server_error": 500, "vector_store_timeout": 500}
"""The status that an error of a failed response would have had by itself; codes that are not listed concern
requests."""


def unfinished(response: dict[str, Any], reply: Reply, errors: ErrorVocabulary) -> Trouble | None:
    """The trouble of a response that was not finished; None if it was."""
    status, error = response.get("status"), response.get("error")
    usage = usage_of(response.get("usage"))
    if status in ("in_progress", "queued"):
        return Malformed(f"the response is still {status}: `background` is not supported", reply.status, usage)
    if status == "cancelled":
        return ServerError("the response was cancelled", reply.status, usage)
    if status != "failed" and not (error and status != "completed"):
        return None
    said = error if isinstance(error, dict) else {"message": "the response failed without a reason"}
    code = said.get("code")
    known = code if isinstance(code, str) and code else "server_error"
    trouble = trouble_of(reply._replace(status=_STATUS_OF.get(known, 400), body=dumped({"error": said})), errors)
    return replace(trouble, usage=usage) if isinstance(trouble, ServerError) else trouble


def completion_of(response: dict[str, Any], teacher: Teacher, *, cut_out: bytes | None = None) -> Outcome:
    """The completion of a finished response; raises KeyError and similar if it has another shape.

    `cut_out`: the log-probabilities that were cut out of the document; see `gen.teachers.token_scores`.
    """
    usage = usage_of(response.get("usage"))
    items = dicts(response["output"])
    parts = _parts(items)
    answer = "".join(text(part.get("text")) or "" for part in parts if part.get("type") == "output_text")
    refusal = "".join(text(part.get("refusal")) or "" for part in parts if part.get("type") == "refusal") or None
    calls = [_call(item) for item in items if item.get("type") in ("function_call", "custom_tool_call")]
    raw = _raw_finish(response)
    finish = finish_of(raw, teacher.finish_reasons)
    if finish == "failed":
        return ServerError(f"the answer broke off ({raw})", 200, usage)
    reason: FinishReason = "refused" if refusal else "tool_calls" if calls and finish == "stop" else finish
    thoughts, is_summary = _reasoning(items)
    split = split_thoughts(answer, teacher.thinking) if thoughts is None else None
    if split is not None and split.thoughts is not None:
        answer = split.text
    if not answer and not (calls or refusal or thoughts or (split and split.thoughts)) and reason == "stop":
        return Malformed("the response has no text", 200, usage)
    source = "reasoning_item" if thoughts else "think_tag" if split and split.thoughts is not None else None
    return Completion(
        text=answer or None,
        finish_reason=reason,
        finish_reason_raw=raw[:200] if raw else None,
        reasoning=thoughts or (split.thoughts if split else None),
        reasoning_source=source,  # type: ignore[arg-type] # mypy does not narrow conditional literals
        tool_calls=json.dumps(calls, ensure_ascii=False) if calls else None,
        refusal=refusal,
        scores=_scores(parts, cut_out),
        model=text(response.get("model")),
        response_id=text(response.get("id")),
        usage=usage,
        markup=has_markup(answer, teacher.thinking),
        reasoning_is_summary=is_summary if thoughts else False if source else None,
        reasoning_signatures=_encrypted(items),
    )


def _raw_finish(response: dict[str, Any]) -> str | None:
    """Why it is incomplete, else its status."""
    details = response.get("incomplete_details")
    reason = text(details.get("reason")) if isinstance(details, dict) else None
    return reason or text(response.get("status"))


def _parts(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts of the answer's messages; comments before it count only if there is no answer."""
    messages = [item for item in items if item.get("type") == "message"]
    final = [item for item in messages if item.get("phase") == "final_answer"] or messages
    return [part for item in final for part in dicts(item.get("content"))]


def _reasoning(items: list[dict[str, Any]]) -> tuple[str | None, bool]:
    """(the reasoning itself, or else its summary; whether it is the summary)."""
    reasoning = [item for item in items if item.get("type") == "reasoning"]
    for name, is_summary in (("content", False), ("summary", True)):
        texts = [text(part.get("text")) for item in reasoning for part in dicts(item.get(name))]
        if found := "\n\n".join(each for each in texts if each):
            return found, is_summary
    return None, False


def _encrypted(items: list[dict[str, Any]]) -> str | None:
    found = [
        {"id": text(item.get("id")), "encrypted_content": item["encrypted_content"]}
        for item in items
        if item.get("type") == "reasoning" and isinstance(item.get("encrypted_content"), str)
    ]
    return json.dumps(found, ensure_ascii=False) if found else None


def _call(item: dict[str, Any]) -> dict[str, Any]:
    arguments = item.get("arguments") if item.get("type") == "function_call" else item.get("input")
    return function_call(item.get("call_id"), item.get("name"), arguments)


def _scores(parts: list[dict[str, Any]], cut_out: bytes | None) -> TokenScores | None:
    entries: list[Any] = []
    for part in parts:
        if part.get("text"):
            if not isinstance(found := part.get("logprobs"), list):
                return None  # those of a part of the text would pass for those of all of it
            entries += found
    return TokenScores.of(entries, cut_out=cut_out)
