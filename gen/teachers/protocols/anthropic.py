"""Anthropic's Messages API, as spoken by Anthropic, Vertex and the servers that copy it.

Usage is counted Anthropic's way: `input_tokens` excludes what was read from the cache or written to it.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from stillhouse.gen.teachers.decoding import looks_plain
from stillhouse.gen.teachers.event_stream import events_in
from stillhouse.gen.teachers.json_text import dumped, text_of
from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.outcome import Ambiguous, Malformed, Outcome
from stillhouse.gen.teachers.protocols.anthropic_stream import folded
from stillhouse.gen.teachers.protocols.base import Framing, Offers, Request, paired_messages
from stillhouse.gen.teachers.protocols.blocks import BlockContents, blocks_in, completion_of
from stillhouse.gen.teachers.protocols.calls import function_call
from stillhouse.gen.teachers.protocols.claude import is_summary, merged, thinking_fields
from stillhouse.gen.teachers.protocols.claude_places import place_of
from stillhouse.gen.teachers.protocols.counts import count_in
from stillhouse.gen.teachers.protocols.envelopes import answer_in
from stillhouse.gen.teachers.protocols.reply_document import UNKNOWN_SHAPE, broken_off, document_of, without_answer
from stillhouse.gen.teachers.protocols.turns import first_turn, in_base64, shared_system, system_and_turns
from stillhouse.gen.teachers.protocols.values import text as text_in
from stillhouse.gen.teachers.signals import trouble_of
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import FinishReason, Usage
from stillhouse.schemas.image import InlineImage, SentImage
from stillhouse.schemas.prompt import Message
from stillhouse.schemas.schema_dialects import ANTHROPIC, sendable
from stillhouse.schemas.teacher import Teacher
from stillhouse.schemas.tool import Tool
from stillhouse.schemas.tool_call import ToolMessage

_NAMES = {"stop": "stop_sequences"}
_FINISHES: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refused",
    "pause_turn": "unknown",  # the turn is not over, so this is not a sample
}


class Anthropic:
    """POST /v1/messages, or on Vertex models/MODEL:rawPredict."""

    framing: Framing = "sse"

    def __init__(self, teacher: Teacher, ask: Ask) -> None:
        self._teacher = teacher
        self._finishes = {**_FINISHES, **teacher.finish_reasons}
        self._place = place_of(teacher)
        self.errors = self._place.errors
        self._shared_system = shared_system(ask)
        fields: dict[str, Any] = ask.parameters()
        extra = fields.pop("extra", {})
        effort = fields.pop("reasoning_effort", None)
        fields.pop("tools", None)
        self._offers = Offers(_tools)
        fields.pop("schema", None)
        if isinstance(stop := fields.get("stop"), str):
            fields["stop"] = [stop]
        fields = {_NAMES.get(name, name): value for name, value in fields.items()}
        own = {} if "thinking" in extra else thinking_fields(teacher.model_name, effort)
        fields = merged({**fields, **own}, _format(ask))
        self._head = orjson.dumps({**self._place.head, **merged(fields, extra)})[:-1]

    def request(self, ask: Request, *, base_url: str, key: Credentials, now: float) -> HttpRequest:
        """Only the system prompt and the turns differ from prompt to prompt."""
        system, turns = system_and_turns(paired_messages(ask))
        parts = [self._head, self._offers.encoded(ask.tools)]
        if system:
            parts += (b',"system":', orjson.dumps(self._system(system)))
        messages = [{"role": role, "content": _turn(contents)} for role, contents in turns]
        if ask.images:
            first = first_turn(turns)
            messages[first]["content"] = [*map(_image_block, ask.images), *_blocks(turns[first][1])]
        parts += (b',"messages":', orjson.dumps(messages))
        parts.append(b',"stream":true}' if ask.stream else b"}")
        place = self._place.streamed if ask.stream else self._place.whole
        return place.post(base_url, key, b"".join(parts))

    def _system(self, texts: list[str]) -> Any:
        marks = self._teacher.cache_prompt
        if not (texts == [self._shared_system] if marks is None else marks):
            return _content(texts)
        blocks = [_text_block(text) for text in texts]
        return [*blocks[:-1], {**blocks[-1], "cache_control": {"type": "ephemeral"}}]

    def fold(self, raw: Reply) -> Reply:
        """The message, or the error that ended it, from a stream's events."""
        if looks_plain(raw.body) or not 200 <= raw.status < 300 or (document := folded(events_in(raw.body))) is None:
            return raw
        return raw._replace(body=dumped(document))

    def read(self, reply: Reply) -> Outcome:
        """The completion in a 2xx reply, else what the reply means."""
        if not 200 <= reply.status < 300:
            return trouble_of(reply, self.errors)
        document = document_of(reply)
        if isinstance(document, (Malformed, Ambiguous)):
            return document
        message = answer_in(document, _is_message)
        if message is None or (isinstance(document, dict) and document.get("error")):
            usage = _usage(document.get("usage")) if isinstance(document, dict) else None
            return broken_off(trouble_of(reply, self.errors), document, usage)
        usage = _usage(message.get("usage"))
        try:
            contents = _contents(message, usage)
            summary = is_summary(contents.model or self._teacher.model_name)
            return completion_of(contents, self._finishes, self._teacher.thinking, is_summary=summary)
        except UNKNOWN_SHAPE:
            return without_answer(reply, usage)


