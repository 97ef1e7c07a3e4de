"""What a batch lane asks for a chunk: its samples or, in a judge's lane, questions about its answers.

`lanes.base` has the same for an online lane.
"""

import typing

from stillhouse.gen.teachers.outcome import Outcome
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.retry import Decision
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.lanes.base import AttemptLog
from stillhouse.gen.worker.leased_chunk import LeasedChunk
from stillhouse.schemas.prompt import Prompt


class BatchAttempts(AttemptLog, typing.Protocol):
    """Journals what batches bring, and says what is still to be asked: an open chunk, or the hearing of a judge.

    Each of the last three methods raises StoreAway if the journal can't be written.
    """

    def entry(self, ordinal: int, /) -> tuple[Request, str]:
        """The request to send, and its mark: up to 16 hex digits at the end of its id in the batch, which tell what was
        asked where another owner of the chunk may ask something else under the same number; otherwise none.

        Slow: call it in a thread.
        """
        ...

    def billed(self, ordinal: int, /) -> Prompt:
        """What is billed as the request's input. Slow, like `entry`."""
        ...

    def is_settled(self, ordinal: int, /) -> bool:
        """True if no batch's result for it matters any more."""
        ...

    def lacks(self, ordinal: int, /) -> bool:
        """True if the sample is asked again should a batch leave it unanswered."""
        ...

    def was_read(self, ordinal: int, at: float, /) -> bool:
        """True if an earlier owner left this sample's result from the batch that was decided at this time."""
        ...

    async def delivered(
        self, ordinal: int, reply: Reply, *, mark: str, at: float, latency_s: float, endpoint: str, place: int | None
    ) -> tuple[Outcome, Decision]:
        """A batch has this reply to the request with this mark: journal it, read it, and say what follows."""
        ...

    def unserved(self, ordinal: int, *, at: float, endpoint: str, place: int | None, why: str) -> None:
        """The request's batch ended before the provider reached it, which costs nothing."""
        ...

    def expired(self, ordinal: int, *, at: float, place: int | None, why: str) -> None:
        """The request is given up on: none of its batches brought an answer in time."""
        ...


class BatchDocket(typing.Protocol):
    """A chunk in a batch lane."""

    @property
    def held(self) -> LeasedChunk:
        """The chunk."""
        ...

    @property
    def attempts(self) -> BatchAttempts:
        """The lane's requests for it."""
        ...
