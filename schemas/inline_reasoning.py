"""How a text holds its reasoning: <think>, a line break, the reasoning, a line break, </think>, a blank line, the text.

So writes `dataset.reasoning: inline` a completion, and so do open models their answers.
"""

_OPENING, _CLOSING = "<think>\n", "\n</think>\n\n"


def with_reasoning(reasoning: str, text: str) -> str:
    """The text with the reasoning at its head."""
    return f"{_OPENING}{reasoning}{_CLOSING}{text}"


def split_reasoning(text: str) -> tuple[str | None, str]:
    """The reasoning and the text of what `with_reasoning` returned; None and the text as it is for any other."""
    if not text.startswith(_OPENING):
        return None, text
    reasoning, _, rest = text.removeprefix(_OPENING).partition(_CLOSING)
    return reasoning, rest
