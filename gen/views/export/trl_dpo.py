"""`trl-dpo`: preference pairs for TRL's DPOTrainer, with an explicit prompt."""

from stillhouse.gen.views.export.answer import Answer
from stillhouse.gen.views.export.base import Row, Style, messages_of


def trl_dpo(chosen: Answer, rejected: Answer, style: Style) -> Row:
    """See `OfPairs`."""
    return style.with_tools(
        {
            "prompt": messages_of(chosen),
            "chosen": [style.message_of(chosen)],
            "rejected": [style.message_of(rejected)],
        }
    )
