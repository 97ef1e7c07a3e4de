"""The OpenAI chat protocol: a request's body as a value, and answers as bodies.

What is accepted here and what comes back is what the official client sends and reads; what is not known is ignored, as
the provider does.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from stillhouse.gen.simulator.answers import Answer
from stillhouse.gen.simulator.texts import CHARS_PER_TOKEN, count_tokens
from stillhouse.schemas.prompt import Message, prompt_key

_FINGERPRINT = "fp_simulator"
_PIECE_CHARS = 64 * CHARS_PER_TOKEN
_OTHER_TOKENS = [f" {letter}" for letter in "abcdefghijklmnopqrs"]


class BadRequest(ValueError):
    """A body that the provider would answer with 400; `param` is the field at fault."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What of a request decides the answer."""

    model: str
    message: str
    """The text of the last user message, or of the last of any role."""
    prompt: bytes
    """The prompt key of the messages, as in the records of a dataset; of content parts only texts count."""
    prompt_tokens: int
    n: int
    max_tokens: int | None
    top_logprobs: int | None
    """null: no log-probabilities."""
    stream: bool
    include_usage: bool


def parse(body: bytes) -> ChatRequest:
    """The request in a body.

    Raises:
        BadRequest: no JSON object, or a field of the wrong type or out of range.
    """
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
    max_tokens = _integer(payload, "max_completion_tokens", least=1, most=None)
    if max_tokens is None:
        max_tokens = _integer(payload, "max_tokens", least=1, most=None)
    n = _integer(payload, "n", least=1, most=128)
    options = payload.get("stream_options")
    return ChatRequest(
        model=model,
        message=next((text for role, text in reversed(messages) if role == "user"), messages[-1][1]),
        prompt=prompt_key(messages),
        prompt_tokens=sum([count_tokens(text) for _, text in messages]),
        n=1 if n is None else n,
        max_tokens=max_tokens,
        top_logprobs=_top_logprobs(payload),
        stream=payload.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _read_messages(messages: Any) -> tuple[Message, ...]:
    if not isinstance(messages, list) or not messages:
        raise BadRequest("'messages' must be a list of at least one message.", param="messages")
    read: list[Message] = []
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(role := message.get("role"), str):
            raise BadRequest("A message must be an object with a role.", param=f"messages[{place}]")
        read.append((role, _text(message.get("content"), place=place)))
    return tuple(read)


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


def _integer(payload: dict[str, Any], name: str, *, least: int, most: int | None) -> int | None:
    value = payload.get(name)
    if value is None:
        return None
    if type(value) is not int or value < least or (most is not None and value > most):
        expected = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"
        raise BadRequest(f"Invalid value for '{name}': expected {expected}, but got {str(value)[:40]}.", param=name)
    return value


def _top_logprobs(payload: dict[str, Any]) -> int | None:
    top = _integer(payload, "top_logprobs", least=0, most=20)
    if payload.get("logprobs") is True:
        return top or 0
    if top is not None:
        raise BadRequest("'logprobs' must be true where 'top_logprobs' is given.", param="top_logprobs")
    return None


def completion(
    request: ChatRequest, answers: list[Answer], *, serial: int, created: int, reasoning_field: str | None
) -> bytes:
    """The body of a completion that is not streamed; the id ends in the serial."""
    choices = []
    for index, answer in enumerate(answers):
        message = {"role": "assistant", "content": answer.content, "refusal": None}
        if reasoning_field and answer.reasoning is not None:
            message[reasoning_field] = answer.reasoning
        choices.append(
            {
                "index": index,
                "message": message,
                "logprobs": _logprobs(answer.content, request.top_logprobs),
                "finish_reason": answer.finish_reason,
            }
        )
    return orjson.dumps(
        {
            "id": f"chatcmpl-{serial}",
            "object": "chat.completion",
            "created": created,
            "model": request.model,
            "choices": choices,
            "usage": _usage(request, answers),
            "system_fingerprint": _FINGERPRINT,
        }
    )


def event_stream(
    request: ChatRequest, answers: list[Answer], *, serial: int, created: int, reasoning_field: str | None
) -> list[bytes]:
    """The same completion as server-sent events, `[DONE]` the last."""
    frame = {
        "id": f"chatcmpl-{serial}",
        "object": "chat.completion.chunk",
        "created": created,
        "model": request.model,
        "system_fingerprint": _FINGERPRINT,
    }
    if request.include_usage:
        frame["usage"] = None
    events = [
        frame | {"choices": [choice]}
        for index, answer in enumerate(answers)
        for choice in _deltas(answer, index=index, top=request.top_logprobs, reasoning_field=reasoning_field)
    ]
    if request.include_usage:
        events.append(frame | {"choices": [], "usage": _usage(request, answers)})
    return [b"data: %b\n\n" % orjson.dumps(event) for event in events] + [b"data: [DONE]\n\n"]


def _deltas(answer: Answer, *, index: int, top: int | None, reasoning_field: str | None) -> list[dict[str, Any]]:
    deltas: list[tuple[dict[str, Any], str]] = [({"role": "assistant", "content": "", "refusal": None}, "")]
    if reasoning_field and answer.reasoning:
        deltas.append(({reasoning_field: answer.reasoning}, ""))
    for start in range(0, len(answer.content), _PIECE_CHARS):
        piece = answer.content[start : start + _PIECE_CHARS]
        deltas.append(({"content": piece}, piece))
    choices = [
        {"index": index, "delta": delta, "logprobs": _logprobs(text, top if text else None), "finish_reason": None}
        for delta, text in deltas
    ]
    return [*choices, {"index": index, "delta": {}, "logprobs": None, "finish_reason": answer.finish_reason}]


def _usage(request: ChatRequest, answers: list[Answer]) -> dict[str, Any]:
    completion_tokens = sum(answer.completion_tokens for answer in answers)
    return {
        "prompt_tokens": request.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": request.prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": sum(answer.reasoning_tokens for answer in answers)},
    }


def _logprobs(text: str, top: int | None) -> dict[str, Any] | None:
    """Log-probabilities of a text's tokens, each the likeliest of its place and drawn from its own characters."""
    if top is None:
        return None
    tokens = [text[start : start + CHARS_PER_TOKEN] for start in range(0, len(text), CHARS_PER_TOKEN)]
    content = []
    for token in tokens:
        logprob = -0.001 * (1 + sum(map(ord, token)) % 400)
        others = [(other, logprob - 1.5 - 0.25 * rank) for rank, other in enumerate(_OTHER_TOKENS[: max(0, top - 1)])]
        entries = [_entry(*each) for each in [(token, logprob), *others][:top]]
        content.append(_entry(token, logprob) | {"top_logprobs": entries})
    return {"content": content, "refusal": None}


def _entry(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def models(model: str) -> bytes:
    """The body of `GET /v1/models`."""
    entry = {"id": model, "object": "model", "created": 0, "owned_by": "simulator"}
    return orjson.dumps({"object": "list", "data": [entry]})
