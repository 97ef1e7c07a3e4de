"""A completion from an answer that comes as blocks: texts, reasoning and calls in any order."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from stillhouse.gen.teachers.outcome import Malformed, Outcome, ServerError
from stillhouse.gen.teachers.protocols.finish import finish_of
from stillhouse.gen.teachers.thinking import Dialect, has_markup, split_thoughts
from stillhouse.schemas.completion import Completion, FinishReason, ReasoningSource, Usage


@dataclass(slots=True)
class BlockContents:
    """The contents of an answer's blocks, each kind in order, and the fields around them; as on the wire, unchecked."""

    source: ReasoningSource
    """The field in which this API returns reasoning."""
    finish: Any
    model: Any
    response_id: Any
    usage: Usage
    category: Any = None
    """The category of a refusal."""
    explanation: Any = None
    """Why it was refused."""
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    signatures: list[Mapping[str, Any]] = field(default_factory=list)
    calls: list[Mapping[str, Any]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Types of blocks of other kinds."""


def blocks_in(content: Any) -> list[Any]:
    """A message's content as blocks: some servers send a text, or just one block; null means none."""
    if content is None:
        return []
    given = content if isinstance(content, list) else [content]
    return [{"type": "text", "text": each} if isinstance(each, str) else each for each in given if each is not None]


def completion_of(
    contents: BlockContents, finishes: Mapping[str, FinishReason], dialect: Dialect, *, is_summary: bool | None
) -> Outcome:
    """The completion, or what its absence means. `is_summary`: of the reasoning, if it is in blocks."""
    raw = _text(contents.finish) or None
    finish = finish_of(raw, finishes)
    if finish == "failed":
        return ServerError(f"the answer broke off ({raw})", 200, contents.usage)
    text = "".join(contents.texts) if contents.texts else None
    reasoning, source = "\n\n".join(filter(None, contents.thoughts)) or None, contents.source
    if reasoning is None and text is not None:  # a server behind this protocol may leave reasoning in the text
        split = split_thoughts(text, dialect)
        text, reasoning, source, is_summary = split.text, split.thoughts, "think_tag", None
    if not (text or contents.calls or reasoning or contents.signatures) and (
        raw is None or finish in ("stop", "tool_calls")
    ):
        kinds = f" (blocks of type {', '.join(sorted(set(contents.others)))[:80]})" if contents.others else ""
        return Malformed(f"the message has no content{kinds}", 200, contents.usage)
    return Completion(
        text=text,
        finish_reason=finish,
        finish_reason_raw=raw[:200] if raw else None,
        reasoning=reasoning,
        reasoning_source=None if reasoning is None else source,
        tool_calls=orjson.dumps(contents.calls).decode() if contents.calls else None,
        refusal=_refusal(contents, text) if finish == "refused" else None,
        model=_text(contents.model),
        response_id=_text(contents.response_id),
        usage=contents.usage,
        markup=text is not None and has_markup(text, dialect),
        reasoning_is_summary=None if reasoning is None else is_summary,
        reasoning_signatures=orjson.dumps(contents.signatures).decode() if contents.signatures else None,
        refusal_category=_text(contents.category),
    )


def _refusal(contents: BlockContents, text: str | None) -> str:
    return _text(contents.explanation) or text or f"refused ({_text(contents.category) or 'no reason given'})"


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
