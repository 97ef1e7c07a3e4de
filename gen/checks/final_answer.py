"""Finds where a solution states its final answer: in the last box, after `####`, or after "the answer is"."""

import re
from dataclasses import dataclass
from typing import Literal

from stillhouse.gen.checks.plain_number import plain_number

TAIL_CHARS = 1_000
"""If nothing marks the final answer, it is searched in this many characters of the end."""
_BOX = re.compile(r"\\(?:boxed|fbox|framebox) *")
_BOXED_WORD = re.compile(r"[^\s{}$]+")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_HASHES = "####"
_STATED = re.compile(
    r"\banswer\b(?:\s+(?:to|of|for)\s[^.\n:]{1,100}?)?\**\s*"
    r"(?:(?:is|are|equals|was|will be|would be|=|:)"
    r"(?:\s+(?:therefore|thus|then|simply|just|about|approximately|exactly))?"
    r"\s*:?)\**\s*(?=\S)",
    re.IGNORECASE,
)
_SENTENCE_ENDS = re.compile(r"\.(?=\s+[A-Z\\])|[,;]?\s+(?:because|since|as|so|which|where|when|given|after|if)\s")
_WRAPPED = re.compile(r"\$\$(.*)\$\$|\$(.*)\$|\\\((.*)\\\)|\\\[(.*)\\\]|\*\*(.*)\*\*|`(.*)`", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """The text that states it, and how it was marked."""

    text: str
    marked: Literal["box", "hashes", "words", "whole"]
    """`whole`: not marked; the text is the end of the solution."""
    rest: str = ""
    """With `words`: everything after them, including the text."""


def final_answer(text: str) -> FinalAnswer:
    """The final answer of a solution; the last marked one counts."""
    boxed_at, boxed = _last_box(text)
    hashed_at, hashed = _last_hashes(text)
    if boxed is not None and boxed_at > hashed_at:
        return FinalAnswer(unwrapped(boxed), "box")
    if hashed is not None:
        return FinalAnswer(unwrapped(hashed), "hashes")
    tail = text[-TAIL_CHARS:].strip()
    stated = None
    for stated in _STATED.finditer(tail):  # noqa: B007 - the last one is wanted
        pass
    if stated is not None:
        rest = tail[stated.end() :]
        said = _SENTENCE_ENDS.split(rest.partition("\n")[0].strip(), maxsplit=1)[0].rstrip(" !")
        return FinalAnswer(unwrapped(said if said.endswith("...") else said.rstrip(" .!")), "words", rest)
    return FinalAnswer(tail, "whole")


def unwrapped(text: str) -> str:
    """The text without surrounding dollar signs, brackets, stars or a full stop."""
    text = text.strip()
    while True:
        bare = text.rstrip(".").strip() if not text.endswith("..") else text
        if found := _WRAPPED.fullmatch(bare):
            inner = next(group for group in found.groups() if group is not None).strip()
            if "$" not in inner and "\\(" not in inner and "**" not in inner:
                bare = inner
        if bare == text:
            return text
        text = bare


def _last_box(text: str) -> tuple[int, str | None]:
    """Where the last complete box begins, and its content."""
    boxes = list(_BOX.finditer(text))
    closings = _closings(text, boxes[0].end()) if boxes else {}
    for box in reversed(boxes):
        if text[box.end() : box.end() + 1] == "{":
            if (close := closings.get(box.end())) is not None:
                return box.start(), text[box.end() + 1 : close]
        elif (word := _BOXED_WORD.match(text, box.end())) is not None:
            return box.start(), word[0]
    return -1, None


def _closings(text: str, start: int) -> dict[int, int]:
    """Where each brace that opens at `start` or later is closed, in one pass over the text."""
    found: dict[int, int] = {}
    open_at: list[int] = []
    for token in _BRACE.finditer(text, start):
        if token[0] == "{":
            open_at.append(token.start())
        elif token[0] == "}" and open_at:
            found[open_at.pop()] = token.start()
    return found


def _last_hashes(text: str) -> tuple[int, str | None]:
    """The position of the last `####` that marks an answer rather than a heading: nothing follows it, or it marks a
    number.
    """
    at = text.rfind(_HASHES)
    if at < 0:
        return -1, None
    line, _, rest = text[at:].lstrip("#").partition("\n")
    line = re.sub(r"^\s*(?:final\s+)?answer\s*:\s*", "", line.strip(), flags=re.IGNORECASE)
    if line and (not rest.strip() or plain_number(unwrapped(line)) is not None):
        return at, line
    return -1, None
