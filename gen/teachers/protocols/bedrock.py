"""Bedrock's Converse API: signed with AWS's keys, or with a key of Bedrock's own."""

import urllib.parse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from stillhouse.gen.errors import UsageError
from stillhouse.gen.teachers.json_text import dumped
from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.outcome import Ambiguous, Malformed, Outcome
from stillhouse.gen.teachers.protocols.answer_schema import NAME
from stillhouse.gen.teachers.protocols.base import Destinations, Framing, Offers, Request, paired_messages
from stillhouse.gen.teachers.protocols.bedrock_errors import BEDROCK_ERRORS
from stillhouse.gen.teachers.protocols.bedrock_stream import folded, is_stream
from stillhouse.gen.teachers.protocols.blocks import BlockContents, blocks_in, completion_of
from stillhouse.gen.teachers.protocols.calls import function_call
from stillhouse.gen.teachers.protocols.claude import is_summary, merged, thinking_fields
from stillhouse.gen.teachers.protocols.counts import count_in
from stillhouse.gen.teachers.protocols.envelopes import answer_in
from stillhouse.gen.teachers.protocols.reply_document import UNKNOWN_SHAPE, broken_off, document_of, without_answer
from stillhouse.gen.teachers.protocols.turns import first_turn, in_base64, shared_system, system_and_turns
from stillhouse.gen.teachers.protocols.values import text as text_in
from stillhouse.gen.teachers.signals import trouble_of
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.claude_models import claude_of, is_claude
from stillhouse.schemas.completion import FinishReason, Usage
from stillhouse.schemas.image import InlineImage, SentImage
from stillhouse.schemas.prompt import Message
from stillhouse.schemas.schema_dialects import BEDROCK, sendable
from stillhouse.schemas.teacher import Teacher
from stillhouse.schemas.tool import Tool
from stillhouse.schemas.tool_call import ToolMessage

if TYPE_CHECKING:
    from stillhouse.gen.teachers.aws import Signing

SERVICE = "bedrock"
"""The service name for signatures; the host has another."""

_LIMITS = {"max_tokens": "maxTokens", "temperature": "temperature", "top_p": "topP", "stop": "stopSequences"}
_JSON = {"content-type": "application/json"}
_UNSIGNED = {"accept": "application/json", "accept-encoding": "identity"}
"""Headers that a proxy may change on the way."""
_FINISHES: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
    "refusal": "refused",
}
_BROKEN = ("malformed_model_output", "malformed_tool_use")
"""Reasons which mean that the model's output could not be read."""


