"""Bedrock's Converse API, with its signatures and its event stream.

The simulator's `api_key` is `id:secret` of the AWS key that signs; one without a colon is a Bedrock key.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote

import orjson

from stillhouse.gen.simulator.answers import Answer
from stillhouse.gen.simulator.dialects.base import Asked, BadRequest, Error, Spoken
from stillhouse.gen.simulator.dialects.event_stream import frame
from stillhouse.gen.simulator.dialects.images import inline_image
from stillhouse.gen.simulator.dialects.messages import OpenCalls, asked_prompt, integer, parts_of, payload_of
from stillhouse.gen.simulator.dialects.schemas import checked
from stillhouse.gen.simulator.dialects.sigv4 import fault_of
from stillhouse.gen.simulator.limits import Level, Refusal
from stillhouse.gen.simulator.texts import CHARS_PER_TOKEN, count_tokens
from stillhouse.gen.simulator.tools import Tool
from stillhouse.gen.simulator.wire import Request
from stillhouse.schemas.prompt import Message
from stillhouse.schemas.schema_dialects import BEDROCK

SERVICE = "bedrock"
_ENDS = ("/converse", "/converse-stream")
_PIECE_CHARS = 64 * CHARS_PER_TOKEN
_LEAST_CACHED = 1024
_FINISHES = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_ERRORS = {
    400: ("ValidationException", "The provided request is not valid"),
    403: ("AccessDeniedException", "You don't have access to the model with the specified model ID."),
    404: ("ResourceNotFoundException", "Could not resolve the foundation model from the provided model identifier."),
    408: ("ModelTimeoutException", "Model is timed out in streaming"),
    424: (
        "ModelErrorException",
        "The system encountered an unexpected error during processing. Try again.",
    ),
    429: ("ThrottlingException", "Too many requests, please wait before trying again."),
    500: ("InternalServerException", "The system encountered an unexpected error during processing."),
    503: ("ServiceUnavailableException", "Bedrock is unable to process your request."),
}
_SAMPLING = {"temperature": 1.0, "topP": 1.0}
"""Fields and their highest values."""


class Bedrock:
    """POST /model/{id}/converse and /model/{id}/converse-stream."""

    stream_type = "application/vnd.amazon.eventstream"

    def takes(self, path: str) -> bool:
        """The model's name is one part of the path."""
        return path.startswith("/model/") and path.endswith(_ENDS) and path.count("/") == 3

    def response_id(self, serial: int) -> str:
        """An id, which is sent only in a header."""
        return f"00000000-0000-4000-8000-{serial:012d}"

    def headers(self, serial: int, levels: Sequence[Level], *, now: float) -> dict[str, str]:
        """The request's id; limits are not reported."""
        return {"x-amzn-requestid": self.response_id(serial)}

    def unauthorized(self, request: Request, key: str, *, now: float) -> Error | None:
        """A signature, or a bearer key."""
        if ":" not in key:
            shown = request.headers.get(b"authorization", b"").decode("latin-1")
            wrong = "UnrecognizedClientException", "The security token included in the request is invalid."
            return None if shown == f"Bearer {key}" else _error(403, *wrong)
        service = "s3" if request.path.startswith("/s3/") else SERVICE
        fault = fault_of(request, key=key, service=service, now=now)
        return None if fault is None else _error(403, *fault)

    def parse(self, request: Request) -> Asked:
        """Parse the request."""
        payload = payload_of(request.body)
        limits = payload.get("inferenceConfig") or {}
        for name, most in _SAMPLING.items():
            value = limits.get(name, 0)
            if not isinstance(value, (int, float)) or not 0 <= value <= most:
                raise BadRequest(f"Value '{value}' at 'inferenceConfig.{name}' failed to satisfy constraint")
        messages, marked = _messages(payload)
        further = payload.get("additionalModelRequestFields") or {}
        thinking = further.get("thinking") or {}
        tools, must_call = _tools(payload)
        prompt = asked_prompt(messages, _images(payload["messages"]))
        return Asked(
            model=unquote(request.path.split("/")[2]),
            message=prompt.message,
            prompt=prompt.prompt,
            prompt_tokens=prompt.tokens,
            images=prompt.images,
            max_tokens=integer(limits, "maxTokens", least=1),
            tools=tools,
            must_call=must_call,
            thinks=thinking.get("type") != "disabled" if thinking else None,
            marked_tokens=marked,
            schema=_schema(payload.get("outputConfig") or {}),
            stream=request.path.endswith("-stream"),
        )

    def answer(self, spoken: Spoken) -> bytes:
        """A document without an id or a model."""
        (answer,) = spoken.answers
        content = _blocks(answer, spoken.serial)
        return orjson.dumps(
            {
                "output": {"message": {"role": "assistant", "content": content}},
                "stopReason": _FINISHES[answer.finish_reason],
                "usage": _usage(spoken),
                "metrics": {"latencyMs": 1},
            }
        )

    def stream(self, spoken: Spoken) -> list[bytes]:
        """Frames; only a tool's block has a start."""
        (answer,) = spoken.answers
        frames = [frame("messageStart", {"role": "assistant"})]
        for index, block in enumerate(_blocks(answer, spoken.serial)):
            if (call := block.get("toolUse")) is not None:
                start = {"toolUse": {"toolUseId": call["toolUseId"], "name": call["name"]}}
                frames.append(frame("contentBlockStart", {"start": start, "contentBlockIndex": index}))
            frames += [
                frame("contentBlockDelta", {"delta": delta, "contentBlockIndex": index}) for delta in _deltas(block)
            ]
            frames.append(frame("contentBlockStop", {"contentBlockIndex": index}))
        frames.append(frame("messageStop", {"stopReason": _FINISHES[answer.finish_reason]}))
        return [*frames, frame("metadata", {"usage": _usage(spoken), "metrics": {"latencyMs": 1}})]

    def bad_request(self, error: BadRequest) -> Error:
        """A 400 with Bedrock's ValidationException."""
        return _error(400, "ValidationException", str(error))

    def limited(self, refusal: Refusal) -> Error:
        """A 429 with Bedrock's ThrottlingException, which states no wait."""
        what = "tokens" if refusal.kind == "tokens" else "requests"
        return _error(429, "ThrottlingException", f"Too many {what}, please wait before trying again.")

    def failure(self, status: int) -> Error:
        """The exception of this status."""
        return _error(status, *_ERRORS.get(status, _ERRORS[500]))


