"""What a chunk's decisions depend on in an answer.

It is worked out where the answer is read, because parsing and hashing a large one would hold the event loop.
"""

from typing import NamedTuple

from stillhouse.schemas.record import RejectReason


class Appraisal(NamedTuple):
    """An answer, as decisions see it."""

    reason: RejectReason | None
    """Why the rules reject it; None if they don't."""
    teacher: int | None = None
    """The position of the teacher that gave it, as its frame names it."""
    text: bytes = b""
    """The hash of what checks judge, see `text_hash`; empty without checks."""
    fingerprint: bytes = b""
    """See `earlier_answers.fingerprint`; empty if equal answers do not matter while samples are asked."""
