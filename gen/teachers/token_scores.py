"""The log-probabilities in an answer, in the form of OpenAI's chat completions, kept as bytes if they are plain.

They are by far the largest part of a reply that has them: `cut` takes them out of its body unparsed, so that the rest
is read as cheaply as any other reply. They are parsed when they are stored, straight into Arrow's memory
(`gen.worker.score_columns`). Log-probabilities in any other form stay in the document and are read with it.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from stillhouse.gen.teachers.protocols.counts import count_in

ID_PREFIX = "token_id:"
"""vLLM's prefix of an id in place of a token's text."""
MAX_TOKEN_ID = 2**31
"""Ids are int32."""

CUT = b"[0]"
"""Replaces the entries that were cut out of a body; a list of entries never has a number."""
_CUT_ENTRIES = orjson.loads(CUT)
_BEGIN = {
    "content": re.compile(rb'"logprobs": ?\{"content": ?(?=\[\{"[^\n]{0,400}?"logprob":)'),
    "part": re.compile(rb'"logprobs": ?(?=\[\{"[^\n]{0,400}?"logprob":)'),
}
"""What precedes the entries in a chat completion, and in a part of a response's message."""
_END = {
    "content": re.compile(rb'\}\](?=(?:, ?"refusal": ?(?:null|\[\]))?\}(?:, ?"|\}))'),
    "part": re.compile(rb'\}\](?=, ?")'),
}
"""How the entries end; what follows distinguishes it from the end of a token's alternatives."""
_UNUSUAL = (b"\n", b"\\ud", b"\\uD", b"\\u0000")
"""Halves of surrogate pairs, and line breaks between values."""


class CutBody(NamedTuple):
    """A body in two parts."""

    rest: bytes
    """The body with `CUT` in place of the entries."""
    entries: bytes
    """A list as JSON, not parsed."""


def cut(body: bytes, *, where: str = "content") -> CutBody | None:
    """Take the entries out of a body; None unless there is exactly one list of them, written compactly in UTF-8.

    The end is the first one after which the rest of the body can continue. It can't be inside a token's text: there the
    quotes that follow would pair the other way round, and the rest would not parse.
    """
    begin = _BEGIN[where].search(body)
    if begin is None or (end := _END[where].search(body, begin.end())) is None:
        return None
    entries = body[begin.end() : end.end()]
    rest = body[: begin.end()] + CUT + body[end.end() :]
    if _BEGIN[where].search(rest) is not None or any(each in entries for each in _UNUSUAL):
        return None
    if not entries.isascii():
        try:
            entries.decode()
        except UnicodeDecodeError:
            return None
    return CutBody(rest, entries)


@dataclass(frozen=True, slots=True)
class TokenScores:
    """The log-probabilities of one answer's tokens, in order."""

    entries: bytes | Sequence[dict[str, Any]]
    """Per token {token, logprob, bytes, id, top_logprobs: [the same]}; all but the first two may be missing. As bytes:
    the JSON of such a list, not checked."""
    token_ids: Sequence[Any] | None = None
    """Ids of the tokens that the server gives beside the entries."""

    @classmethod
    def of(cls, entries: Any, token_ids: Any = None, *, cut_out: bytes | None = None) -> "TokenScores | None":
        """The log-probabilities in this list; None if it is anything else, or empty. `cut_out`: what was cut out of
        it."""
        if not entries or not isinstance(entries, list):
            return None
        ids = token_ids if isinstance(token_ids, list) else None
        if cut_out is not None and entries == _CUT_ENTRIES:
            return cls(cut_out, ids)
        found = cls(entries, ids if ids is not None and len(ids) == len(entries) else None)
        return None if found.rows() is None else found

    def parsed(self) -> "TokenScores | None":
        """The scores with their entries parsed as objects; None if they are not objects."""
        if not isinstance(self.entries, bytes):
            return self
        try:
            return TokenScores.of(orjson.loads(self.entries), self.token_ids)
        except orjson.JSONDecodeError:
            return None

    def rows(self) -> list[dict[str, Any]] | None:
        """Per token {token, token_id, logprob, top: [{token, token_id, logprob}]}; None if they can't be read.

        A null log-probability (llama.cpp) is unknown: NaN. Bytes that are not text are written as `<0xE2><0x82>`.
        """
        if isinstance(self.entries, bytes):
            parsed = self.parsed()
            return None if parsed is None else parsed.rows()
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
        "token_id": count_in(token_id, below=MAX_TOKEN_ID),
        "logprob": math.nan if logprob is None else float(logprob),
    }


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
