"""Foreign text for a terminal or a log line: nothing in it can move the cursor, hide, reorder or forge a line."""

import unicodedata

_ACTS = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Control, format (bidi, zero width), surrogate, private, unassigned, and the separators that end a line."""


def inert(text: str) -> str:
    """The text on one line, with every character that acts or can't be seen written as its escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(char: str) -> str:
    return char.encode("unicode_escape").decode() if unicodedata.category(char) in _ACTS else char
