"""The log-probabilities in an answer, in the form of OpenAI's chat completions, kept as bytes if they are plain.

They are by far the largest part of a reply that has them: `cut` takes them out of its body unparsed, so that the rest
is read as cheaply as any other reply. They are parsed when they are stored, straight into Arrow's memory
(`gen.worker.score_columns`). Log-probabilities in any other form stay in the document and are read with it.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stillhouse.gen.teachers.in_pieces import holds, is_utf8, search
from stillhouse.gen.teachers.json_text import dumped
from stillhouse.gen.teachers.long_lists import CUT, CUT_LIST, list_in, take_out

ID_PREFIX = "token_id:"
"""vLLM's prefix of an id in place of a token's text."""
MAX_TOKEN_ID = 2**31
"""Above every id: ids are int32."""
_HEAD_BYTES = 200
"""Enough for the first token's own fields."""
_MOST = (2 - 2**-23) * 2.0**127
"""The largest float32."""

_BEGIN = {
    "content": re.compile(rb'"logprobs": ?\{"content": ?(?=\[\{"[^\n]{0,400}?"logprob":)'),
    "part": re.compile(rb'"logprobs": ?(?=\[\{"[^\n]{0,400}?"logprob":)'),
}
"""The bytes before the entries, in a chat completion and in a part of a response's message."""
_END = {
    "content": re.compile(rb'\}\](?=(?:, ?"refusal": ?(?:null|\[\]))?\}(?:, ?"|\}))'),
    "part": re.compile(rb'\}\](?=, ?")'),
}
"""The end of the entries, which the bytes after it distinguish from the end of a token's alternatives."""
_BEGIN_ANYHOW = {
    "content": re.compile(
        rb'(?<=[{,\s])"logprobs"\s*:\s*\{\s*(?:"refusal"\s*:\s*(?:null|\[\])\s*,\s*)?"content"\s*:\s*\['
    ),
    "part": re.compile(rb'(?<=[{,\s])"logprobs"\s*:\s*\['),
}
"""The bytes before the entries, however the body is written; see `take_out`."""
_UNUSUAL = (b"\n", b"\\ud", b"\\uD", b"\\u0000")
"""Halves of surrogate pairs, and line breaks between values."""


class CutBody(NamedTuple):
    """A body in two parts."""

    rest: bytes
    """The body with `CUT` in place of the entries."""
    entries: bytes
    """A list as JSON, not parsed."""


def cut(body: bytes, *, where: str = "content") -> CutBody | None:
    """Take the entries out of a body; None unless there is exactly one list of them, written compactly in UTF-8, or
    one long enough to be read in pieces.

    The end is the first one after which the rest of the body can continue. It can't be inside a token's text: there the
    quotes that follow would pair the other way round, and the rest would not parse.
    """
    begin = search(_BEGIN[where], body)
    if begin is None or (end := search(_END[where], body, begin.end())) is None:
        return _cut_in_pieces(body, where)
    entries = body[begin.end() : end.end()]
    rest = body[: begin.end()] + CUT + body[end.end() :]
    if (
        search(_BEGIN[where], rest) is not None
        or any(holds(entries, each) for each in _UNUSUAL)
        or not is_utf8(entries)
    ):
        return _cut_in_pieces(body, where)
    return CutBody(rest, entries)


def _cut_in_pieces(body: bytes, where: str) -> CutBody | None:
    """Take out a long list, however it is written. Of several choices' lists only the first is kept, because only the
    first choice is read."""
    if (taken := take_out(body, _BEGIN_ANYHOW[where])) is None:
        return None
    try:
        entries = [dumped(part)[1:-1] for part in taken.lists[0].parts()]
    except (ValueError, RecursionError):
        return None
    return CutBody(taken.rest, b"[%b]" % b",".join(entries))


