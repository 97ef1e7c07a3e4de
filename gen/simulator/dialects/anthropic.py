"""Anthropic's Messages API, its own and Vertex's, with the rules by which it refuses requests."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from math import ceil
from typing import Any

import orjson

from stillhouse.gen.simulator.answers import Answer
from stillhouse.gen.simulator.dialects.base import Asked, BadRequest, Error, Spoken
from stillhouse.gen.simulator.dialects.images import inline_image
from stillhouse.gen.simulator.dialects.messages import OpenCalls, asked_prompt, integer, parts_of, payload_of
from stillhouse.gen.simulator.dialects.schemas import checked
from stillhouse.gen.simulator.faults import FROM_PROXIES, proxy_page
from stillhouse.gen.simulator.limits import Level, Refusal, Resource
from stillhouse.gen.simulator.texts import CHARS_PER_TOKEN, count_tokens
from stillhouse.gen.simulator.tools import Tool
from stillhouse.gen.simulator.wire import EVENT_STREAM, Request
from stillhouse.schemas.claude_models import claude_of
from stillhouse.schemas.image import linked_key
from stillhouse.schemas.prompt import Message
from stillhouse.schemas.schema_dialects import ANTHROPIC

_ON_VERTEX = re.compile(
    r"(?:/v1)?/projects/[^/]+/locations/[^/]+/publishers/anthropic/models/([^/:]+):(rawPredict|streamRawPredict)"
)
_PIECE_CHARS = 64 * CHARS_PER_TOKEN
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_WORDS = {500: "Internal server error", 529: "Overloaded", 429: "This request would exceed your rate limit."}
_LIMITS: dict[Resource, str] = {
    "requests": "requests",
    "total": "tokens",
    "input": "input-tokens",
    "output": "output-tokens",
}
_FINISHES = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_LEAST_BUDGET = 1024
_LEAST_CACHED = 1024
"""Below this number of tokens nothing is cached."""


class Anthropic:
    """POST /v1/messages, and on Vertex models/MODEL:rawPredict and :streamRawPredict."""

    stream_type = EVENT_STREAM

    def takes(self, path: str) -> bool:
        """One path, or a model's path."""
        return path == "/v1/messages" or _ON_VERTEX.fullmatch(path) is not None

    def response_id(self, serial: int) -> str:
        """An id with Anthropic's prefix."""
        return f"msg_{serial}"

    def headers(self, serial: int, levels: Sequence[Level], *, now: float) -> dict[str, str]:
        """The request's id and the limits, whose resets are timestamps."""
        found = {"request-id": f"req_{serial}"}
        for level in levels:
            name = f"anthropic-ratelimit-{_LIMITS[level.resource]}"
            found[f"{name}-limit"] = str(level.per_minute)
            found[f"{name}-remaining"] = str(level.left)
            reset = datetime.fromtimestamp(ceil(now + level.full_in_s), UTC)
            found[f"{name}-reset"] = reset.strftime("%Y-%m-%dT%H:%M:%SZ")
        return found

    def unauthorized(self, request: Request, key: str, *, now: float) -> Error | None:
        """`x-api-key`, or a bearer token."""
        shown = request.headers.get(b"x-api-key", b"").decode("latin-1")
        bearer = request.headers.get(b"authorization", b"").decode("latin-1")
        if key in (shown, bearer.removeprefix("Bearer ")):
            return None
        missing = "x-api-key header is required"
        return _error(401, "invalid x-api-key" if shown or bearer else missing)

    def parse(self, request: Request) -> Asked:
        """Parse the request."""
        payload = payload_of(request.body)
        model = payload.get("model")
        if (place := _ON_VERTEX.fullmatch(request.path)) is not None:
            if not isinstance(payload.get("anthropic_version"), str):
                raise BadRequest("anthropic_version: Field required", param="anthropic_version")
            if model is not None:
                raise BadRequest("model: Extra inputs are not permitted", param="model")
            if (payload.get("stream") is True) != (place[2] == "streamRawPredict"):
                raise BadRequest(f"stream: {place[2]} takes another value", param="stream")
            model = place[1]
        elif b"anthropic-version" not in request.headers:
            raise BadRequest("anthropic-version: header is required", param="anthropic-version")
        if not isinstance(model, str) or not model:
            raise BadRequest("model: Field required", param="model")
        max_tokens = integer(payload, "max_tokens", least=1)
        if max_tokens is None:
            raise BadRequest("max_tokens: Field required", param="max_tokens")
        messages = _messages(payload)
        thinking = payload.get("thinking") or {}
        _check(model, payload, thinking, max_tokens)
        choice = payload.get("tool_choice") or {}
        prompt = asked_prompt(messages, _images(payload["messages"]))
        return Asked(
            model=model,
            message=prompt.message,
            prompt=prompt.prompt,
            prompt_tokens=prompt.tokens,
            images=prompt.images,
            max_tokens=max_tokens,
            tools=_tools(payload, choice),
            must_call=choice.get("type") in ("any", "tool"),
            thinks=_thinks(model, thinking),
            shows_reasoning=_shows(model, thinking),
            marked_tokens=_marked(payload.get("system")),
            schema=_schema(model, payload),
            stream=payload.get("stream") is True,
        )

    def answer(self, spoken: Spoken) -> bytes:
        """An answer, as a Messages reply."""
        (answer,) = spoken.answers
        return orjson.dumps(
            self._head(spoken)
            | {"content": _blocks(answer, spoken), "stop_reason": _FINISHES[answer.finish_reason]}
            | {"usage": _usage(spoken)}
        )

    def stream(self, spoken: Spoken) -> list[bytes]:
        """Events, each with its name."""
        (answer,) = spoken.answers
        usage = _usage(spoken)
        started = self._head(spoken) | {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}}
        events: list[dict[str, Any]] = [{"type": "message_start", "message": started}, {"type": "ping"}]
        for index, block in enumerate(_blocks(answer, spoken)):
            start, deltas = _pieces(block)
            events.append({"type": "content_block_start", "index": index, "content_block": start})
            events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
            events.append({"type": "content_block_stop", "index": index})
        delta = {"stop_reason": _FINISHES[answer.finish_reason], "stop_sequence": None}
        events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": usage["output_tokens"]}})
        events.append({"type": "message_stop"})
        return [b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in events]

    def _head(self, spoken: Spoken) -> dict[str, Any]:
        asked = spoken.asked
        found = {"id": self.response_id(spoken.serial), "type": "message", "role": "assistant", "model": asked.model}
        return found | {"stop_sequence": None}

    def bad_request(self, error: BadRequest) -> Error:
        """The message names the field."""
        return _error(400, str(error))

    def limited(self, refusal: Refusal) -> Error:
        """A 429 with the wait in whole seconds."""
        return _error(429, refusal.message)._replace(headers={"retry-after": str(ceil(refusal.retry_after_s))})

    def failure(self, status: int) -> Error:
        """Anthropic's error, or the proxy's page."""
        if status in FROM_PROXIES and status not in _KINDS:
            return Error(status, proxy_page(status))
        return _error(status, _WORDS.get(status, f"Simulated failure with status {status}."))


