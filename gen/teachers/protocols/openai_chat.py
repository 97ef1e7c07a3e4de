"""OpenAI's chat completions, as OpenAI and the many compatible servers actually behave: a tolerant reader.

Whatever is in the body, `read` returns an Outcome whose texts are valid Unicode and whose numbers fit their columns.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import orjson

from stillhouse.gen.teachers.decoding import looks_plain
from stillhouse.gen.teachers.event_stream import events_in
from stillhouse.gen.teachers.json_text import dumped
from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.outcome import Ambiguous, Malformed, Outcome
from stillhouse.gen.teachers.protocols.answer_schema import named_schema
from stillhouse.gen.teachers.protocols.base import Destinations, Framing, Offers, Request, paired_messages
from stillhouse.gen.teachers.protocols.chat_answer import answer_document, completion_of, without_choice
from stillhouse.gen.teachers.protocols.chat_stream import folded, packed
from stillhouse.gen.teachers.protocols.openai_errors import OPENAI_ERRORS
from stillhouse.gen.teachers.protocols.profiles import complete_base, key_headers, profile_of
from stillhouse.gen.teachers.protocols.reply_document import UNKNOWN_SHAPE, document_of, without_answer
from stillhouse.gen.teachers.protocols.turns import data_url, first_user
from stillhouse.gen.teachers.protocols.values import merged
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


class OpenAIChat:
    """POST /chat/completions, one choice per request."""

    errors = OPENAI_ERRORS
    framing: Framing = "sse"

    def __init__(self, teacher: Teacher, ask: Ask) -> None:
        self._teacher = teacher
        profile = profile_of(teacher)
        self._destinations = Destinations("/chat/completions", partial(key_headers, profile), base=complete_base)
        fields: dict[str, Any] = ask.parameters()
        for name in ("extra", "tools"):
            fields.pop(name, None)
        self._offers = Offers(_tools)
        fields.pop("schema", None)
        wants_ids = fields.pop("token_ids", False)
        if (schema := named_schema(teacher, ask)) is not None:
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        self._seed = fields.pop("seed", None)
        self._seed_name = orjson.dumps(profile.seed)
        if "max_tokens" in fields:
            fields[teacher.max_tokens_as or profile.max_tokens] = fields.pop("max_tokens")
        if "top_logprobs" in fields:
            fields |= {"logprobs": True, **(profile.token_ids if wants_ids else {})}
        fields = merged({**fields, **profile.always}, ask.extra)
        self._wants_scores = bool(fields.get("logprobs"))
        self._head = b'{"model":' + orjson.dumps(teacher.model_name) + b',"messages":'
        self._tail = _tail(fields)
        self._stream_tail = _tail({**fields, "stream": True, **profile.stream})

    def request(self, ask: Request, *, base_url: str, key: Credentials, now: float) -> HttpRequest:
        """Only the messages, and the seed if there is one, differ from prompt to prompt."""
        seed = b"" if self._seed is None else b",%b:%d" % (self._seed_name, self._seed + ask.sample)
        documents = [_document(message) for message in paired_messages(ask)]
        if ask.images:
            message = documents[first_user(ask.messages)]
            message["content"] = [*map(_image_part, ask.images), {"type": "text", "text": message["content"]}]
        messages = orjson.dumps(documents)
        tail = self._stream_tail if ask.stream else self._tail
        return self._destinations.post(
            base_url, key, self._head + messages + seed + self._offers.encoded(ask.tools) + tail
        )

    def fold(self, raw: Reply) -> Reply:
        """The completion from a stream's chunks; some gateways stream without being asked to."""
        if looks_plain(raw.body) or not 200 <= raw.status < 300:
            return raw
        may_lack_finish = "" in self._teacher.finish_reasons and b"[DONE]" in raw.body[-64:]
        events = events_in(raw.body, change=packed if self._wants_scores else None)
        document = folded(events, may_lack_finish=may_lack_finish)
        return raw if document is None else raw._replace(body=dumped(document))

    def read(self, reply: Reply) -> Outcome:
        """The completion in a 2xx reply, else what the reply means."""
        if not 200 <= reply.status < 300:
            return trouble_of(reply, self.errors)
        if self._wants_scores and (found := cut(reply.body)) is not None:
            outcome = self._read(reply._replace(body=found.rest), cut_out=found.entries)
            if isinstance(outcome, Completion) and outcome.scores is not None:
                return outcome
        return self._read(reply)

    def _read(self, reply: Reply, *, cut_out: bytes | None = None) -> Outcome:
        document = document_of(reply)
        if isinstance(document, (Malformed, Ambiguous)):
            return document
        answer = answer_document(document)
        if answer is None:
            found = document[0] if isinstance(document, list) and document else document
            if isinstance(found, dict) and not found.get("error") and (trouble := without_choice(found, reply.status)):
                return trouble
            return trouble_of(reply, self.errors)
        try:
            return completion_of(answer, self._teacher, cut_out=cut_out)
        except UNKNOWN_SHAPE:
            return without_answer(reply)


def _document(message: Message) -> dict[str, Any]:
    if not isinstance(message, ToolMessage):
        return {"role": message[0], "content": message[1]}
    if message.calls is None:
        return {"role": "tool", "tool_call_id": message.call_id, "content": message.content}
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.calls
    ]
    return {"role": "assistant", "content": message.content or None, "tool_calls": calls}


def _tools(tools: Sequence[Tool]) -> dict[str, Any]:
    return {"tools": [orjson.Fragment(tool.text) for tool in tools]}


def _image_part(image: SentImage) -> dict[str, Any]:
    url = data_url(image) if isinstance(image, InlineImage) else image.url
    return {"type": "image_url", "image_url": {"url": url}}


def _tail(fields: dict[str, Any]) -> bytes:
    return (b"," + orjson.dumps(fields)[1:-1] if fields else b"") + b"}"
