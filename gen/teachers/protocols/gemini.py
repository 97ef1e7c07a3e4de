"""Google's generateContent: AI Studio with an API key, and Vertex with a token of Google Cloud.

System messages at the start of a conversation become its instruction; one in the middle, for which the API has no role,
is sent as the user's. A base URL may leave out the version, and Vertex's the publisher.
"""

import mimetypes
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any
from urllib.parse import urlsplit

import orjson

from stillhouse.gen.teachers.json_text import dumped
from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.long_lists import TakenOut
from stillhouse.gen.teachers.outcome import Ambiguous, Malformed, Outcome
from stillhouse.gen.teachers.protocols.base import Destinations, Framing, Offers, Request, paired_messages
from stillhouse.gen.teachers.protocols.gemini_answer import SCORE_LISTS, answer_of, completion_of, usage_of
from stillhouse.gen.teachers.protocols.gemini_stream import folded
from stillhouse.gen.teachers.protocols.google_errors import GOOGLE_ERRORS
from stillhouse.gen.teachers.protocols.reply_document import (
    UNKNOWN_SHAPE,
    broken_off,
    document_of,
    read_with_lists,
    without_answer,
)
from stillhouse.gen.teachers.protocols.turns import in_base64
from stillhouse.gen.teachers.protocols.values import merged
from stillhouse.gen.teachers.signals import trouble_of
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.google_hosts import is_vertex, model_base
from stillhouse.schemas.image import InlineImage, SentImage
from stillhouse.schemas.prompt import Message
from stillhouse.schemas.schema_dialects import GEMINI, sendable
from stillhouse.schemas.teacher import Teacher
from stillhouse.schemas.tool import Tool
from stillhouse.schemas.tool_call import ToolMessage

_ROLES = {"assistant": "model"}
_NAMES = {
    "temperature": "temperature",
    "top_p": "topP",
    "max_tokens": "maxOutputTokens",
    "top_logprobs": "logprobs",
}
_ANY_SIGNATURE = "skip_thought_signature_validator"
"""From Gemini 3 on, a call in a conversation needs the signature that came with it, or this replacement."""
_UNSIGNED = ("gemini-1", "gemini-2")
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
"""Thinking tokens of Gemini 2.x by effort, as Google's own compatibility layer translates it."""


class Gemini:
    """POST models/MODEL:generateContent, one candidate per request."""

    errors = GOOGLE_ERRORS
    framing: Framing = "sse"

    def __init__(self, teacher: Teacher, ask: Ask) -> None:
        self._teacher = teacher
        model = teacher.model_name.rpartition("models/")[2]
        self._seed = ask.seed
        self._offers = Offers(_tools)
        self._signature = {} if model.startswith(_UNSIGNED) else {"thoughtSignature": _ANY_SIGNATURE}
        self._body = merged({"generationConfig": _config(ask, model)}, ask.extra)
        self._whole = _Places(f"/models/{model}:generateContent", teacher.urls)
        self._streamed = _Places(f"/models/{model}:streamGenerateContent?alt=sse", teacher.urls)

    def request(self, ask: Request, *, base_url: str, key: Credentials, now: float) -> HttpRequest:
        """Only the contents, and the seed if there is one, differ from prompt to prompt."""
        body = {**self._conversation(ask), **self._offers.of(ask.tools), **self._body}
        if self._seed is not None:
            body["generationConfig"] = {**body["generationConfig"], "seed": self._seed + ask.sample}
        return (self._streamed if ask.stream else self._whole).post(base_url, key, orjson.dumps(body))

    def _conversation(self, ask: Request) -> dict[str, Any]:
        messages = paired_messages(ask)
        head = 0
        while head < len(messages) and messages[head][0] in ("system", "developer"):
            head += 1
        contents: list[dict[str, Any]] = []
        for is_result, same in groupby(messages[head:], key=_is_result):
            parts = [(message[0], _parts(message, self._signature)) for message in same]
            if is_result:  # all results of parallel calls are one content
                parts = [("user", [part for _, each in parts for part in each])]
            contents += [{"role": _ROLES.get(role, "user"), "parts": each} for role, each in parts]
        if ask.images:
            first = next(content for content in contents if "text" in content["parts"][0] and content["role"] == "user")
            first["parts"][:0] = map(_image_part, ask.images)
        if head == 0:
            return {"contents": contents}
        return {"systemInstruction": {"parts": [{"text": each[1]} for each in messages[:head]]}, "contents": contents}

    def fold(self, raw: Reply) -> Reply:
        """A stream's documents, or an array of them, as one document."""
        if raw.body.lstrip()[:1] == b"{" or not 200 <= raw.status < 300 or (document := folded(raw.body)) is None:
            return raw
        return raw._replace(body=dumped(document))

    def read(self, reply: Reply) -> Outcome:
        """The completion in a 2xx reply, else what the reply means."""
        if not 200 <= reply.status < 300:
            return trouble_of(reply, self.errors)
        return read_with_lists(reply, SCORE_LISTS, self._read)

    def _read(self, reply: Reply, taken: TakenOut | None) -> Outcome:
        document = document_of(reply)
        if isinstance(document, (Malformed, Ambiguous)):
            return document
        answer = answer_of(document)
        if answer is None:
            usage = usage_of(document.get("usageMetadata")) if isinstance(document, dict) else None
            return broken_off(trouble_of(reply, self.errors), document, usage)
        try:
            return completion_of(answer, self._teacher, taken=taken)
        except UNKNOWN_SHAPE:
            return without_answer(reply)


