"""Verdicts of a recipe's checks as VERDICT frames: `stage` n holds the n-th check's verdict on one text.

Each names the text that it judged by a hash, so a verdict stays valid as long as the answer is read as the same text,
and no text is judged twice.
"""

from typing import Any, NamedTuple

import orjson

from stillhouse.gen.checks.base import Answer, CheckResult, Unchecked, Verdict
from stillhouse.gen.journal.frames import Frame, Kind
from stillhouse.gen.worker.long_values import digest_of


class Judged(NamedTuple):
    """The content of a VERDICT frame."""

    text: bytes
    """See `text_hash`."""
    stage: int
    """The check's number, from 1."""
    verdict: Verdict


def text_hash(answer: Answer) -> bytes:
    """16 bytes that are the same for answers that checks can't tell apart, ignoring their number of tokens."""
    key = "" if answer.schema_key is None else f"\0{answer.schema_key}"
    return digest_of(answer.text, "\0", answer.reasoning or "", key)


def verdict_frame(ordinal: int, *, check: str, judged: Judged, at: float) -> Frame:
    """The frame that holds the verdict."""
    match judged.verdict:
        case CheckResult(accepted, score, detail, own):
            said: dict[str, Any] = {"accepted": accepted, "score": score, "detail": detail}
            if own is not None:
                said["own"] = dict(own)
        case Unchecked(reason):
            said = {"unchecked": reason}
    body = orjson.dumps({"check": check, **_encodable(said), "text": judged.text.hex()})
    return Frame(Kind.VERDICT, ordinal, at, body=body, stage=judged.stage)


def read_verdict(frame: Frame) -> Judged | None:
    """The frame's content; None if it is not a verdict of this form."""
    try:
        said = orjson.loads(frame.body)
        text = bytes.fromhex(said["text"])
        if "unchecked" in said:
            return Judged(text, frame.stage, Unchecked(str(said["unchecked"])))
        score = said.get("score")
        score = None if score is None else float(score)
        result = CheckResult(bool(said["accepted"]), score, str(said.get("detail", "")), said.get("own"))
        return Judged(text, frame.stage, result)
    except (ValueError, KeyError, TypeError):
        return None


def _encodable(said: dict[str, Any]) -> dict[str, Any]:
    """Remove lone surrogates, which details quote from answers and JSON can't represent."""
    return {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for name, value in said.items()
    }