def _format(ask: Ask) -> dict[str, Any]:
    """The field for the format of the answer, which also contains the effort."""
    if (document := ask.schema_document) is None:
        return {}
    return {"output_config": {"format": {"type": "json_schema", "schema": sendable(document, ANTHROPIC)}}}


def _content(texts: list[str]) -> Any:
    return texts[0] if len(texts) == 1 else [_text_block(text) for text in texts]


def _text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _turn(messages: Sequence[Message]) -> Any:
    """The content of a turn: its text, if that is all it contains."""
    alone = messages[0]
    return alone[1] if len(messages) == 1 and not isinstance(alone, ToolMessage) else _blocks(messages)


def _blocks(messages: Sequence[Message]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for message in messages:
        if not isinstance(message, ToolMessage):
            blocks.append(_text_block(message[1]))
        elif message.calls is None:
            blocks.append({"type": "tool_result", "tool_use_id": message.call_id, "content": message.content})
        else:
            blocks += [_text_block(message.content)] if message.content.strip() else []
            for call in message.calls:
                use = {"type": "tool_use", "id": call.id, "name": call.name, "input": orjson.Fragment(call.arguments)}
                blocks.append(use)
    return blocks


def _tools(tools: Sequence[Tool]) -> dict[str, Any]:
    return {
        "tools": [
            {"name": tool.name, "input_schema": tool.parameters}
            | ({} if tool.description is None else {"description": tool.description})
            for tool in tools
        ]
    }


def _image_block(image: SentImage) -> dict[str, Any]:
    if isinstance(image, InlineImage):
        source = {"type": "base64", "media_type": image.media_type, "data": in_base64(image)}
        return {"type": "image", "source": source}
    return {"type": "image", "source": {"type": "url", "url": image.url}}


def _is_message(document: dict[str, Any]) -> bool:
    return "content" in document and any(name in document for name in ("type", "role", "stop_reason"))


def _contents(message: dict[str, Any], usage: Usage) -> BlockContents:
    details = message.get("stop_details")
    contents = BlockContents(
        source="thinking",
        finish=message.get("stop_reason"),
        model=message.get("model"),
        response_id=message.get("id"),
        usage=usage,
        category=details.get("category") if isinstance(details, dict) else None,
        explanation=details.get("explanation") if isinstance(details, dict) else None,
    )
    for block in blocks_in(message["content"]):
        match block:
            case {"type": "text", "text": str(text)}:
                contents.texts.append(text)
            case {"type": "thinking", "thinking": str(thought)}:
                contents.thoughts.append(thought)
                if signature := text_in(block.get("signature")):
                    contents.signatures.append({"signature": signature})
            case {"type": "redacted_thinking"}:
                contents.signatures.append({"redacted": text_in(block.get("data"))})
            case {"type": "tool_use"}:
                contents.calls.append(function_call(block.get("id"), block.get("name"), block.get("input", {})))
            case {"type": str(kind)}:
                contents.others.append(kind)
            case _:
                raise TypeError(f"a block of content is {(text_of(block) or 'nested too deeply')[:80]}")
    return contents


def _usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    read, written = count_in(usage.get("cache_read_input_tokens")), count_in(usage.get("cache_creation_input_tokens"))
    fresh = count_in(usage.get("input_tokens"))
    details = usage.get("output_tokens_details")
    return Usage(
        input_tokens=None if fresh is None else fresh + (read or 0) + (written or 0) or None,
        cached_tokens=read,
        output_tokens=count_in(usage.get("output_tokens")),
        reasoning_tokens=count_in(details.get("thinking_tokens")) if isinstance(details, dict) else None,
        cache_write_tokens=written,
    )