class Bedrock:
    """POST /model/{id}/converse."""

    errors = BEDROCK_ERRORS
    framing: Framing = "eventstream"

    def __init__(self, teacher: Teacher, ask: Ask) -> None:
        self._teacher = teacher
        self._finishes = {**_FINISHES, **teacher.finish_reasons}
        # Encoded completely, so that an ARN's slashes are part of the name.
        path = f"/model/{urllib.parse.quote(teacher.model_name, safe='')}/converse"
        self._whole = Destinations(path, _headers)
        self._streamed = Destinations(f"{path}-stream", _headers)
        self._signing: Signing | None = None
        self._region = teacher.region
        self._shared_system = shared_system(ask)
        self._offers = Offers(_tools)
        self._head = orjson.dumps(_fields(teacher.model_name, ask))[:-1]

    def request(self, ask: Request, *, base_url: str, key: Credentials, now: float) -> HttpRequest:
        """Only the system prompt and the turns differ from prompt to prompt, and with AWS's keys the signature."""
        system, turns = system_and_turns(paired_messages(ask))
        parts = [self._head, b"," if len(self._head) > 1 else b""]
        if system:
            parts += (b'"system":', orjson.dumps(self._system(system)), b",")
        messages = [{"role": role, "content": _blocks(contents)} for role, contents in turns]
        if ask.images:
            message = messages[first_turn(turns)]
            message["content"] = [*(self._image_block(image) for image in ask.images), *message["content"]]
        parts += (b'"messages":', orjson.dumps(messages), self._offers.encoded(ask.tools), b"}")
        unsigned = (self._streamed if ask.stream else self._whole).post(base_url, key, b"".join(parts))
        if key.aws is None or self._region is None:
            return unsigned
        if self._signing is None:
            from stillhouse.gen.teachers.aws import Signing

            self._signing = Signing(SERVICE, self._region)
        url, body, keys = unsigned.url, unsigned.body, key.aws.current(now=now)
        headers = self._signing.headers("POST", url, _JSON, body, keys=keys, now=now)
        return unsigned._replace(headers={**headers, **_UNSIGNED, **key.headers})

    def _image_block(self, image: SentImage) -> dict[str, Any]:
        """Raises UsageError for a URL: rows with one were planned for another API."""
        if isinstance(image, InlineImage):
            kind = image.media_type.removeprefix("image/")
            return {"image": {"format": kind, "source": {"bytes": in_base64(image)}}}
        raise UsageError(
            f"teacher {self._teacher.name}: `api: bedrock` takes images as bytes, not by URL; this dataset was "
            "planned for an API that takes URLs: ask a teacher of that API, or use another dataset.path"
        )

    def _system(self, texts: list[str]) -> list[dict[str, Any]]:
        marks = self._teacher.cache_prompt
        if marks is None:
            # Many models refuse a cache mark; Claude accepts it from 3.7 on.
            claude = claude_of(self._teacher.model_name)
            marks = claude is not None and (claude.budget or claude.adaptive) and texts == [self._shared_system]
        blocks: list[dict[str, Any]] = [{"text": text} for text in texts]
        return [*blocks, {"cachePoint": {"type": "default"}}] if marks else blocks

    def fold(self, raw: Reply) -> Reply:
        """The answer, or the exception that ended it with its own status, from a stream's frames."""
        if not 200 <= raw.status < 300 or not is_stream(raw.body) or (found := folded(raw.body)) is None:
            return raw
        status, document = found
        return raw._replace(status=status, body=dumped(document))

    def read(self, reply: Reply) -> Outcome:
        """The completion in a 2xx reply, else what the reply means."""
        if not 200 <= reply.status < 300:
            return broken_off(trouble_of(reply, self.errors), document_of(reply))
        if is_stream(reply.body):
            return Ambiguous("the stream ended before the answer was complete", reply.status)
        document = document_of(reply)
        if isinstance(document, (Malformed, Ambiguous)):
            return document
        answer = answer_in(document, _is_answer)
        if answer is None:
            return trouble_of(reply, self.errors)
        usage = _usage(answer.get("usage"))
        try:
            contents = _contents(answer, usage)
            if contents.finish in _BROKEN and contents.finish not in self._finishes:
                return Malformed(f"the model's output could not be read ({contents.finish})", reply.status, usage)
            contents.response_id = reply.headers.get("x-amzn-requestid")
            summary = is_summary(contents.model or self._teacher.model_name)
            return completion_of(contents, self._finishes, self._teacher.thinking, is_summary=summary)
        except UNKNOWN_SHAPE:
            return without_answer(reply, usage)


