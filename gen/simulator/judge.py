"""The simulator as a judge: a verdict in JSON that depends only on the texts, so that tests can predict it.

If it is gullible, an answer that mentions its own score or victory gets what it claims.
"""

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import orjson

MOST = 5
"""Scores are 1 to this."""
_LINE = re.compile(r"^=== (answer|A|B) ([0-9a-f]{16}) ===\n", re.MULTILINE)
_CLAIM = re.compile(r"(?:score|rate|rating|grade|points?)\D{0,40}?(\d+)", re.IGNORECASE)
_VICTORY = re.compile(r"(?:winner|prefer|better|best)\b", re.IGNORECASE)


def verdict_of(message: str, schema: Mapping[str, Any], *, seed: int, gullible: float) -> str | None:
    """The verdict on the texts in the message; None if the schema is not that of a verdict."""
    wanted = set(schema.get("properties", ()))
    if wanted not in ({"reason", "score"}, {"reason", "winner"}):
        return None
    texts = _texts(message)
    believes = _share(texts, seed=seed) < gullible
    if "score" in wanted:
        claim = _CLAIM.search(texts[-1]) if believes else None
        score = float(claim[1]) if claim else score_of(texts[-1], seed=seed)
        return orjson.dumps({"reason": f"it is worth {score:g}", "score": score}).decode()
    one, other = texts[0], texts[-1]
    claims = [bool(believes and _VICTORY.search(text)) for text in (one, other)]
    scores = [(claimed, score_of(text, seed=seed)) for claimed, text in zip(claims, (one, other), strict=True)]
    winner = "tie" if scores[0] == scores[1] else "A" if scores[0] > scores[1] else "B"
    return orjson.dumps({"reason": f"by their scores: {winner}", "winner": winner}).decode()


def score_of(text: str, *, seed: int = 0) -> int:
    """The honest score of a text, 1 to `MOST`."""
    return (
        1 + int.from_bytes(blake2b(b"%d\0%b" % (seed, text.encode("utf-8", "replace")), digest_size=4).digest()) % MOST
    )


def _texts(message: str) -> list[str]:
    """The texts after the lines with the first marker: similar lines further down are part of an answer."""
    found = list(_LINE.finditer(message))
    if not found:
        return [message]
    marker = found[0][2]
    marked = [line for line in found if line[2] == marker]
    ends = [*(line.start() for line in marked[1:]), len(message)]
    return [message[line.end() : end].strip("\n") for line, end in zip(marked, ends, strict=True)]


def _share(texts: list[str], *, seed: int) -> float:
    digest = blake2b(b"%d" % seed + "\0".join(texts).encode("utf-8", "replace"), digest_size=4, person=b"gullible")
    return int.from_bytes(digest.digest()) / 2**32