def _error(status: int, name: str, message: str) -> Error:
    address = f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/"
    return Error(status, orjson.dumps({"message": message}), {"x-amzn-errortype": address})


def _schema(config: dict[str, Any]) -> Mapping[str, Any] | None:
    """The schema, which is text that contains JSON."""
    form = config.get("textFormat") or {}
    text = ((form.get("structure") or {}).get("jsonSchema") or {}).get("schema")
    if text is None:
        return None
    try:
        schema = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadRequest("The schema in outputConfig.textFormat is not valid JSON.") from None
    return checked(schema, BEDROCK, param="outputConfig.textFormat.structure.jsonSchema.schema")


def _messages(payload: dict[str, Any]) -> tuple[tuple[Message, ...], int]:
    """The messages, and the tokens of the system prompt up to its last cache point."""
    given = payload.get("messages")
    if not isinstance(given, list) or not given:
        raise BadRequest("A conversation must start with a user message.", param="messages")
    read: list[Message] = []
    tokens = marked = 0
    system: list[str] = []
    for block in payload.get("system") or ():
        if "cachePoint" in block:
            marked = tokens
        elif isinstance(text := block.get("text"), str) and text:
            system.append(text)
            tokens += count_tokens(text)
    if system:
        read.append(("system", "\n".join(system)))
    last = None
    calls = OpenCalls("messages")
    for each in given:
        if not isinstance(each, dict) or (role := each.get("role")) not in ("user", "assistant"):
            raise BadRequest("Member must satisfy enum value set: [user, assistant]", param="messages.role")
        if role == last:
            raise BadRequest("A conversation must alternate between user and assistant roles.", param="messages")
        last = role
        content = each.get("content")
        if not isinstance(content, list) or not content:
            raise BadRequest("The content field in the Message object is empty.", param="messages.content")
        for block in content:
            if "toolResult" in block:
                calls.answered(block["toolResult"].get("toolUseId"))
        calls.check()
        for block in content:
            if "toolUse" in block:
                calls.made(block["toolUse"].get("toolUseId"))
        read.append((role, "\n".join(block["text"] for block in content if isinstance(block.get("text"), str))))
    return tuple(read), marked if marked >= _LEAST_CACHED else 0


