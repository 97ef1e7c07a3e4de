"""How a text holds its reasoning: <think>, a line break, the reasoning, a line break, </think>, a blank line, the text.

`dataset.reasoning: inline` writes completions this way, and open models write their answers this way.
"""

_OPENING, _CLOSING = "<think>\n", "\n</think>\n\n"


def with_reasoning(reasoning: str, text: str) -> str:
    """The text with the reasoning in front of it."""
    return f"{_OPENING}{reasoning}{_CLOSING}{text}"


def split_reasoning(text: str) -> tuple[str | None, str]:
    """The reasoning and the text of what `with_reasoning` returned; None and the text as it is for any other text."""
    if not text.startswith(_OPENING):
        return None, text
    reasoning, _, rest = text.removeprefix(_OPENING).partition(_CLOSING)
    return reasoning, rest
