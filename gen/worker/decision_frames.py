"""Decisions as DECIDED frames: those that don't follow from their sample's other frames alone.

They depend on what happened to other samples, on how long an attempt took, on a teacher that is down, or on an owner
that corrects what it found. An owner that recovers the chunk can't know this, and decides the same because it finds the
frame.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias, assert_never

import orjson

from stillhouse.gen.journal.frames import Frame, Kind
from stillhouse.gen.teachers.retry import GiveUp
from stillhouse.schemas.failure import RETRYABLE


@dataclass(frozen=True, slots=True)
class AccountBlamed:
    """The attempt failed because of its account, and does not count as a failure of the sample."""


@dataclass(frozen=True, slots=True)
class Reopened:
    """The Failure is asked again as if it had never been asked."""


@dataclass(frozen=True, slots=True)
class JudgedAgain:
    """A check's failure to judge the answer is forgotten, and the answer is judged again."""


@dataclass(frozen=True, slots=True)
class MovedOn:
    """The sample is asked by the teacher with this position from now on."""

    place: int
    reason: str
    """Why the teacher before it is not asked, in words."""


Decided: TypeAlias = AccountBlamed | Reopened | JudgedAgain | MovedOn | GiveUp
"""GiveUp: the attempt is the sample's last one at its teacher."""


def decided_frame(ordinal: int, decided: Decided, *, at: float, place: int | None = None) -> Frame:
    """The frame of a decision about the attempt that was sent at this time to the teacher with this position."""
    match decided:
        case AccountBlamed():
            said: dict[str, Any] = {"blame": "account"}
        case Reopened():
            said = {"reopen": True}
        case JudgedAgain():
            said = {"judge_again": True}
        case MovedOn(place, reason):
            said = {"move_on": reason}
        case GiveUp(kind, message, status):
            said = {"give_up": kind, "message": message, "status": status}
        case _:
            assert_never(decided)
    return Frame(Kind.DECIDED, ordinal, at, body=orjson.dumps(said), teacher=place)


def read_decided(frame: Frame) -> Decided | None:
    """The decision in the frame; None if this version does not know it."""
    try:
        said = orjson.loads(frame.body)
        if said.get("judge_again"):
            return JudgedAgain()
        if said.get("reopen"):
            return Reopened()
        if "move_on" in said and frame.teacher is not None:
            return MovedOn(frame.teacher, str(said["move_on"]))
        if said.get("give_up") in RETRYABLE:
            return GiveUp(said["give_up"], said["message"], said["status"])
        return AccountBlamed() if said.get("blame") == "account" else None
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
