"""`sharegpt`: conversations of {from, value}, as LLaMA-Factory and others take them; tools as JSON text beside them."""

import json

from stillhouse.gen.views.export.answer import Answer
from stillhouse.gen.views.export.base import NoPlace, Row, Style

_FROM = {
    "system": "system",
    "developer": "system",
    "user": "human",
    "assistant": "gpt",
    "tool": "observation",
}


def sharegpt(answer: Answer, style: Style) -> Row:
    """See `OfAnswers`. An answer that calls tools is a turn of `function_call`, which has no place for text."""
    text = style.text_of(answer)
    if answer.calls and text.strip():
        raise NoPlace("text beside tool calls")
    turns = [{"from": _FROM[role], "value": content} for role, content in answer.prompt]
    if answer.calls:
        calls = [{"name": call.name, "arguments": json.loads(call.arguments)} for call in answer.calls]
        said = calls[0] if len(calls) == 1 else calls
        turns.append({"from": "function_call", "value": json.dumps(said, ensure_ascii=False)})
    else:
        turns.append({"from": "gpt", "value": text})
    row: Row = {"conversations": turns}
    return row if style.tools is None else row | {"tools": json.dumps(list(style.tools), ensure_ascii=False)}
