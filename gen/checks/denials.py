"""Numbers that a sentence only denies, compares with or gives as a bound; none of them is its answer.

`It is not 70 but 72`, `72, which is more than 50`, `between 70 and 80`, `72 is wrong`: such numbers are blanked, so
that a search for the answer does not find them.
"""

import re

BLANK = "…"
"""Replaces each blanked character."""

_THING = (
    r"(?:\$[^$\n]{1,100}\$(?!\d)|\\\(.{1,100}?\\\)|\\boxed\{[^{}\n]{1,100}\}"
    r"|\*{0,2}[-+\u2212]?\\?[$€£¥]?\d[\d,]*(?:\.\d+)?(?:\s?\\?%|\*{1,2})?)"
)
"""A number or a formula."""
_FILLER = r"(?:(?:be|been|equal(?:\s+to)?|exactly|actually|really|simply|the\s+number|quite|(?!only\b)\w+ly)\s+){0,3}"
_NOT = r"(?:\bnot|n['’]t|\bnever|\bneither|\bno\s+longer|\banything\s+but|\bcannot|\\text\{\s*not\s*\}|\\not)"
_COMPARED = (
    r"\b(?:(?:more|less|fewer|greater|larger|bigger|smaller|higher|lower|other|rather)\s+than|instead\s+of"
    r"|as\s+opposed\s+to|(?:greater|less)\s+than\s+or\s+equal\s+to|compared\s+(?:to|with))"
)
_SIGN = r"(?:[<>](?!=)|≠|!=|\\(?:neq?|lt|gt)(?![A-Za-z]))"
"""Inclusive bounds are left alone: they may be the answer."""
_WRONG = (
    r"(?:(?:is|was|would\s+be|can|could|are)(?:n['’]t|not|\s+not)|(?:is|was|would\s+be)\s+"
    r"(?:wrong|incorrect|false|impossible|too\s+\w+|a\s+mistake))\b"
)
_COMPARISONS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\bbetween\s+{_THING}\s+and\s+{_THING}",
        rf"\A\W{{0,4}}{_THING}\s*(?:–|\bto\b)\s*{_THING}",
        rf"\A\W{{0,4}}(?:above|below|under|over)\s+{_THING}",
        rf"{_COMPARED}\s+{_FILLER}{_THING}",
        rf"{_SIGN}\s*{_THING}",
    )
)
_DENIALS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\bneither\s+{_THING}\s+nor\s+{_THING}",
        rf"{_NOT}\s+{_FILLER}{_THING}",
        rf"{_THING},?\s+(?:(?:but|and)\s+)?(?:(?:that|this|it|which)\s+)?{_WRONG}",
    )
)
_SUSPECT = re.compile(
    rf"{_NOT}|{_COMPARED}|{_SIGN}|\b(?:between|wrong|incorrect|false|impossible|too|mistake|to|above|below|under|over)\b|–",
    re.IGNORECASE,
)
"""One search that rules out all the others for most texts."""
_NEGATED = re.compile(rf"\W{{0,4}}(?:\w+ly\s+)?(?:{_NOT})|\W{{0,4}}(?:\\neq?(?![A-Za-z])|≠|!=)", re.IGNORECASE)


def is_denied(answer: str) -> bool:
    """True if a stated answer only says what the answer is not."""
    return _NEGATED.match(answer) is not None


def without_denied(text: str, *, compared: bool = True) -> str:
    """The text with denied numbers blanked, and on request `compared` ones too; everything else is unchanged."""
    if _SUSPECT.search(text) is None:
        return text
    for pattern in (*_COMPARISONS, *_DENIALS) if compared else _DENIALS:
        text = pattern.sub(lambda found: BLANK * len(found[0]), text)
    return text
