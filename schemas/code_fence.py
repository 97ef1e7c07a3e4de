"""Models like to put JSON into a code fence, which is not part of it."""

import re

_FENCE = re.compile(r"\s*```[A-Za-z]*[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)


def without_fence(text: str) -> str:
    """The text, without the one code fence that may stand around all of it."""
    fenced = _FENCE.fullmatch(text)
    return fenced[1] if fenced else text
