"""OpenAI's Responses API, which OpenAI requires for reasoning together with tools.

It has no `seed` and no `stop`. Nothing is stored at the provider: `store` is false, and reasoning comes back encrypted
beside its summary. A base URL may leave out the version.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import orjson

from stillhouse.gen.teachers.decoding import looks_plain
from stillhouse.gen.teachers.event_stream import events_in
from stillhouse.gen.teachers.json_text import dumped
from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.outcome import Ambiguous, Malformed, Outcome
from stillhouse.gen.teachers.protocols.answer_schema import named_schema
from stillhouse.gen.teachers.protocols.base import Destinations, Framing, Offers, Request, paired_messages
from stillhouse.gen.teachers.protocols.chat_answer import usage_of
from stillhouse.gen.teachers.protocols.openai_errors import OPENAI_ERRORS
from stillhouse.gen.teachers.protocols.profiles import complete_base, key_headers, profile_of
from stillhouse.gen.teachers.protocols.reply_document import (
    HAS_BEGUN,
    UNKNOWN_SHAPE,
    broken_off,
    document_of,
    without_answer,
)
from stillhouse.gen.teachers.protocols.response_items import completion_of, unfinished
from stillhouse.gen.teachers.protocols.turns import data_url
from stillhouse.gen.teachers.protocols.values import dicts, merged
from stillhouse.gen.teachers.signals import trouble_of
from stillhouse.gen.teachers.token_scores import cut
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.image import InlineImage, SentImage
from stillhouse.schemas.prompt import Message
from stillhouse.schemas.teacher import Teacher
from stillhouse.schemas.tool import Tool
from stillhouse.schemas.tool_call import ToolMessage

_STATUSES = ("completed", "incomplete", "failed", "cancelled", "queued", "in_progress")
_ENDS = ("response.completed", "response.incomplete", "response.failed")


class OpenAIResponses:
    """POST /responses, not stored."""

    errors = OPENAI_ERRORS
    framing: Framing = "sse"

    def __init__(self, teacher: Teacher, ask: Ask) -> None:
        self._teacher = teacher
        self._destinations = Destinations("/responses", partial(key_headers, profile_of(teacher)), base=versioned)
        self._head = b'{"model":' + orjson.dumps(teacher.model_name) + b',"input":'
        fields = _fields(ask)
        if (schema := named_schema(teacher, ask)) is not None:
            fields["text"] = {"format": {"type": "json_schema", **schema}}
        fields = merged(fields, ask.extra)
        self._wants_scores = any("logprobs" in str(each) for each in fields.get("include") or ())
        self._offers = Offers(_tools)
        self._tail = b"," + orjson.dumps(fields)[1:]
        self._stream_tail = b"," + orjson.dumps({**fields, "stream": True})[1:]

    def request(self, ask: Request, *, base_url: str, key: Credentials, now: float) -> HttpRequest:
        """Only the input differs from prompt to prompt."""
        documents = [item for message in paired_messages(ask) for item in _items(message)]
        if ask.images:
            message = next(item for item in documents if item.get("role") == "user")
            message["content"] = [*map(_image_part, ask.images), {"type": "input_text", "text": message["content"]}]
        items = orjson.dumps(documents)
        tail = self._stream_tail if ask.stream else self._tail
        return self._destinations.post(base_url, key, self._head + items + self._offers.encoded(ask.tools) + tail)

    def fold(self, raw: Reply) -> Reply:
        """The event at the end of a complete stream contains the whole response."""
        if looks_plain(raw.body) or not 200 <= raw.status < 300:
            return raw
        document = _folded(dicts(events_in(raw.body)))
        return raw if document is None else raw._replace(body=dumped(document))

    def read(self, reply: Reply) -> Outcome:
        """The completion in a 2xx reply, else what the reply means."""
        if not 200 <= reply.status < 300:
            return trouble_of(reply, self.errors)
        if self._wants_scores and (found := cut(reply.body, where="part")) is not None:
            outcome = self._read(reply._replace(body=found.rest), cut_out=found.entries)
            if isinstance(outcome, Completion) and outcome.scores is not None:
                return outcome
        return self._read(reply)

    def _read(self, reply: Reply, *, cut_out: bytes | None = None) -> Outcome:
        document = document_of(reply)
        if isinstance(document, (Malformed, Ambiguous)):
            return document
        response = _response_in(document)
        if response is None:
            return broken_off(trouble_of(reply, self.errors), document)
        try:
            if (trouble := unfinished(response, reply, self.errors)) is not None:
                return broken_off(trouble, response, usage_of(response.get("usage")))
            return completion_of(response, self._teacher, cut_out=cut_out)
        except UNKNOWN_SHAPE:
            return without_answer(reply)


def _items(message: Message) -> Iterator[dict[str, Any]]:
    if isinstance(message, ToolMessage) and message.calls is None:
        yield {"type": "function_call_output", "call_id": message.call_id, "output": message.content}
        return
    if not isinstance(message, ToolMessage) or message.content:
        yield {"role": message[0], "content": message[1]}
    if isinstance(message, ToolMessage):
        for call in message.calls or ():
            yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}


def _tools(tools: Sequence[Tool]) -> dict[str, Any]:
    """Not strict: the API's strict mode accepts only some schemas, and would be its default."""
    return {
        "tools": [
            {"type": "function", "name": tool.name, "parameters": tool.parameters, "strict": False}
            | ({} if tool.description is None else {"description": tool.description})
            for tool in tools
        ]
    }


