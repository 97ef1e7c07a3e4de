"""The generateContent document that a stream of them adds up to."""

import itertools
from collections.abc import Sequence
from typing import Any

from stillhouse.gen.teachers.event_stream import UNREADABLE, events_in, repeats
from stillhouse.gen.teachers.lenient_json import piece_in
from stillhouse.gen.teachers.protocols.counts import count_in
from stillhouse.gen.teachers.protocols.gemini_answer import block_reason, continues, parts_of
from stillhouse.gen.teachers.protocols.reply_document import HAS_BEGUN
from stillhouse.gen.teachers.protocols.values import dicts, listed

_PIECE = frozenset({"text", "thought", "thoughtSignature"})
"""Fields of a part that may continue the last one."""
_SCORES = ("chosenCandidates", "topCandidates")


def folded(body: bytes) -> dict[str, Any] | None:
    """The document; an error that came before its end; None if it is incomplete."""
    documents = _documents(body)
    half = repeats(documents)
    return (None if half is None else _folded(half)) or _folded(documents)


def _folded(documents: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    whole: dict[str, Any] = {}
    candidates: dict[int, _Candidate] = {}
    for document in documents:
        if document.get("error"):
            if _is_finished(candidates):
                break
            begun = any(candidate.has_begun for candidate in candidates.values())
            return {"usageMetadata": whole.get("usageMetadata")} | document | {HAS_BEGUN: begun}
        whole |= {name: value for name, value in document.items() if name != "candidates"}
        for each in dicts(document.get("candidates")):
            candidates.setdefault(count_in(each.get("index")) or 0, _Candidate()).add(each)
    if not candidates:
        return whole if block_reason(whole) else None
    if not _is_finished(candidates):
        return None
    return whole | {"candidates": [candidates[index].whole() for index in sorted(candidates)]}


def _is_finished(candidates: "dict[int, _Candidate]") -> bool:
    return bool(candidates) and all(candidate.is_finished for candidate in candidates.values())


def _documents(body: bytes) -> list[dict[str, Any]]:
    """The documents of an event stream, up to one that can't be read, or of an array."""
    if body.lstrip()[:1] == b"[":
        try:
            return dicts(piece_in(body))
        except (ValueError, RecursionError):
            return []
    return dicts(list(itertools.takewhile(lambda event: event is not UNREADABLE, events_in(body))))


class _Candidate:
    """One candidate as its chunks arrive."""

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._parts: list[dict[str, Any]] = []
        self._scores: dict[str, list[Any]] = {}

    @property
    def has_begun(self) -> bool:
        """True if part of it has arrived."""
        return bool(self._parts)

    @property
    def is_finished(self) -> bool:
        """True if its finish reason has come."""
        return bool(self._fields.get("finishReason"))

    def add(self, candidate: dict[str, Any]) -> None:
        """Add one chunk."""
        self._fields |= candidate
        self._parts += parts_of(candidate)
        if isinstance(scores := candidate.get("logprobsResult"), dict):
            for name in _SCORES:
                if (entries := scores.get(name)) is not None:
                    self._scores.setdefault(name, []).extend(listed(entries))

    def whole(self) -> dict[str, Any]:
        """The candidate as if unstreamed."""
        content = {"role": "model", "parts": _joined(self._parts)}
        return {**self._fields, "content": content} | ({"logprobsResult": self._scores} if self._scores else {})


def _joined(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts, with the pieces of a text joined: a character may be split between two of them."""
    found: list[dict[str, Any]] = []
    pieces: list[str] = []  # of the last one
    for part in parts:
        if found and _PIECE.issuperset(part) and continues(part, found[-1]):
            pieces.append(part["text"])
            found[-1] = {**found[-1], **part}
            continue
        _end(found, pieces)
        found.append(part)
        pieces = [part["text"]] if isinstance(part.get("text"), str) else []
    _end(found, pieces)
    return found


def _end(found: list[dict[str, Any]], pieces: list[str]) -> None:
    if len(pieces) > 1:
        found[-1]["text"] = "".join(pieces)
