"""`messages-jsonl`: one conversation per line, for OpenAI's fine-tuning, axolotl, torchtune and verl."""

from stillhouse.gen.views.export.answer import Answer
from stillhouse.gen.views.export.base import Row, Style, messages_of


def messages_jsonl(answer: Answer, style: Style) -> Row:
    """See `OfAnswers`."""
    return style.with_tools({"messages": [*messages_of(answer), style.message_of(answer)]})
