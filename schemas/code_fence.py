"""Models often put JSON into a code fence, which is not part of the answer."""

import re

_FENCE = re.compile(r"\s*```[A-Za-z]*[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)


def without_fence(text: str) -> str:
    """The text without a code fence around all of it."""
    fenced = _FENCE.fullmatch(text)
    return fenced[1] if fenced else text
