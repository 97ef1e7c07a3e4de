"""OpenAI's chat completions, as OpenAI and the many servers that speak it really do: a tolerant reader.

Whatever is in the body, `read` returns an Outcome whose texts are valid Unicode and whose numbers fit their columns.
What stands beside the text and makes no sense (usage, log probabilities) is left out: a paid answer is not lost for
that, and the journal keeps the body.
"""

import json
import math
from typing import Any

import orjson

from stillhouse.gen.teachers.outcome import Ambiguous, Malformed, Outcome
from stillhouse.gen.teachers.signals import trouble_of
from stillhouse.gen.teachers.transport import Reply
from stillhouse.schemas.completion import Completion, FinishReason, ReasoningSource, Usage
from stillhouse.schemas.prompt import Message
from stillhouse.schemas.recipe import Ask
from stillhouse.schemas.teacher import Teacher

_FINISH: dict[str, FinishReason] = {
    "stop": "stop", "eos": "stop", "end_turn": "stop", "stop_sequence": "stop", "length": "length",
    "max_tokens": "length", "tool_calls": "tool_calls", "function_call": "tool_calls", "tool_use": "tool_calls",
    "content_filter": "content_filter", "refusal": "refused",
}  # fmt: skip

_MOST_TOKENS = 2**24
"""No context is that long: a larger count is none, and must not become a debt to the limits or a price."""

_CONSTANTS = {"-Infinity": -9999.0}
"""OpenAI's way of writing a log probability that JSON can't hold; NaN and Infinity become null."""


class OpenAIChat:
    """POST /chat/completions, one choice a request."""

    path = "/chat/completions"

    def __init__(self, teacher: Teacher, ask: Ask) -> None:
        fields: dict[str, Any] = ask.parameters()
        extra = fields.pop("extra", {})
        self._seed = fields.pop("seed", None)
        if "max_tokens" in fields:
            fields[teacher.max_tokens_field] = fields.pop("max_tokens")
        if "top_logprobs" in fields:
            fields["logprobs"] = True
        fields |= extra
        self._head = b'{"model":' + orjson.dumps(teacher.model_name) + b',"messages":'
        self._tail = (b"," + orjson.dumps(fields)[1:-1] if fields else b"") + b"}"

    def headers(self, key: str | None) -> dict[str, str]:
        """JSON both ways, uncompressed: answers are small, and a decompressor is a way to exhaust memory."""
        headers = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
        return headers | ({"authorization": f"Bearer {key}"} if key else {})

    def body(self, messages: tuple[Message, ...], sample: int) -> bytes:
        """The request; only the messages, and the seed where there is one, differ from prompt to prompt."""
        seed = b"" if self._seed is None else b',"seed":%d' % (self._seed + sample)
        return self._head + orjson.dumps([{"role": r, "content": c} for r, c in messages]) + seed + self._tail

    def read(self, reply: Reply) -> Outcome:
        """The completion of a 2xx reply, else what the reply means."""
        if not 200 <= reply.status < 300:
            return trouble_of(reply)
        try:
            document = _parse(reply.body)
        except UnicodeDecodeError:
            return Malformed("the body is not UTF-8", reply.status)
        except (ValueError, RecursionError):
            return Ambiguous("the body is no whole JSON document", reply.status)
        if isinstance(document, list) and document:
            document = document[0]
        if not isinstance(document, dict) or (document.get("error") and not document.get("choices")):
            return trouble_of(reply)
        try:
            return _completion(document)
        except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            return Malformed(f"no completion in the body ({type(error).__name__}: {error})", reply.status)


