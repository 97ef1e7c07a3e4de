"""Makes foreign text safe for a terminal or a log line: it can't move the cursor, hide, reorder or forge a line."""

import unicodedata

_ACTS = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Categories of control, format (bidi, zero width), surrogate, private and unassigned characters, and of line
separators."""


def inert(text: str) -> str:
    """The text on one line, with every control or invisible character replaced by its escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(char: str) -> str:
    return char.encode("unicode_escape").decode() if unicodedata.category(char) in _ACTS else char
