"""Where a solution states its final answer: in the last box, after `####`, or after "the answer is"."""

import re
from dataclasses import dataclass
from typing import Literal

from stillhouse.gen.checks.plain_number import plain_number

TAIL_CHARS = 1_000
"""Where nothing marks the final answer, it is looked for in so much of the end."""
_BOXES = ("\\boxed", "\\fbox", "\\framebox")
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
    """`whole`: by nothing; the text is the end of the solution."""
    rest: str = ""
    """With `words`: all that follows them, the text included."""


def final_answer(text: str) -> FinalAnswer:
    """The final answer of a solution; the last one that is marked counts."""
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
    """The text without the dollar signs, brackets, stars or full stop around it."""
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
    """Where the last box begins that ends, and what is in it."""
    end = len(text)
    while (at := max(text.rfind(box, 0, end) for box in _BOXES)) >= 0:
        brace = at + next(len(box) for box in _BOXES if text.startswith(box, at))
        while brace < len(text) and text[brace] == " ":
            brace += 1
        if text[brace : brace + 1] == "{":
            if (close := _closing(text, brace)) is not None:
                return at, text[brace + 1 : close]
        elif (word := re.compile(r"[^\s{}$]+").match(text, brace)) is not None:
            return at, word[0]
        end = at
    return -1, None


def _closing(text: str, opening: int) -> int | None:
    depth = 0
    for found in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, opening):
        if found[0] == "{":
            depth += 1
        elif found[0] == "}":
            depth -= 1
            if depth == 0:
                return found.start()
    return None


def _last_hashes(text: str) -> tuple[int, str | None]:
    """Where the last `####` stands that marks an answer, not a heading: nothing follows it, or it marks a number."""
    at = text.rfind(_HASHES)
    if at < 0:
        return -1, None
    line, _, rest = text[at:].lstrip("#").partition("\n")
    line = re.sub(r"^\s*(?:final\s+)?answer\s*:\s*", "", line.strip(), flags=re.IGNORECASE)
    if line and (not rest.strip() or plain_number(unwrapped(line)) is not None):
        return at, line
    return -1, None
