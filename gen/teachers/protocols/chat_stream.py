"""The chat completion that a stream's chunks add up to: the same document as for an unstreamed answer.

A stream is complete if every choice has its finish reason; without its last chunk the usage is unknown. Pieces are
joined by index, and differences among servers are accepted: reasoning under any of its names, content in parts, tool
calls whole or in fragments.
"""

from collections.abc import Sequence
from typing import Any

from stillhouse.gen.teachers.event_stream import UNREADABLE, repeats
from stillhouse.gen.teachers.json_text import Packed
from stillhouse.gen.teachers.protocols.chat_answer import answer_document
from stillhouse.gen.teachers.protocols.values import dicts, listed

_TEXTS = ("refusal", "reasoning", "reasoning_content")
_PIECES = ("text", "summary", "data", "signature")
"""Fields of an entry of `reasoning_details` that arrive in pieces."""


def folded(events: Sequence[Any], *, may_lack_finish: bool = False) -> dict[str, Any] | None:
    """The document, or the error that came before any answer; None if the stream is incomplete.

    `may_lack_finish`: the stream had its end marker, and the recipe says that this server gives no finish reasons.
    """
    if (half := repeats(events)) is not None and (once := folded(half)) is not None:
        return once
    whole: dict[str, Any] = {}
    choices: dict[int, _Choice] = {}
    for each in events:
        if each is UNREADABLE:  # perhaps a piece of the answer, unless that was finished before
            may_lack_finish = False
            break
        event = each if isinstance(each, dict) and "choices" in each else answer_document(each) or each
        if not isinstance(event, dict):
            continue
        for name in ("id", "created", "model", "usage", "system_fingerprint"):
            if value := event.get(name):
                whole[name] = value
        for choice in dicts(event.get("choices")):
            index = choice.get("index")
            index = index if isinstance(index, int) else 0
            if index not in choices:
                choices[index] = _Choice()
            choices[index].add(choice)
        if (error := _error_in(event)) is not None:
            if "choices" not in event and _is_finished(choices):
                break
            return _broken(whole, choices, error)
        if isinstance(usage := event.get("x_groq"), dict) and isinstance(usage.get("usage"), dict):
            whole["usage"] = usage["usage"]
    return _document(whole, choices) if _is_finished(choices) or (may_lack_finish and 0 in choices) else None


def packed(event: Any) -> Any:
    """The event with its log-probabilities packed, which `folded` only hands on."""
    choices = event.get("choices") if isinstance(event, dict) else None
    for choice in dicts(choices):
        if isinstance(scores := choice.get("logprobs"), dict) and isinstance(entries := scores.get("content"), list):
            scores["content"] = list(map(Packed.of, entries))
    return event


def _is_finished(choices: "dict[int, _Choice]") -> bool:
    return 0 in choices and all(choice.is_finished for choice in choices.values())


def _document(whole: dict[str, Any], choices: "dict[int, _Choice]") -> dict[str, Any]:
    return whole | {"choices": [{"index": index} | choices[index].whole() for index in sorted(choices)]}


def _error_in(event: dict[str, Any]) -> Any:
    """The error that an event contains or is."""
    if error := event.get("error"):
        return error
    if "choices" in event:
        return None
    is_error = event.get("object") == "error" or ("message" in event and ("code" in event or "type" in event))
    return event if is_error else None


def _broken(whole: dict[str, Any], choices: "dict[int, _Choice]", error: Any) -> dict[str, Any]:
    """An answer that had begun broke off and may be billed; before that, there is only the error."""
    if not any(choice.has_begun for choice in choices.values()):
        return {"error": error}
    for choice in choices.values():
        choice.finish = "error"
    return _document(whole, choices) | {"error": error}