def _parse(body: bytes) -> Any:
    """The document, without lone surrogates, NaN and infinities, which JSON on the wire brings and no file may hold."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body.decode("utf-8-sig")
    tolerated = json.loads(text, parse_constant=_CONSTANTS.get)
    text = json.dumps(tolerated, ensure_ascii=False)
    return orjson.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _completion(document: dict[str, Any]) -> Outcome:
    choice = document["choices"][0]
    message = choice["message"]
    text, reasoning, source = _texts(message)
    calls = message.get("tool_calls") or ([message["function_call"]] if message.get("function_call") else None)
    refusal = message.get("refusal")
    raw = choice.get("finish_reason")
    raw = raw if isinstance(raw, str) and raw else None
    finish: FinishReason = "refused" if refusal else _FINISH.get((raw or "").lower(), "unknown")
    if text is None and not (calls or refusal or reasoning) and (raw is None or finish in ("stop", "tool_calls")):
        return Malformed("the message has no content", 200)
    return Completion(
        text=text,
        finish_reason=finish,
        finish_reason_raw=raw,
        reasoning=reasoning,
        reasoning_source=source,
        tool_calls=json.dumps(calls, ensure_ascii=False) if calls else None,
        refusal=_text(refusal) or None,
        logprobs=_logprobs(choice),
        model=_text(document.get("model")),
        response_id=_text(document.get("id")),
        usage=_usage(document.get("usage")),
    )


def _texts(message: dict[str, Any]) -> tuple[str | None, str | None, ReasoningSource | None]:
    """(text, reasoning, where the reasoning was)."""
    text: str | None
    content = message.get("content")
    thoughts = ""
    if isinstance(content, list):
        text, thoughts = _parts(content)
    else:
        text = _text(content)
    if thoughts:
        return text, thoughts, "content_part"
    if found := _text(message.get("reasoning")):
        return text, found, "reasoning"
    if found := _text(message.get("reasoning_content")):
        return text, found, "reasoning_content"
    if isinstance(details := message.get("reasoning_details"), list):
        found = "".join(_text(d.get("text")) or _text(d.get("summary")) or "" for d in details if isinstance(d, dict))
        if found:
            return text, found, "reasoning_details"
    return _think_tag(text)


def _think_tag(text: str | None) -> tuple[str | None, str | None, ReasoningSource | None]:
    """<think>…</think> at the head; the template may have opened it, so that only the closing tag is there."""
    if text is None:
        return None, None, None
    head, closed, rest = text.partition("</think>")
    opened = head.lstrip().startswith("<think>")
    if opened:
        return rest.lstrip(), head.lstrip()[len("<think>") :].strip(), "think_tag"
    if closed and "<think>" not in head:
        return rest.lstrip(), head.strip(), "think_tag"
    return text, None, None


def _parts(content: list[Any]) -> tuple[str | None, str]:
    text, thoughts = [], []
    for part in content:
        if part["type"] in ("text", "output_text"):
            text.append(part["text"])
        elif part["type"] in ("thinking", "reasoning"):
            inner = part.get("thinking") or part.get("text") or ""
            thoughts.append(inner if isinstance(inner, str) else "".join(p.get("text", "") for p in inner))
    return ("".join(text) if text else None), "".join(thoughts)


def _usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    inputs = usage.get("prompt_tokens_details")
    outputs = usage.get("completion_tokens_details")
    cached = inputs.get("cached_tokens") if isinstance(inputs, dict) else usage.get("prompt_cache_hit_tokens")
    return Usage(
        input_tokens=_count(usage.get("prompt_tokens")) or None,  # no prompt has no token
        cached_tokens=_count(cached),
        output_tokens=_count(usage.get("completion_tokens")),
        reasoning_tokens=_count(outputs.get("reasoning_tokens")) if isinstance(outputs, dict) else None,
    )


def _logprobs(choice: dict[str, Any]) -> list[dict[str, Any]] | None:
    try:
        content = choice["logprobs"]["content"]
        ids = choice.get("token_ids")
        known = ids if isinstance(ids, list) and len(ids) == len(content) else [None] * len(content)
        return [
            _token(entry, token_id) | {"top": [_token(top, None) for top in entry.get("top_logprobs") or []]}
            for entry, token_id in zip(content, known, strict=True)
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _token(entry: dict[str, Any], token_id: Any) -> dict[str, Any]:
    """vLLM, told to, writes tokens as `token_id:17`. A log probability of null (llama.cpp) is not known: NaN."""
    token, logprob = entry["token"], entry["logprob"]
    digits = token.removeprefix("token_id:")
    if token_id is None and digits != token and digits.isdecimal() and len(digits) <= 10:
        token_id = int(digits)
    return {
        "token": token,
        "token_id": _count(token_id, below=2**31),
        "logprob": math.nan if logprob is None else float(logprob),
    }


def _count(value: Any, *, below: int = _MOST_TOKENS) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