def _error(status: int, message: str) -> Error:
    error = {"type": _KINDS.get(status, "api_error"), "message": message}
    return Error(status, orjson.dumps({"type": "error", "error": error, "request_id": "req_simulated"}))


def _messages(payload: dict[str, Any]) -> tuple[Message, ...]:
    given = payload.get("messages")
    if not isinstance(given, list) or not given:
        raise BadRequest("messages: at least one message is required", param="messages")
    read: list[Message] = []
    if system := _text(payload.get("system", ""), where="system"):
        read.append(("system", system))
    calls = OpenCalls("messages")
    for place, each in enumerate(given):
        if not isinstance(each, dict) or each.get("role") not in ("user", "assistant"):
            role = each.get("role") if isinstance(each, dict) else None
            raise BadRequest(f'messages.{place}: Unexpected role "{role}"', param=f"messages.{place}.role")
        text = _text(each.get("content"), where=f"messages.{place}")
        if not text and not isinstance(each.get("content"), list):
            raise BadRequest(f"messages.{place}: content must be non-empty", param=f"messages.{place}.content")
        _follow(calls, each.get("content"))
        read.append((each["role"], text))
    calls.check()
    return tuple(read)


def _follow(calls: OpenCalls, content: Any) -> None:
    """Results come before anything else in the turn after their calls."""
    blocks = content if isinstance(content, list) else []
    for block in blocks:
        if block.get("type") == "tool_result":
            calls.answered(block.get("tool_use_id"))
    calls.check()
    for block in blocks:
        if block.get("type") == "tool_use":
            calls.made(block.get("id"))


def _images(messages: Any) -> Iterator[bytes]:
    for part in parts_of(messages):
        match part:
            case {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}:
                yield inline_image(data, kind, param="messages.content.image.source")
            case {"type": "image", "source": {"type": "url", "url": str(url)}} if url.startswith("https://"):
                yield linked_key(url)
            case {"type": "image"}:
                raise BadRequest("messages.content.image.source: expected a base64 or url source")


