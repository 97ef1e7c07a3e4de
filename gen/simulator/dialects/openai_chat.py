"""OpenAI's chat completions."""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

import orjson

from stillhouse.gen.simulator.answers import Answer
from stillhouse.gen.simulator.dialects.base import Asked, BadRequest, Error, Spoken
from stillhouse.gen.simulator.dialects.images import image_at
from stillhouse.gen.simulator.dialects.messages import OpenCalls, asked_prompt, parts_of
from stillhouse.gen.simulator.dialects.schemas import openai_schema
from stillhouse.gen.simulator.faults import FROM_PROXIES, proxy_page
from stillhouse.gen.simulator.limits import Level, Refusal, Resource, go_duration
from stillhouse.gen.simulator.texts import CHARS_PER_TOKEN
from stillhouse.gen.simulator.tools import Tool
from stillhouse.gen.simulator.wire import EVENT_STREAM, Request
from stillhouse.schemas.prompt import Message

_PATHS = frozenset({"/v1/chat/completions", "/chat/completions"})
_ERRORS = {
    400: ("Invalid request.", "invalid_request_error", None),
    401: ("Incorrect API key provided: sk-sim*****lator.", "invalid_request_error", "invalid_api_key"),
    402: ("Insufficient balance.", "insufficient_quota", "insufficient_quota"),
    403: ("Project does not have access to this model.", "invalid_request_error", "model_not_found"),
    404: ("The model does not exist or you do not have access to it.", "invalid_request_error", "model_not_found"),
    408: ("Request timed out.", "timeout_error", None),
    429: ("Rate limit reached on requests per min (RPM). Please try again in 1s.", "requests", "rate_limit_exceeded"),
    500: ("The server had an error while processing your request. Sorry about that!", "server_error", None),
    503: ("The engine is currently overloaded, please try again later.", "server_error", "server_is_overloaded"),
    529: ("Overloaded", "overloaded_error", None),
}
"""Status to (message, type, code)."""
_LIMITS: dict[Resource, str] = {
    "requests": "requests",
    "total": "tokens",
    "input": "tokens-prompt",
    "output": "tokens-generated",
}
"""Endings of the headers: OpenAI's, and Fireworks' separate ones for input and output tokens."""

_FINGERPRINT = "fp_simulator"
_PIECE_CHARS = 64 * CHARS_PER_TOKEN
_OTHER_TOKENS = [f" {letter}" for letter in "abcdefghijklmnopqrs"]


class OpenAIChat:
    """POST /v1/chat/completions."""

    stream_type = EVENT_STREAM

    def takes(self, path: str) -> bool:
        """True for a path of this API, with or without the version."""
        return path in _PATHS

    def response_id(self, serial: int) -> str:
        """An id with OpenAI's prefix."""
        return f"chatcmpl-{serial}"

    def headers(self, serial: int, levels: Sequence[Level], *, now: float) -> dict[str, str]:
        """The request's id and the `x-ratelimit-…` headers."""
        found = {"x-request-id": f"req_{serial}"}
        for level in levels:
            ending = _LIMITS[level.resource]
            found[f"x-ratelimit-limit-{ending}"] = str(level.per_minute)
            found[f"x-ratelimit-remaining-{ending}"] = str(level.left)
            found[f"x-ratelimit-reset-{ending}"] = go_duration(level.full_in_s)
        return found

    def unauthorized(self, request: Request, key: str, *, now: float) -> Error | None:
        """A bearer key."""
        shown = request.headers.get(b"authorization", b"").decode("latin-1")
        if shown == f"Bearer {key}":
            return None
        shown = shown.removeprefix("Bearer ")
        if not shown:
            return Error(401, error_body("You didn't provide an API key.", code=None))
        message = f"Incorrect API key provided: {shown[:5]}{'*' * 8}{shown[-4:]}."
        return Error(401, error_body(message, code="invalid_api_key"))

    def parse(self, request: Request) -> Asked:
        """Parse the request."""
        return _parse(request.body)

    def answer(self, spoken: Spoken) -> bytes:
        """A chat completion."""
        asked, answers, field, serial, created = spoken
        choices = []
        for index, answer in enumerate(answers):
            message = {"role": "assistant", "content": answer.content, "refusal": None}
            if field and answer.reasoning is not None:
                message[field] = answer.reasoning
            message |= _calls(answer, serial=serial)
            logprobs = logprobs_of(answer.content, asked.top_logprobs, by_id=asked.token_ids)
            choices.append(
                {"index": index, "message": message, "logprobs": logprobs, "finish_reason": answer.finish_reason}
            )
        return orjson.dumps(
            {
                "id": self.response_id(serial),
                "object": "chat.completion",
                "created": created,
                "model": asked.model,
                "choices": choices,
                "usage": _usage(asked, answers),
                "system_fingerprint": _FINGERPRINT,
            }
        )

    def stream(self, spoken: Spoken) -> list[bytes]:
        """Server-sent events, with `[DONE]` last."""
        asked, answers, field, serial, created = spoken
        frame = {
            "id": self.response_id(serial),
            "object": "chat.completion.chunk",
            "created": created,
            "model": asked.model,
            "system_fingerprint": _FINGERPRINT,
        }
        if asked.include_usage:
            frame["usage"] = None
        events = [
            frame | {"choices": [choice]}
            for index, answer in enumerate(answers)
            for choice in _deltas(answer, asked, index=index, field=field, serial=serial)
        ]
        if asked.include_usage:
            events.append(frame | {"choices": [], "usage": _usage(asked, answers)})
        return [b"data: %b\n\n" % orjson.dumps(event) for event in events] + [b"data: [DONE]\n\n"]

    def bad_request(self, error: BadRequest) -> Error:
        """A 400 with the name of the parameter."""
        return Error(400, error_body(str(error), param=error.param, code=None))

    def limited(self, refusal: Refusal) -> Error:
        """A 429 with the wait in two headers."""
        millis = ceil(refusal.retry_after_s * 1000)
        headers = {"retry-after": str(ceil(millis / 1000)), "retry-after-ms": str(millis)}
        return Error(429, error_body(refusal.message, kind=refusal.kind, code="rate_limit_exceeded"), headers)

    def failure(self, status: int) -> Error:
        """OpenAI's error, or the proxy's page."""
        if status in FROM_PROXIES:
            return Error(status, proxy_page(status))
        message, kind, code = _ERRORS.get(status, (f"Simulated failure with status {status}.", "api_error", None))
        return Error(status, error_body(message, kind=kind, code=code))


