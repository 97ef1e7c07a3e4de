"""OpenAI's Responses: its errors, limits and keys are those of chat completions."""

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from stillhouse.gen.simulator.answers import Answer
from stillhouse.gen.simulator.dialects.base import Asked, BadRequest, Spoken
from stillhouse.gen.simulator.dialects.images import image_at
from stillhouse.gen.simulator.dialects.messages import OpenCalls, asked_prompt, parts_of
from stillhouse.gen.simulator.dialects.openai_chat import OpenAIChat, integer, logprobs_of, tools_in
from stillhouse.gen.simulator.dialects.schemas import openai_schema
from stillhouse.gen.simulator.texts import CHARS_PER_TOKEN
from stillhouse.gen.simulator.wire import Request
from stillhouse.schemas.prompt import Message

_PATHS = frozenset({"/v1/responses", "/responses", "/openai/v1/responses"})
_UNKNOWN = (
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "seed",
    "stop",
    "logprobs",
    "reasoning_effort",
    "response_format",
)
"""Fields of chat completions that this API refuses."""
_LOGPROBS = "message.output_text.logprobs"
_PIECE_CHARS = 64 * CHARS_PER_TOKEN


class OpenAIResponses(OpenAIChat):
    """POST /v1/responses."""

    def takes(self, path: str) -> bool:
        """True for a path of this API, with or without the version."""
        return path in _PATHS

    def response_id(self, serial: int) -> str:
        """An id with OpenAI's prefix."""
        return f"resp_{serial}"

    def parse(self, request: Request) -> Asked:
        """Parse the request."""
        try:
            payload = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            raise BadRequest("We could not parse the JSON body of your request.") from None
        if not isinstance(payload, dict):
            raise BadRequest("The body of the request must be a JSON object.")
        for name in _UNKNOWN:
            if name in payload:
                raise BadRequest(f"Unknown parameter: '{name}'.", param=name)
        return _asked(payload)

    def answer(self, spoken: Spoken) -> bytes:
        """A response that is complete, or incomplete if its tokens ran out."""
        return orjson.dumps(_response(self.response_id(spoken.serial), spoken, items=_items(spoken)))

    def stream(self, spoken: Spoken) -> list[bytes]:
        """Typed events with their numbers; the last one contains the whole response."""
        return [
            b"event: %b\ndata: %b\n\n"
            % (kind.encode(), orjson.dumps({"type": kind, "sequence_number": number} | event))
            for number, (kind, event) in enumerate(_events(self.response_id(spoken.serial), spoken))
        ]


def _asked(payload: dict[str, Any]) -> Asked:
    model = payload.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("You must provide a model parameter.", param="model")
    messages, last = _read_input(payload.get("input"))
    if isinstance(instructions := payload.get("instructions"), str):
        messages.insert(0, ("system", instructions))
    prompt = asked_prompt(tuple(messages), _images(payload["input"]))
    reasoning = payload.get("reasoning")
    reasoning = reasoning if isinstance(reasoning, dict) else {}
    choice, effort = payload.get("tool_choice"), reasoning.get("effort")
    may_call = last != "function_call_output" and choice != "none"
    return Asked(
        model=model,
        message=prompt.message,
        prompt=prompt.prompt,
        prompt_tokens=prompt.tokens,
        images=prompt.images,
        max_tokens=integer(payload, "max_output_tokens", least=16, most=None),
        top_logprobs=_top_logprobs(payload, reasons=effort not in (None, "none")),
        tools=tools_in(payload.get("tools")) if may_call else (),
        must_call=choice == "required" or isinstance(choice, dict),
        thinks=None if effort is None else effort != "none",
        schema=_schema(payload.get("text")),
        stream=payload.get("stream") is True,
        shows_reasoning=reasoning.get("summary") is not None,
    )


def _schema(text: Any) -> Mapping[str, Any] | None:
    form = text.get("format") if isinstance(text, dict) else None
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        return None
    return openai_schema(form, param="text.format")


def _read_input(given: Any) -> tuple[list[Message], str]:
    """(its messages, the type of its last item); calls and their outputs count as messages of their texts."""
    if isinstance(given, str):
        return [("user", given)], "message"
    if not isinstance(given, list) or not given:
        raise BadRequest("Missing required parameter: 'input'.", param="input")
    messages: list[Message] = []
    kind = "message"
    calls = OpenCalls("input")
    for place, item in enumerate(given):
        match item:
            case {"type": "reasoning" as kind}:
                pass
            case {"type": "function_call" as kind, "name": str(name), "arguments": str(arguments)}:
                calls.made(item.get("call_id"))
                messages.append(("assistant", f"{name}{arguments}"))
            case {"type": "function_call_output" as kind, "output": output}:
                calls.answered(item.get("call_id"))
                messages.append(("tool", _text(output, place=place)))
            case {"role": str(role), "content": content}:
                kind = "message"
                messages.append((role, _text(content, place=place)))
            case _:
                raise BadRequest(f"Invalid value: 'input[{place}]'.", param=f"input[{place}]")
    calls.check()
    if not messages:
        raise BadRequest("The input holds no message.", param="input")
    return messages, kind


