"""The contract of a format: rows of JSON, made from single answers or from pairs of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias

from stillhouse.gen.views.export.answer import Answer, called
from stillhouse.schemas.inline_reasoning import with_reasoning

Row: TypeAlias = dict[str, Any]
"""One line of the exported file."""

Reasoning: TypeAlias = Literal["drop", "inline", "field"]
"""What to do with reasoning that the dataset holds in a column: drop it, put it at the start of the text between
<think> tags, or into the message's field `reasoning_content`, which the chat templates of Qwen and DeepSeek read."""


class NoPlace(Exception):
    """The format has no place for something in the answer; says what."""


@dataclass(frozen=True, slots=True)
class Style:
    """Settings that all rows of an export share."""

    reasoning: Reasoning
    tools: Sequence[Any] | None
    """The tools that the teacher was offered, in OpenAI's form; None: none, or tools in another form."""

    def of(self, answer: Answer) -> "Style":
        """The style of this answer's row, which may have its own tools."""
        return (
            self if answer.tools is None else replace(self, tools=[json.loads(tool) for tool in answer.tools] or None)
        )

    def text_of(self, answer: Answer) -> str:
        """The answer's text, with the reasoning inside it if the style says so."""
        if self.reasoning == "inline" and answer.reasoning is not None:
            return with_reasoning(answer.reasoning, answer.text)
        return answer.text

    def message_of(self, answer: Answer) -> Row:
        """The assistant's message, in the form of chat templates."""
        message: Row = {"role": "assistant", "content": self.text_of(answer)}
        if self.reasoning == "field" and answer.reasoning is not None:
            message["reasoning_content"] = answer.reasoning
        if answer.calls:
            message["tool_calls"] = [called(*call) for call in answer.calls]
        return message

    def with_tools(self, row: Row) -> Row:
        """The row, with the tools that were offered."""
        return row if self.tools is None else row | {"tools": list(self.tools)}


class OfAnswers(Protocol):
    """A format with a row for each record."""

    def __call__(self, answer: Answer, style: Style) -> Row:
        """The record's row.

        Raises:
            NoPlace: the format can't hold it.
        """
        ...


class OfPairs(Protocol):
    """A format with a row for each pair of a better and a worse answer to one prompt."""

    def __call__(self, chosen: Answer, rejected: Answer, style: Style) -> Row:
        """The pair's row.

        Raises:
            NoPlace: the format can't hold it.
        """
        ...


def messages_of(answer: Answer) -> list[Row]:
    """The prompt as messages."""
    return list(map(dict, answer.prompt))