class _Choice:
    """One choice as its chunks arrive."""

    def __init__(self) -> None:
        self.finish: Any = None
        self.is_finished = False
        self._is_message = False
        self._contents: list[Any] = []
        self._texts: dict[str, list[str]] = {}
        self._details: list[dict[str, Any]] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._function: dict[str, Any] | None = None
        self._scores: dict[str, list[Any]] = {}
        self._token_ids: list[Any] = []
        self._rest: dict[str, Any] = {}

    @property
    def has_begun(self) -> bool:
        """True if part of the answer has arrived."""
        return bool(any(self._contents) or self._texts or self._details or self._calls or self._function)

    def add(self, choice: dict[str, Any]) -> None:
        """Add one chunk."""
        delta = choice.get("delta")
        if delta is None:
            delta = choice.get("message")
            self.is_finished = self.is_finished or isinstance(delta, dict)  # a whole message, not a piece
        if isinstance(delta, dict):
            self._add_delta(delta)
        elif isinstance(text := choice.get("text") if delta is None else delta, str):
            self._contents.append(text)
        if (finish := choice.get("finish_reason")) is not None and finish != "":
            self.finish, self.is_finished = finish, True
        if error := choice.get("error"):
            self._rest["error"] = error
        if isinstance(scores := choice.get("logprobs"), dict):
            for name in ("content", "refusal"):
                if (entries := scores.get(name)) is not None:
                    self._scores.setdefault(name, []).extend(listed(entries))
        if (ids := choice.get("token_ids")) is not None:
            self._token_ids += listed(ids)

    def _add_delta(self, delta: dict[str, Any]) -> None:
        if (content := delta.get("content")) is not None:
            self._contents.append(content)
            if len(delta) == 1:  # nearly always
                return
        for name in _TEXTS:
            if isinstance(text := delta.get(name), str) and text:
                self._texts.setdefault(name, []).append(text)
        for detail in dicts(delta.get("reasoning_details")):
            self._add_detail(detail)
        for call in dicts(delta.get("tool_calls")):
            self._add_call(call)
        if isinstance(function := delta.get("function_call"), dict):
            self._function = self._function or {}
            _add_function(self._function, function)

    def _add_detail(self, detail: dict[str, Any]) -> None:
        """A piece of the last entry, if index and type are the same; else a new entry."""
        last = self._details[-1] if self._details else None
        if last is None or any(last.get(name) != detail.get(name) for name in ("index", "type")):
            self._details.append(dict(detail))
            return
        for name, value in detail.items():
            if name in _PIECES and isinstance(value, str) and isinstance(last.get(name), str):
                last[name] += value
            elif value is not None:
                last[name] = value

    def _add_call(self, call: dict[str, Any]) -> None:
        """A fragment of the call with its index; some servers give none, or the same index to all calls, each with its
        id.
        """
        index, call_id = call.get("index"), call.get("id")
        if not isinstance(index, int):
            index = len(self._calls) - (1 if self._calls and not call_id else 0)
        known = self._calls.get(index)
        if known is not None and call_id and known["id"] not in (None, "", call_id):
            index = max(self._calls) + 1
            known = None
        if known is None:
            known = self._calls[index] = {"id": None, "type": "function", "function": {}}
        if call_id:
            known["id"] = call_id
        known["type"] = call.get("type") or known["type"]
        if isinstance(function := call.get("function"), dict):
            _add_function(known["function"], function)

    def whole(self) -> dict[str, Any]:
        """The choice as if unstreamed."""
        message: dict[str, Any] = {"role": "assistant", "content": _content(self._contents)}
        message |= {name: "".join(pieces) for name, pieces in self._texts.items()}
        if self._details:
            message["reasoning_details"] = self._details
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        if self._function is not None:
            message["function_call"] = self._function
        choice: dict[str, Any] = {"message": message, "logprobs": self._scores or None, "finish_reason": self.finish}
        if self._token_ids:
            choice["token_ids"] = self._token_ids
        return choice | self._rest


def _add_function(known: dict[str, Any], piece: dict[str, Any]) -> None:
    """Its name comes once, or whole with every piece; its arguments in pieces, or as one object."""
    name, arguments = piece.get("name"), piece.get("arguments")
    if isinstance(name, str) and name != known.get("name"):
        known["name"] = known.get("name", "") + name
    if isinstance(arguments, str) and isinstance(so_far := known.get("arguments", ""), str):
        known["arguments"] = so_far + arguments
    elif arguments is not None:
        known["arguments"] = arguments


def _content(pieces: list[Any]) -> Any:
    """Text if all pieces are text; else a list of parts; None if none came."""
    if not pieces:
        return None
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(pieces)
    parts: list[Any] = []
    for piece in pieces:
        if isinstance(piece, list):
            parts += piece
        elif piece:
            parts.append(piece)
    return parts