def _images(messages: Any) -> Iterator[bytes]:
    for part in parts_of(messages):
        match part:
            case {"image": {"format": str(kind), "source": {"bytes": data}}}:
                yield inline_image(data, f"image/{kind}", param="messages.content.image")
            case {"image": _}:
                raise BadRequest("The provided image has no bytes.", param="messages.content.image")


def _tools(payload: dict[str, Any]) -> tuple[tuple[Tool, ...], bool]:
    """(the tools that may be called, whether one must be)."""
    config = payload.get("toolConfig") or {}
    if any("toolResult" in block for block in payload["messages"][-1]["content"]):
        return (), False
    found = []
    for each in config.get("tools") or ():
        match each:
            case {"toolSpec": {"name": str(name), "inputSchema": {"json": dict(schema)}}}:
                found.append(Tool(name, schema))
            case {"cachePoint": _}:
                pass
            case _:
                raise BadRequest("A tool needs a name and an inputSchema.", param="toolConfig.tools")
    choice = config.get("toolChoice") or {}
    named = (choice.get("tool") or {}).get("name")
    return tuple(tool for tool in found if named in (None, tool.name)), "any" in choice or "tool" in choice


def _blocks(answer: Answer, serial: int) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if (thought := answer.reasoning) is not None:
        signature = base64.b64encode(blake2b(thought.encode(), digest_size=48).digest()).decode()
        blocks.append({"reasoningContent": {"reasoningText": {"text": thought, "signature": signature}}})
    if answer.content:
        blocks.append({"text": answer.content})
    if (call := answer.call) is not None:
        blocks.append({"toolUse": {"toolUseId": f"tooluse_{serial}", "name": call.name, "input": dict(call.arguments)}})
    return blocks


def _deltas(block: dict[str, Any]) -> list[dict[str, Any]]:
    match block:
        case {"text": text}:
            return [{"text": piece} for piece in _cut(text)]
        case {"reasoningContent": {"reasoningText": {"text": text, "signature": signature}}}:
            thoughts = [{"reasoningContent": {"text": piece}} for piece in _cut(text)]
            return [*thoughts, {"reasoningContent": {"signature": signature}}]
        case _:
            return [{"toolUse": {"input": piece}} for piece in _cut(orjson.dumps(block["toolUse"]["input"]).decode())]


def _cut(text: str) -> list[str]:
    return [text[start : start + _PIECE_CHARS] for start in range(0, len(text), _PIECE_CHARS)]


def _usage(spoken: Spoken) -> dict[str, Any]:
    """The first request writes to the cache, and later ones read from it; `inputTokens` includes neither."""
    (answer,) = spoken.answers
    marked, output = spoken.asked.marked_tokens, answer.completion_tokens
    written, read = (0, marked) if spoken.serial else (marked, 0)
    return {
        "inputTokens": spoken.asked.prompt_tokens - marked,
        "outputTokens": output,
        "totalTokens": spoken.asked.prompt_tokens + output,
        "cacheReadInputTokens": read,
        "cacheWriteInputTokens": written,
    }
