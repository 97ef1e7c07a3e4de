"""`sharegpt`: conversations of {from, value}, for LLaMA-Factory and others; tools as JSON text beside them.

LLaMA-Factory drops a conversation whose turns do not alternate, with no more than a warning per row.
"""

import json
from collections.abc import Sequence

from stillhouse.gen.views.export.answer import Answer
from stillhouse.gen.views.export.base import NoPlace, Row, Style, messages_of

_FROM = {
    "system": "system",
    "developer": "system",
    "user": "human",
    "assistant": "gpt",
    "tool": "observation",
}
_ASKING, _ANSWERING = ("human", "observation"), ("gpt", "function_call")


def sharegpt(answer: Answer, style: Style) -> Row:
    """See `OfAnswers`. A message that calls tools becomes a turn of `function_call`, which has no place for text."""
    turns = list(map(_turn, [*messages_of(answer), style.message_of(answer)]))
    _check_alternating([turn["from"] for turn in turns])
    row: Row = {"conversations": turns}
    return row if style.tools is None else row | {"tools": json.dumps(list(style.tools), ensure_ascii=False)}


def _check_alternating(names: Sequence[str]) -> None:
    spoken = names[1:] if names[0] == "system" else names
    for place, name in enumerate(spoken):
        if name not in (_ANSWERING if place % 2 else _ASKING):
            if name == spoken[place - 1] == "observation":
                raise NoPlace("the results of several tool calls in a row (messages-jsonl has)")
            raise NoPlace("turns that do not alternate (messages-jsonl has)")


def _turn(message: Row) -> Row:
    if not (called := message.get("tool_calls")):
        return {"from": _FROM[message["role"]], "value": message["content"]}
    if message["content"].strip():
        raise NoPlace("text beside tool calls")
    calls = [call["function"] for call in called]
    said = calls[0] if len(calls) == 1 else calls
    return {"from": "function_call", "value": json.dumps(said, ensure_ascii=False)}
