"""Converts expressions as people type them into LaTeX that math-verify can read."""

import re

_AS_LATEX = (
    (re.compile(r"\bsqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"√\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"√\s*(\w+)"), r"\\sqrt{\1}"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"(?<![\\A-Za-z])(pi|cup|cap|infty|infinity|alpha|theta)\b"), r"\\\1 "),
    (re.compile(r"\\infinity"), r"\\infty"),
)
_NO_MATTER = re.compile(r"\\!|\\(?:left|right|displaystyle)(?![A-Za-z])")
_THIN_SPACE = re.compile(r"\\[,;: ]|~")
_SPACE = re.compile(r"(?<!\w)\s+|\s+(?!\w)")
"""White space except between two words or numbers: `3 1/2` is not `31/2`."""
_SIGNS = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "×": "\\times ",
        "·": "\\cdot ",
        "÷": "/",
        "π": "\\pi ",
        "∞": "\\infty ",
        "∪": "\\cup ",
        "∩": "\\cap ",
        "≤": "\\le ",
        "≥": "\\ge ",
        "≠": "\\ne ",
        "∅": "\\emptyset ",
        "²": "^2",
        "³": "^3",
    }
)
"""What people type, as LaTeX."""


def as_latex(text: str) -> str:
    """The text with its informal notation rewritten as LaTeX."""
    text = text.translate(_SIGNS)
    for pattern, latex in _AS_LATEX:
        text = pattern.sub(latex, text)
    return text


def squeezed(text: str) -> str:
    """The text without what makes no difference in LaTeX: texts that are then equal are the same expression."""
    text = _NO_MATTER.sub("", text.translate(_SIGNS)).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return _SPACE.sub("", _THIN_SPACE.sub(" ", text))