def _blocks(messages: Sequence[Message]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for message in messages:
        if not isinstance(message, ToolMessage):
            blocks.append({"text": message[1]})
        elif message.calls is None:
            # Without a status, which some models refuse.
            blocks.append({"toolResult": {"toolUseId": message.call_id, "content": [{"text": message.content}]}})
        else:
            blocks += [{"text": message.content}] if message.content.strip() else []
            for call in message.calls:
                use = {"toolUseId": call.id, "name": call.name, "input": orjson.Fragment(call.arguments)}
                blocks.append({"toolUse": use})
    return blocks


def _tools(tools: Sequence[Tool]) -> dict[str, Any]:
    specs = [
        {"name": tool.name, "inputSchema": {"json": tool.parameters}}
        | ({} if tool.description is None else {"description": tool.description})
        for tool in tools
    ]
    return {"toolConfig": {"tools": [{"toolSpec": spec} for spec in specs]}}


def _headers(key: Credentials) -> dict[str, str]:
    return {**_JSON, **_UNSIGNED, **({"authorization": f"Bearer {key.key}"} if key.key else {})}


def _fields(model: str, ask: Ask) -> dict[str, Any]:
    """The fields that all requests share: limits, model-specific fields, and the recipe's `extra`."""
    asked: dict[str, Any] = ask.parameters()
    extra, effort = asked.pop("extra", {}), asked.pop("reasoning_effort", None)
    limits = {_LIMITS[name]: value for name, value in asked.items() if name in _LIMITS}
    if isinstance(stop := limits.get("stopSequences"), str):
        limits["stopSequences"] = [stop]
    own = {"reasoning_effort": effort} if effort is not None else {}
    if is_claude(model):
        given = extra.get("additionalModelRequestFields")
        own = {} if isinstance(given, dict) and "thinking" in given else thinking_fields(model, effort)
    fields: dict[str, Any] = {"inferenceConfig": limits} if limits else {}
    if (document := ask.schema_document) is not None:
        structure = {"jsonSchema": {"name": NAME, "schema": dumped(sendable(document, BEDROCK)).decode()}}
        fields["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": structure}}
    return merged(fields | ({"additionalModelRequestFields": own} if own else {}), extra)


def _is_answer(document: dict[str, Any]) -> bool:
    output = document.get("output")
    return "stopReason" in document or (isinstance(output, dict) and "message" in output)


def _contents(document: dict[str, Any], usage: Usage) -> BlockContents:
    output = document.get("output")
    message = output.get("message") if isinstance(output, dict) else None
    contents = BlockContents("reasoningContent", document.get("stopReason"), _model(document), None, usage)
    if contents.finish == "guardrail_intervened":
        contents.category = "guardrail"
    further = document.get("additionalModelResponseFields")
    if isinstance(further, dict) and isinstance(details := further.get("stop_details"), dict):
        contents.category, contents.explanation = details.get("category"), details.get("explanation")
    for block in blocks_in(message.get("content") if isinstance(message, dict) else message):
        match block:
            case {"text": str(text)}:
                contents.texts.append(text)
            case {"reasoningContent": {"reasoningText": dict(thought)}}:
                if isinstance(words := thought.get("text"), str):
                    contents.thoughts.append(words)
                if signature := text_in(thought.get("signature")):
                    contents.signatures.append({"signature": signature})
            case {"reasoningContent": dict(thought)}:
                contents.signatures.append({"redacted": text_in(thought.get("redactedContent"))})
            case {"toolUse": dict(call)}:
                contents.calls.append(function_call(call.get("toolUseId"), call.get("name"), call.get("input", {})))
            case {"citationsContent": {"content": list(cited)}}:
                parts = [part.get("text") for part in cited if isinstance(part, dict)]
                contents.texts += [part for part in parts if isinstance(part, str)]
            case dict():
                contents.others += map(str, block)
            case _:
                raise TypeError("a block of content is not an object")
    return contents


def _model(document: dict[str, Any]) -> Any:
    """The model that a prompt router chose."""
    trace = document.get("trace")
    router = trace.get("promptRouter") if isinstance(trace, dict) else None
    return router.get("invokedModelId") if isinstance(router, dict) else None


def _usage(usage: Any) -> Usage:
    """The total shows whether `inputTokens` includes the cached ones: for Claude it does not."""
    if not isinstance(usage, dict):
        return Usage()
    fresh, output = count_in(usage.get("inputTokens")), count_in(usage.get("outputTokens"))
    read, written = count_in(usage.get("cacheReadInputTokens")), count_in(usage.get("cacheWriteInputTokens"))
    total = count_in(usage.get("totalTokens"))
    cached = (read or 0) + (written or 0)
    holds_cached = fresh is not None and output is not None and total == fresh + output
    all_input = None if fresh is None else fresh + (0 if holds_cached else cached)
    return Usage(
        input_tokens=all_input or None,
        cached_tokens=read,
        output_tokens=output,
        cache_write_tokens=written,
    )