def _text(content: Any, *, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise BadRequest(f"{where}: Input should be a valid string or a list of blocks", param=where)
    texts = [block.get("text") for block in content if block.get("type") == "text"]
    if not all(isinstance(text, str) and text for text in texts):
        raise BadRequest(f"{where}: text content blocks must be non-empty", param=where)
    return "\n".join(map(str, texts))


def _check(model: str, payload: dict[str, Any], thinking: dict[str, Any], max_tokens: int) -> None:
    """Refuse what the model refuses."""
    claude = claude_of(model)
    sampling = [name for name in ("temperature", "top_p") if payload.get(name) is not None]
    if payload["messages"][-1].get("role") == "assistant" and claude is not None and claude.adaptive:
        raise BadRequest("This model does not support assistant message prefill.", param="messages")
    if not isinstance(heat := payload.get("temperature", 1), (int, float)) or not 0 <= heat <= 1:
        raise BadRequest("temperature: range: 0..1", param="temperature")
    if claude is not None and sampling and claude.samples == "none":
        raise BadRequest(f"`{sampling[0]}` is deprecated for this model.", param=sampling[0])
    if claude is not None and len(sampling) == 2 and claude.samples == "one":
        raise BadRequest("`temperature` and `top_p` cannot both be specified for this model.", param="top_p")
    if thinking.get("type") == "enabled":
        budget = thinking.get("budget_tokens")
        if claude is not None and not claude.budget:
            raise BadRequest('"thinking.type.enabled" is not supported for this model.', param="thinking.type")
        if type(budget) is not int or budget < _LEAST_BUDGET:
            raise BadRequest(f"thinking.enabled.budget_tokens: Input should be at least {_LEAST_BUDGET}")
        if max_tokens <= budget:
            raise BadRequest("`max_tokens` must be greater than `thinking.budget_tokens`.", param="max_tokens")
    if thinking.get("type") == "disabled" and claude is not None and claude.thinks == "always":
        raise BadRequest('"thinking.type.disabled" is not supported for this model.', param="thinking.type")


def _schema(model: str, payload: dict[str, Any]) -> Mapping[str, Any] | None:
    """The schema in `output_config.format`, or in the older `output_format`."""
    config = payload.get("output_config") or {}
    form = config.get("format") or payload.get("output_format") or {}
    claude = claude_of(model)
    if form and claude is not None and claude.schema_on == "none":
        raise BadRequest("output_config.format: not supported for this model", param="output_config.format")
    return checked(form.get("schema"), ANTHROPIC, param="output_config.format.schema")


def _thinks(model: str, thinking: dict[str, Any]) -> bool | None:
    if thinking:
        return thinking.get("type") != "disabled"
    claude = claude_of(model)
    return None if claude is None else claude.thinks != "when asked"


def _shows(model: str, thinking: dict[str, Any]) -> bool:
    claude = claude_of(model)
    return claude is None or claude.shows != "nothing" or thinking.get("display") == "summarized"


def _tools(payload: dict[str, Any], choice: dict[str, Any]) -> tuple[Tool, ...]:
    last = payload["messages"][-1].get("content")
    answered = isinstance(last, list) and any(block.get("type") == "tool_result" for block in last)
    if answered or choice.get("type") == "none":
        return ()
    found = []
    for place, each in enumerate(payload.get("tools") or ()):
        match each:
            case {"name": str(name), "input_schema": dict(schema)}:
                found.append(Tool(name, schema))
            case _:
                raise BadRequest(f"tools.{place}: a name and an input_schema are required", param=f"tools.{place}")
    return tuple(tool for tool in found if choice.get("name") in (None, tool.name))


def _blocks(answer: Answer, spoken: Spoken) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if (thought := answer.reasoning) is not None:
        signature = base64.b64encode(blake2b(thought.encode(), digest_size=48).digest()).decode()
        shown = thought if spoken.asked.shows_reasoning else ""
        blocks.append({"type": "thinking", "thinking": shown, "signature": signature})
    if answer.content:
        blocks.append({"type": "text", "text": answer.content})
    if answer.call is not None:
        call = answer.call
        blocks.append(
            {"type": "tool_use", "id": f"toolu_{spoken.serial}", "name": call.name, "input": dict(call.arguments)}
        )
    return blocks


def _pieces(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The block as its start event shows it, and its deltas."""
    match block:
        case {"type": "text", "text": text}:
            return {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in _cut(text)]
        case {"type": "thinking", "thinking": thought, "signature": signature}:
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in _cut(thought)]
            start = {"type": "thinking", "thinking": "", "signature": ""}
            return start, [*deltas, {"type": "signature_delta", "signature": signature}]
        case _:
            text = orjson.dumps(block["input"]).decode()
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *_cut(text))]
            return block | {"input": {}}, deltas


def _cut(text: str) -> list[str]:
    return [text[start : start + _PIECE_CHARS] for start in range(0, len(text), _PIECE_CHARS)]


def _marked(system: Any) -> int:
    """Tokens of the system prompt up to its last cache mark."""
    blocks = [block for block in system if isinstance(block, dict)] if isinstance(system, list) else []
    marks = [place for place, block in enumerate(blocks, 1) if block.get("cache_control")]
    tokens = sum(count_tokens(str(block.get("text", ""))) for block in blocks[: max(marks, default=0)])
    return tokens if tokens >= _LEAST_CACHED else 0


def _usage(spoken: Spoken) -> dict[str, Any]:
    """The first request writes to the cache, and later ones read from it."""
    (answer,) = spoken.answers
    marked = spoken.asked.marked_tokens
    written, read = (0, marked) if spoken.serial else (marked, 0)
    return {
        "input_tokens": spoken.asked.prompt_tokens - marked,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": answer.completion_tokens,
        "output_tokens_details": {"thinking_tokens": answer.reasoning_tokens},
        "service_tier": "standard",
    }