def _images(given: Any) -> Iterator[bytes]:
    for part in parts_of(given):
        if part.get("type") == "input_image":
            yield image_at(part.get("image_url"), param="input.content.image_url")


def _text(content: Any, *, place: int) -> str:
    match content:
        case str():
            return content
        case list() if all(isinstance(part, dict) for part in content):
            return "\n".join(part["text"] for part in content if isinstance(part.get("text"), str))
        case _:
            raise BadRequest("Content must be a text or a list of parts.", param=f"input[{place}].content")


def _top_logprobs(payload: dict[str, Any], *, reasons: bool) -> int | None:
    top = integer(payload, "top_logprobs", least=0, most=20)
    include = payload.get("include")
    wanted = isinstance(include, list) and _LOGPROBS in include
    if reasons and (wanted or top):
        raise BadRequest("logprobs are not supported with reasoning models.", param="include")
    return (top or 0) if wanted else None


def _response(response_id: str, spoken: Spoken, *, items: list[dict[str, Any]]) -> dict[str, Any]:
    asked, answer = spoken.asked, spoken.answers[0]
    cut = answer.finish_reason == "length"
    return {
        "id": response_id,
        "object": "response",
        "created_at": spoken.created,
        "status": "incomplete" if cut else "completed",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": None,
        "max_output_tokens": asked.max_tokens,
        "model": asked.model,
        "output": items,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": asked.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": answer.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
            "total_tokens": asked.prompt_tokens + answer.completion_tokens,
        },
        "metadata": {},
    }


def _items(spoken: Spoken) -> list[dict[str, Any]]:
    answer, serial = spoken.answers[0], spoken.serial
    items: list[dict[str, Any]] = []
    if answer.reasoning is not None:
        items.append(_reasoning(answer.reasoning, serial=serial, shown=spoken.asked.shows_reasoning))
    if answer.call is not None:
        call = {"call_id": f"call_{serial}", "name": answer.call.name, "arguments": answer.call.text}
        items.append({"id": f"fc_{serial}", "type": "function_call", "status": "completed"} | call)
    elif answer.content or answer.finish_reason == "stop":
        items.append(_message(answer, serial=serial, top=spoken.asked.top_logprobs))
    return items


def _reasoning(text: str, *, serial: int, shown: bool) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": text}] if shown else []
    sealed = base64.b64encode(text.encode()).decode()
    return {"id": f"rs_{serial}", "type": "reasoning", "summary": summary, "encrypted_content": sealed}


def _message(answer: Answer, *, serial: int, top: int | None) -> dict[str, Any]:
    scores = logprobs_of(answer.content, top)
    part = {"type": "output_text", "text": answer.content, "annotations": []}
    part["logprobs"] = scores["content"] if scores else []
    message = {"id": f"msg_{serial}", "type": "message", "role": "assistant", "content": [part]}
    return message | {"status": "incomplete" if answer.finish_reason == "length" else "completed"}


def _events(response_id: str, spoken: Spoken) -> Iterator[tuple[str, dict[str, Any]]]:
    items = _items(spoken)
    whole = _response(response_id, spoken, items=items)
    begun = whole | {"status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    for index, item in enumerate(items):
        place = {"output_index": index, "item_id": item["id"]}
        empty: dict[str, Any] = {
            "reasoning": {"summary": []},
            "message": {"content": []},
            "function_call": {"arguments": ""},
        }
        yield "response.output_item.added", {"output_index": index, "item": item | empty[item["type"]]}
        yield from _DELTAS[item["type"]](item, place)
        yield "response.output_item.done", {"output_index": index, "item": item}
    yield f"response.{whole['status']}", {"response": whole}


def _reasoning_deltas(item: dict[str, Any], place: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, part in enumerate(item["summary"]):
        at = place | {"summary_index": number}
        yield "response.reasoning_summary_part.added", at | {"part": part | {"text": ""}}
        for piece in _pieces(part["text"]):
            yield "response.reasoning_summary_text.delta", at | {"delta": piece}
        yield "response.reasoning_summary_text.done", at | {"text": part["text"]}
        yield "response.reasoning_summary_part.done", at | {"part": part}


def _message_deltas(item: dict[str, Any], place: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, part in enumerate(item["content"]):
        at = place | {"content_index": number}
        yield "response.content_part.added", at | {"part": part | {"text": "", "logprobs": []}}
        for piece in _pieces(part["text"]):
            yield "response.output_text.delta", at | {"delta": piece, "logprobs": []}
        yield "response.output_text.done", at | {"text": part["text"], "logprobs": part["logprobs"]}
        yield "response.content_part.done", at | {"part": part}


def _call_deltas(item: dict[str, Any], place: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for piece in _pieces(item["arguments"]):
        yield "response.function_call_arguments.delta", place | {"delta": piece}
    yield "response.function_call_arguments.done", place | {"arguments": item["arguments"], "name": item["name"]}


_DELTAS = {"reasoning": _reasoning_deltas, "message": _message_deltas, "function_call": _call_deltas}


def _pieces(text: str) -> list[str]:
    return [text[start : start + _PIECE_CHARS] for start in range(0, len(text), _PIECE_CHARS)]
