"""Reasoning and markup in an answer's text. The text is split only if it clearly begins with reasoning.

The signs are an opening tag at the start of the text, or a closing tag alone on its line outside code and quotes, whose
opening tag came from the chat template. Everything else stays in the text; a tag or special token left outside code and
quotes is markup, and such an answer is not suitable for training.
"""

import re
from typing import Literal, NamedTuple, TypeAlias

Dialect: TypeAlias = Literal["auto", "none"] | tuple[str, str]
"""How a teacher marks its reasoning: detected, not at all, or by (opening, closing)."""

_WORD = r"(?:[a-z]{1,12}:)?(?:think|thinking|thought|thoughts|reasoning|reflection)"
_OPENS = re.compile(rf"\s*(?:<({_WORD})(?:\s[^<>\n]{{0,80}})?>|\[(THINK)\]|(<\|begin_of_thought\|>))", re.IGNORECASE)
_CLOSES = re.compile(rf"</{_WORD}\s*>|\[/THINK\]|<\|end_of_thought\|>", re.IGNORECASE)
_TAG = re.compile(rf"</?{_WORD}(?:\s[^<>\n]{{0,80}})?>|\[/?THINK\]", re.IGNORECASE)
_CHANNEL = re.compile(
    r"(?:<\|start\|>)?(?:assistant)?<\|channel\|>\s*(\w+)[^<\n]{0,80}?<\|message\|>(.*?)"
    r"(?=<\|end\|>|<\|return\|>|<\|call\|>|<\|start\|>|<\|channel\|>|\Z)(?:<\|end\|>|<\|return\|>|<\|call\|>)?",
    re.DOTALL,
)
_STRIPPED_CHANNELS = re.compile(r"analysis(?=[A-Z\s\"'])(.*)assistantfinal(.*)", re.DOTALL)
"""Harmony (gpt-oss) with its special tokens stripped."""

_SPECIAL = re.compile(
    r"<\|/?[A-Za-z][\w-]{0,40}\|>"  # <|im_end|>, <|eot_id|>, <|channel|>
    r"|<｜[^<>｜\n]{1,60}｜>"
    r"|</?(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
    r"|</s>\s*\Z|\A\s*<s>"
)
_CODE = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[^\n]*\n.*?^[ \t]*\1[^\n]*$|(?<!`)(`{1,2})(?!`)[^\n]+?(?<!`)\2(?!`)", re.DOTALL | re.MULTILINE
)
"""Closed fenced code, and inline code."""
_QUOTED = re.compile(
    r"\"[^\"\n]{0,200}\"|(?<!\w)'[^'\n]{1,80}'(?!\w)|“[^”\n]{0,200}”|(?<!\w)‘[^’\n]{1,80}’|«[^»\n]{0,200}»"
)


class Split(NamedTuple):
    """A text and the reasoning that was in it."""

    text: str
    thoughts: str | None


def split_thoughts(text: str, dialect: Dialect = "auto") -> Split:
    """Split off the reasoning that the text begins with."""
    if dialect == "none":
        return Split(text, None)
    if dialect != "auto":
        return _declared(text, *dialect)
    if "<|channel|>" in text and (split := _channels(text)) is not None:
        return split
    if text.startswith("analysis") and (found := _STRIPPED_CHANNELS.fullmatch(text)) is not None:
        return Split(found[2].strip(), found[1].strip())
    if "<" not in text and "[" not in text:  # nearly all answers, recognised without a regular expression
        return Split(text, None)
    if (opened := _OPENS.match(text)) is not None:
        return _after_opening(text, opened)
    return _template_opened(text)


def has_markup(text: str, dialect: Dialect = "auto") -> bool:
    """True if the text has reasoning tags or special tokens outside code and quotes."""
    if "<" not in text and "[" not in text:
        return False
    patterns = (_SPECIAL,) if dialect == "none" else (_SPECIAL, _TAG)
    found = [pattern for pattern in patterns if pattern.search(text)]  # rare, so blanking is rarely needed
    return bool(found) and any(pattern.search(_blanked(text)) for pattern in found)


def _blanked(text: str) -> str:
    """The text with code and quotes blanked; offsets stay the same."""
    for pattern in (_CODE, _QUOTED):
        text = pattern.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    return text


def _after_opening(text: str, opened: re.Match[str]) -> Split:
    """Reasoning ends at the last closing tag alone on its line, else at the first one outside code and quotes."""
    closing = _closing_of(opened[1] or opened[2] or opened[3])
    body = text[opened.end() :]
    places = list(closing.finditer(_blanked(body)))
    # Reasoning may stop in the middle of code: a tag alone on its line ends it, even inside an open fence.
    alone = [place for place in places or closing.finditer(body) if _is_alone(body, place)]
    if not places and not alone:
        return Split("", body.strip())
    end = alone[-1] if alone else places[0]
    return Split(body[end.end() :].lstrip(), body[: end.start()].strip())


def _closing_of(name: str) -> re.Pattern[str]:
    if name.upper() == "THINK" and name.isupper():
        return re.compile(r"\[/THINK\]|</THINK>")
    if name.startswith("<|"):
        return re.compile(re.escape("<|end_of_thought|>"), re.IGNORECASE)
    return re.compile(rf"</{re.escape(name)}\s*>", re.IGNORECASE)


def _template_opened(text: str) -> Split:
    """Only the closing tag is present, because the chat template ended with the opening one."""
    if _CLOSES.search(text) is None:
        return Split(text, None)
    blanked = _blanked(text)
    places = [place for place in _CLOSES.finditer(blanked) if _is_alone(text, place)]
    if not places or _TAG.search(blanked[: places[0].start()]):
        return Split(text, None)
    end = places[-1]
    return Split(text[end.end() :].lstrip(), text[: end.start()].strip())


def _is_alone(text: str, place: re.Match[str]) -> bool:
    """True if nothing else is on the tag's line."""
    line = text[text.rfind("\n", 0, place.start()) + 1 : place.start()]
    after = text.find("\n", place.end())
    return not line.strip() and not text[place.end() : len(text) if after < 0 else after].strip()


def _declared(text: str, opening: str, closing: str) -> Split:
    """Split by the recipe's own tags; the opening one may have come from the chat template."""
    head = text.lstrip()
    opened = bool(opening) and head.startswith(opening)
    body = head[len(opening) :] if opened else text
    places = list(re.finditer(re.escape(closing), body))
    if not places:
        return Split("", body.strip()) if opened else Split(text, None)
    end = next((place for place in reversed(places) if _is_alone(body, place)), places[0])
    return Split(body[end.end() :].lstrip(), body[: end.start()].strip())


def _channels(text: str) -> Split | None:
    """Harmony (gpt-oss): the channel `final` is the answer; None if the text is not fully made of channels."""
    said: dict[str, list[str]] = {}
    at = 0
    for found in _CHANNEL.finditer(text):
        if found.start() != at:
            return None
        said.setdefault(found[1].lower(), []).append(found[2])
        at = found.end()
    if text[at:].strip() or not said.keys() <= {"analysis", "final"}:
        return None
    return Split("".join(said.get("final", [])).strip(), "\n".join(said.get("analysis", [])).strip() or None)
