"""Code that the dialects share: a body as JSON, and the prompt that its messages make."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from stillhouse.gen.simulator.dialects.base import BadRequest
from stillhouse.gen.simulator.dialects.images import IMAGE_TOKENS
from stillhouse.gen.simulator.texts import count_tokens
from stillhouse.schemas.prompt import Message, prompt_key


class AskedPrompt(NamedTuple):
    """The prompt in a request."""

    message: str
    """The text of the last user message, or of the last message of any role."""
    prompt: bytes
    tokens: int
    images: tuple[bytes, ...]


def payload_of(body: bytes) -> dict[str, Any]:
    """The JSON object in a body; raises BadRequest."""
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadRequest("The body is not valid JSON.") from None
    if not isinstance(payload, dict):
        raise BadRequest("The body must be a JSON object.")
    return payload


def asked_prompt(messages: tuple[Message, ...], images: Iterable[bytes] = ()) -> AskedPrompt:
    """The prompt of at least one message; `images`: the keys of their images."""
    images = tuple(images)
    texts = [message[:2] for message in messages]
    message = next((text for role, text in reversed(texts) if role == "user"), texts[-1][1])
    tokens = sum([count_tokens(text) for _, text in texts]) + IMAGE_TOKENS * len(images)
    return AskedPrompt(message, prompt_key(messages, images), tokens, images)


def parts_of(messages: Any, name: str = "content") -> list[dict[str, Any]]:
    """All content parts of the messages that have any."""
    contents = [message.get(name) for message in messages if isinstance(message, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return [part for part in parts if isinstance(part, dict)]


def integer(payload: dict[str, Any], name: str, *, least: int) -> int | None:
    """A field that is absent or an integer of at least `least`; raises BadRequest."""
    value = payload.get(name)
    if value is None:
        return None
    if type(value) is not int or value < least:
        raise BadRequest(f"{name}: Input should be a valid integer of at least {least}", param=name)
    return value


class OpenCalls:
    """The calls of a conversation that have no result yet, as a provider tracks them."""

    def __init__(self, param: str) -> None:
        """`param`: the field that a refusal names."""
        self._param = param
        self._ids: set[Any] = set()

    def made(self, call_id: Any) -> None:
        """A call of a tool, in this API's form."""
        self._ids.add(call_id)

    def answered(self, call_id: Any) -> None:
        """Add a result. Raises BadRequest if it belongs to no open call."""
        if call_id not in self._ids:
            raise BadRequest(f"{self._param}: a tool result must follow the call with its id", param=self._param)
        self._ids.remove(call_id)

    def check(self) -> None:
        """The next turn begins. Raises BadRequest if a call has no result."""
        if self._ids:
            raise BadRequest(f"{self._param}: every tool call must be followed by its result", param=self._param)