def _is_result(message: Message) -> bool:
    return isinstance(message, ToolMessage) and message.calls is None


class _Places:
    """One method of a model, on AI Studio's and Vertex's hosts."""

    def __init__(self, path: str, urls: Sequence[str]) -> None:
        self._studio = Destinations(path, key_header, base=model_base)
        cloud = Destinations(path, cloud_headers, base=model_base)
        self._cloud = {url: cloud for url in urls if is_vertex(url)}

    def post(self, base_url: str, key: Credentials, body: bytes) -> HttpRequest:
        return self._cloud.get(base_url, self._studio).post(base_url, key, body)


def _config(ask: Ask, model: str) -> dict[str, Any]:
    config = {wire: value for name, wire in _NAMES.items() if (value := getattr(ask, name)) is not None}
    if ask.stop:  # an empty list is refused
        config["stopSequences"] = [ask.stop] if isinstance(ask.stop, str) else list(ask.stop)
    if ask.top_logprobs is not None:
        config["responseLogprobs"] = True
        if ask.top_logprobs == 0:
            del config["logprobs"]
    if (document := ask.schema_document) is not None:
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = sendable(document, GEMINI)
    if (effort := ask.reasoning_effort) is not None:
        config["thinkingConfig"] = _thinking(effort, model) | ({} if effort == "none" else {"includeThoughts": True})
    return config


def _thinking(effort: str, model: str) -> dict[str, Any]:
    """Up to Gemini 2 a budget of tokens, which may also be given as a number; from 3 on a level."""
    if effort.lstrip("-").isdecimal():
        return {"thinkingBudget": int(effort)}
    if (model.startswith("gemini-2") and effort in _BUDGETS) or effort == "none":
        return {"thinkingBudget": _BUDGETS[effort]}
    return {"thinkingLevel": effort.upper()}


def _parts(message: Message, signature: Mapping[str, str]) -> list[dict[str, Any]]:
    if not isinstance(message, ToolMessage):
        return [{"text": message[1]}]
    if message.calls is None:
        return [{"functionResponse": {"name": message.name, "response": {"output": message.content}}}]
    calls = [
        {"functionCall": {"name": call.name, "args": orjson.Fragment(call.arguments)}, **signature}
        for call in message.calls
    ]
    return [*([{"text": message.content}] if message.content else []), *calls]


def _tools(tools: Sequence[Tool]) -> dict[str, Any]:
    functions = [
        {"name": tool.name, "parametersJsonSchema": tool.parameters}
        | ({} if tool.description is None else {"description": tool.description})
        for tool in tools
    ]
    return {"tools": [{"functionDeclarations": functions}]}


def _image_part(image: SentImage) -> dict[str, Any]:
    if isinstance(image, InlineImage):
        return {"inlineData": {"mimeType": image.media_type, "data": in_base64(image)}}
    kind, _ = mimetypes.guess_type(urlsplit(image.url).path)  # only Vertex requires it
    return {"fileData": {"fileUri": image.url} | ({"mimeType": kind} if kind else {})}


def _base_headers() -> dict[str, str]:
    return {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}


def key_header(key: Credentials) -> dict[str, str]:
    """JSON both ways, uncompressed, and AI Studio's key."""
    return _base_headers() | ({"x-goog-api-key": key.key} if key.key else {})


def cloud_headers(key: Credentials) -> dict[str, str]:
    """A token, or the API key of Vertex's express mode."""
    if key.key is not None and key.key.startswith(("AIza", "AQ.")):
        return key_header(key)
    return _base_headers() | ({"authorization": f"Bearer {key.key}"} if key.key else {})