def error_body(
    message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None
) -> bytes:
    """The error object as JSON."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def _parse(body: bytes) -> Asked:
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadRequest("We could not parse the JSON body of your request.") from None
    if not isinstance(payload, dict):
        raise BadRequest("The body of the request must be a JSON object.")
    model = payload.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("You must provide a model parameter.", param="model")
    messages = _read_messages(payload.get("messages"))
    max_tokens = integer(payload, "max_completion_tokens", least=1, most=None)
    if max_tokens is None:
        max_tokens = integer(payload, "max_tokens", least=1, most=None)
    n = integer(payload, "n", least=1, most=128)
    options = payload.get("stream_options")
    prompt = asked_prompt(messages, _images(payload["messages"]))
    may_call = messages[-1][0] != "tool" and payload.get("tool_choice") != "none"
    return Asked(
        model=model,
        message=prompt.message,
        prompt=prompt.prompt,
        prompt_tokens=prompt.tokens,
        images=prompt.images,
        n=1 if n is None else n,
        max_tokens=max_tokens,
        seed=integer(payload, "seed", least=-(2**63), most=2**63 - 1),
        top_logprobs=_top_logprobs(payload),
        token_ids=payload.get("return_tokens_as_token_ids") is True,
        tools=tools_in(payload.get("tools")) if may_call else (),
        must_call=payload.get("tool_choice") == "required" or isinstance(payload.get("tool_choice"), dict),
        schema=_schema(payload.get("response_format")),
        stream=payload.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _schema(form: Any) -> Mapping[str, Any] | None:
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        return None
    return openai_schema(form.get("json_schema") or {}, param="response_format.json_schema")


def _read_messages(messages: Any) -> tuple[Message, ...]:
    if not isinstance(messages, list) or not messages:
        raise BadRequest("'messages' must be a list of at least one message.", param="messages")
    read: list[Message] = []
    calls = OpenCalls("messages")
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(role := message.get("role"), str):
            raise BadRequest("A message must be an object with a role.", param=f"messages[{place}]")
        if role == "tool":
            calls.answered(message.get("tool_call_id"))
        else:
            calls.check()
        for call in message.get("tool_calls") or ():
            calls.made(call.get("id"))
        read.append((role, _text(message.get("content"), place=place)))
    calls.check()
    return tuple(read)


def _images(messages: Any) -> Iterator[bytes]:
    for part in parts_of(messages):
        if part.get("type") == "image_url":
            yield image_at(part["image_url"].get("url"), param="messages.content.image_url")


def _text(content: Any, *, place: int) -> str:
    match content:
        case str():
            return content
        case None:
            return ""
        case list() if all(isinstance(part, dict) for part in content):
            return "\n".join(part["text"] for part in content if isinstance(part.get("text"), str))
        case _:
            param = f"messages[{place}].content"
            raise BadRequest("A message's content must be a text or a list of parts.", param=param)


def integer(payload: dict[str, Any], name: str, *, least: int, most: int | None) -> int | None:
    """The number in this field; None if there is none."""
    value = payload.get(name)
    if value is None:
        return None
    if type(value) is not int or value < least or (most is not None and value > most):
        expected = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"
        raise BadRequest(f"Invalid value for '{name}': expected {expected}, but got {str(value)[:40]}.", param=name)
    return value


def _top_logprobs(payload: dict[str, Any]) -> int | None:
    top = integer(payload, "top_logprobs", least=0, most=20)
    if payload.get("logprobs") is True:
        return top or 0
    if top is not None:
        raise BadRequest("'logprobs' must be true where 'top_logprobs' is given.", param="top_logprobs")
    return None


def tools_in(given: Any) -> tuple[Tool, ...]:
    """The offered functions, in the form of chat completions or, one level higher, of Responses."""
    found = []
    for place, each in enumerate(given if isinstance(given, list) else []):
        match each:
            case {"function": {"name": str(name), **function}} | {"type": "function", "name": str(name), **function}:
                schema = function.get("parameters")
                found.append(Tool(name, schema if isinstance(schema, dict) else {}))
            case _:
                raise BadRequest("A tool must be a function with a name.", param=f"tools[{place}]")
    return tuple(found)


def _calls(answer: Answer, *, serial: int) -> dict[str, Any]:
    if answer.call is None:
        return {}
    function = {"name": answer.call.name, "arguments": answer.call.text}
    return {"content": None, "tool_calls": [{"id": f"call_{serial}", "type": "function", "function": function}]}


def _deltas(answer: Answer, asked: Asked, *, index: int, field: str | None, serial: int) -> list[dict[str, Any]]:
    deltas: list[tuple[dict[str, Any], str]] = [({"role": "assistant", "content": "", "refusal": None}, "")]
    if field and answer.reasoning:
        deltas.append(({field: answer.reasoning}, ""))
    if calls := _calls(answer, serial=serial):
        deltas.append(({"tool_calls": [{"index": 0} | calls["tool_calls"][0]]}, ""))
    for start in range(0, len(answer.content), _PIECE_CHARS):
        piece = answer.content[start : start + _PIECE_CHARS]
        deltas.append(({"content": piece}, piece))
    choices = []
    for delta, text in deltas:
        scores = logprobs_of(text, asked.top_logprobs if text else None, by_id=asked.token_ids)
        choices.append({"index": index, "delta": delta, "logprobs": scores, "finish_reason": None})
    return [*choices, {"index": index, "delta": {}, "logprobs": None, "finish_reason": answer.finish_reason}]


def _usage(asked: Asked, answers: Sequence[Answer]) -> dict[str, Any]:
    completion_tokens = sum(answer.completion_tokens for answer in answers)
    return {
        "prompt_tokens": asked.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": asked.prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": sum(answer.reasoning_tokens for answer in answers)},
    }


def logprobs_of(text: str, top: int | None, *, by_id: bool = False) -> dict[str, Any] | None:
    """Log-probabilities of a text's tokens, each the most likely at its position and drawn from its own characters.

    `by_id`: tokens are written `token_id:N`, as vLLM does on request.
    """
    if top is None:
        return None
    tokens = [text[start : start + CHARS_PER_TOKEN] for start in range(0, len(text), CHARS_PER_TOKEN)]
    content = []
    for token in tokens:
        logprob = -0.001 * (1 + sum(map(ord, token)) % 400)
        others = [(other, logprob - 1.5 - 0.25 * rank) for rank, other in enumerate(_OTHER_TOKENS[: max(0, top - 1)])]
        entries = [_entry(*each, by_id=by_id) for each in [(token, logprob), *others][:top]]
        content.append(_entry(token, logprob, by_id=by_id) | {"top_logprobs": entries})
    return {"content": content, "refusal": None}


def _entry(token: str, logprob: float, *, by_id: bool) -> dict[str, Any]:
    spelt = f"token_id:{token_id_of(token)}" if by_id else token
    return {"token": spelt, "logprob": logprob, "bytes": list(spelt.encode())}


def token_id_of(token: str) -> int:
    """An id that is drawn from its characters."""
    return int.from_bytes(token.encode()[:2], "big") + len(token)


def models(model: str) -> bytes:
    """The body of `GET /v1/models`."""
    entry = {"id": model, "object": "model", "created": 0, "owned_by": "simulator"}
    return orjson.dumps({"object": "list", "data": [entry]})