@dataclass(frozen=True, slots=True)
class TokenScores:
    """The log-probabilities of one answer's tokens, in order."""

    entries: bytes | Sequence[dict[str, Any]]
    """Per token {token, logprob, bytes, id, top_logprobs: [{token, logprob, bytes, id}]}; all but token and logprob
    may be missing. As bytes: the JSON of such a list, unchecked."""
    token_ids: Sequence[Any] | None = None
    """Ids of the tokens that the server gives beside the entries."""

    @classmethod
    def of(cls, entries: Any, token_ids: Any = None, *, cut_out: bytes | None = None) -> "TokenScores | None":
        """The log-probabilities in this list; None if it is not a list, or empty. `cut_out`: the entries that were cut
        out of the body."""
        if not entries or not isinstance(entries, list):
            return None
        ids = token_ids if isinstance(token_ids, list) else None
        if cut_out is not None and entries == CUT_LIST:
            return cls(cut_out, ids)
        found = cls(entries, ids if ids is not None and len(ids) == len(entries) else None)
        return None if found.rows() is None else found

    @property
    def has_ids(self) -> bool:
        """True if the first token seems to have an id, which need not be valid."""
        if self.token_ids:
            return True
        if not isinstance(self.entries, bytes):
            return _row(self.entries[0], None)["token_id"] is not None
        return any(each in self.entries[:_HEAD_BYTES] for each in (ID_PREFIX.encode(), b'"id"'))

    def parts(self) -> "Iterator[TokenScores]":
        """These scores in parts whose entries are objects; free one part's objects before you take the next.

        Raises:
            ValueError: the entries are not JSON, or not a list.
        """
        if not isinstance(self.entries, bytes):
            yield self
            return
        if (whole := list_in(self.entries)) is None:
            raise ValueError("not a list")
        ids = self.token_ids if self.token_ids is not None and len(self.token_ids) == len(whole) else None
        at = 0
        for part in whole.parts():
            yield TokenScores(part, None if ids is None else ids[at : at + len(part)])
            at += len(part)

    def rows(self) -> list[dict[str, Any]] | None:
        """Per token {token, token_id, logprob, top: [{token, token_id, logprob}]}; None if they can't be read.

        A null log-probability (llama.cpp) is unknown: NaN. One that is not a number, or that a float32 can't hold,
        can't be read. An id that is not an int32 is None. Bytes that are not text are written as `<0xE2><0x82>`.
        """
        if isinstance(self.entries, bytes):
            try:
                found = [part.rows() for part in self.parts()]
            except (ValueError, RecursionError):
                return None
            return [row for rows in found for row in rows or ()] if None not in found else None
        ids = self.token_ids or [None] * len(self.entries)
        try:
            return [
                _row(entry, token_id) | {"top": [_row(top, None) for top in entry.get("top_logprobs") or []]}
                for entry, token_id in zip(self.entries, ids, strict=True)
            ]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return None


def _row(entry: dict[str, Any], token_id: Any) -> dict[str, Any]:
    token, logprob = entry["token"], entry["logprob"]
    digits = token.removeprefix(ID_PREFIX)
    if token_id is None and digits != token and digits.isascii() and digits.isdecimal() and len(digits) <= 10:
        token_id = int(digits)
    if token_id is None:  # llama.cpp's and Gemini's place for it
        token_id = entry.get("id")
    raw = given_bytes(entry)
    return {
        "token": _spelt(raw) if raw and (not token or "\ufffd" in token) and _is_broken(raw) else token,
        "token_id": token_id if type(token_id) is int and 0 <= token_id < MAX_TOKEN_ID else None,
        "logprob": math.nan if logprob is None else _number(logprob),
    }


def _number(value: Any) -> float:
    if type(value) not in (int, float):  # float() takes truths and texts
        raise TypeError("not a number")
    if abs(value) > _MOST:
        raise OverflowError("not a float32")
    return float(value)


def given_bytes(entry: dict[str, Any]) -> bytes:
    """The token's bytes as the server gives them; empty if it does not."""
    given = entry.get("bytes")
    try:
        return bytes(given) if isinstance(given, list) else b""  # bytes() of a number would be that many bytes
    except (TypeError, ValueError):
        return b""


def _spelt(raw: bytes) -> str:
    """The notation for bytes in vocabularies."""
    return "".join(f"<0x{byte:02X}>" for byte in raw)


def _is_broken(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return True
    return False
