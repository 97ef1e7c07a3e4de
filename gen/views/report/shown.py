"""Foreign text for a page: cut to size, and with nothing in it that hides, reorders or acts."""

import re

from stillhouse.gen.inert import inert

TEXT_CHARS = 4000
"""Of a message, an answer or a reasoning,"""
CELL_CHARS = 300
"""and of anything smaller."""

_KEPT = re.compile("([\n\t\u200c\u200d])")
"""Line breaks, tabs, and the joiners that some scripts and emoji are written with: in a page they only lay out."""


def shown(text: str, *, most: int = CELL_CHARS) -> str:
    """At most so many characters, each of which can be seen."""
    cut = text[:most].replace("\r\n", "\n")
    clean = "".join(part if _KEPT.fullmatch(part) else inert(part) for part in _KEPT.split(cut))
    return clean if len(text) <= most else f"{clean}… ({len(text) - most:,} more characters)"
