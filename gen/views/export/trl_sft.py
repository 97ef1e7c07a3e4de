"""`trl-sft`: prompt and completion for TRL's SFTTrainer, which trains on the completion only."""

from stillhouse.gen.views.export.answer import Answer
from stillhouse.gen.views.export.base import Row, Style, messages_of


def trl_sft(answer: Answer, style: Style) -> Row:
    """See `OfAnswers`."""
    return style.with_tools({"prompt": messages_of(answer), "completion": [style.message_of(answer)]})
