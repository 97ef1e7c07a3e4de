"""`sharegpt`: conversations of {from, value}, for LLaMA-Factory and others; tools as JSON text beside them."""

import json

from stillhouse.gen.views.export.answer import Answer
from stillhouse.gen.views.export.base import NoPlace, Row, Style, messages_of

_FROM = {
    "system": "system",
    "developer": "system",
    "user": "human",
    "assistant": "gpt",
    "tool": "observation",
}


def sharegpt(answer: Answer, style: Style) -> Row:
    """See `OfAnswers`. A message that calls tools becomes a turn of `function_call`, which has no place for text."""
    row: Row = {"conversations": list(map(_turn, [*messages_of(answer), style.message_of(answer)]))}
    return row if style.tools is None else row | {"tools": json.dumps(list(style.tools), ensure_ascii=False)}


def _turn(message: Row) -> Row:
    if not (called := message.get("tool_calls")):
        return {"from": _FROM[message["role"]], "value": message["content"]}
    if message["content"].strip():
        raise NoPlace("text beside tool calls")
    calls = [call["function"] for call in called]
    said = calls[0] if len(calls) == 1 else calls
    return {"from": "function_call", "value": json.dumps(said, ensure_ascii=False)}
