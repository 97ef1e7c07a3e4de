"""Foreign text for a page: cut to size, with nothing in it that hides, reorders or acts."""

import re

from stillhouse.gen.inert import inert

TEXT_CHARS = 4000
"""Maximum length of a message, an answer or a reasoning,"""
CELL_CHARS = 300
"""and of anything smaller."""

_KEPT = re.compile("([\n\t\u200c\u200d])")
"""Line breaks, tabs, and the joiners of some scripts and emoji: in a page they only affect the layout."""


def shown(text: str, *, most: int = CELL_CHARS) -> str:
    """At most this many characters, each of which is visible."""
    cut = text[:most].replace("\r\n", "\n")
    clean = "".join(part if _KEPT.fullmatch(part) else inert(part) for part in _KEPT.split(cut))
    return clean if len(text) <= most else f"{clean}… ({len(text) - most:,} more characters)"
