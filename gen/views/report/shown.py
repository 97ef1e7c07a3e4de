"""Foreign text for a page: cut to size, with nothing in it that hides, reorders or acts."""

import re

from stillhouse.gen.inert import inert

TEXT_CHARS = 4000
"""Maximum length of a message, an answer or its reasoning."""
CELL_CHARS = 300
"""Maximum length of anything smaller, such as a table's cell."""

_KEPT = re.compile("([\n\t\u200c\u200d])")
"""Line breaks, tabs, and the joiners of some scripts and emoji: in a page they only affect the layout."""


def shown(text: str, *, most: int = CELL_CHARS) -> str:
    """The text in visible characters, cut to at most this many."""
    cut = text[:most].replace("\r\n", "\n")
    clean = "".join(part if _KEPT.fullmatch(part) else inert(part) for part in _KEPT.split(cut))
    return clean if len(text) <= most else f"{clean}… ({len(text) - most:,} more characters)"