def _image_part(image: SentImage) -> dict[str, Any]:
    return {"type": "input_image", "image_url": data_url(image) if isinstance(image, InlineImage) else image.url}


def _folded(events: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The response, which the last event contains whole, or the error that came instead; None if neither came."""
    ends = [event for event in events if event.get("type") in _ENDS and isinstance(event.get("response"), dict)]
    response: dict[str, Any] = ends[-1]["response"] if ends else {}
    errors = [event.get("error") or event for event in events if event.get("type") == "error"]
    if ends and ends[-1]["type"] != "response.failed":
        return response
    begun = any(str(event.get("type")).endswith(".delta") for event in events)
    if ends:
        return response | {HAS_BEGUN: begun}
    return {"error": errors[-1], HAS_BEGUN: begun} if errors else None


def _fields(ask: Ask) -> dict[str, Any]:
    fields: dict[str, Any] = {"store": False}
    include: list[str] = []
    for name in ("temperature", "top_p", "top_logprobs"):
        if (value := getattr(ask, name)) is not None:
            fields[name] = value
    if ask.max_tokens is not None:
        fields["max_output_tokens"] = ask.max_tokens
    if ask.top_logprobs is not None:
        include.append("message.output_text.logprobs")
    if ask.reasoning_effort is not None:
        fields["reasoning"] = {"effort": ask.reasoning_effort}
        if ask.reasoning_effort != "none":  # models that do not reason refuse to encrypt and to summarise
            fields["reasoning"]["summary"] = "auto"
            include.append("reasoning.encrypted_content")
    return fields | ({"include": include} if include else {})


def versioned(base_url: str) -> str:
    """The base URL, with the version added if it is a bare host, or Azure's without a version."""
    base_url = complete_base(base_url)
    return f"{base_url}/v1" if urlsplit(base_url).path in ("", "/openai") else base_url


def _response_in(document: Any) -> dict[str, Any] | None:
    """The response: the document, the first of a list, or inside a gateway's or event's envelope."""
    for _ in range(3):
        if isinstance(document, list) and document:
            document = document[0]
        if not isinstance(document, dict):
            return None
        if isinstance(document.get("output"), list) or document.get("status") in _STATUSES:
            return document
        document = document.get("response") or document.get("data") or document.get("body")
    return None
