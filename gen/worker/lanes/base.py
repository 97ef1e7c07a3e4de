"""The contract of a lane: how one teacher's samples are asked, and the rules that all lanes of a worker obey.

To add one, add a file here and a line in `LANES`. Everything that a lane pays for is in the chunk's journal before
anything acts on it, and nothing is sent for a chunk while the worker's fence is closed.
"""

import asyncio
import typing
from collections.abc import Hashable, Iterable, Sequence

from stillhouse.gen.journal.frames import Kind
from stillhouse.gen.teachers.account import Account
from stillhouse.gen.teachers.outcome import Ambiguous, NoConnection, Outcome
from stillhouse.gen.teachers.retry import Blame, Decision
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.fence import Fence
from stillhouse.gen.worker.purse import Purse
from stillhouse.gen.worker.replies import Journalled, Received
from stillhouse.gen.worker.tasks import Tasks
from stillhouse.schemas.image import SentImage
from stillhouse.schemas.prompt import Prompt


class AttemptLog(typing.Protocol):
    """Journals attempts and how they end.

    Both methods raise StoreAway if the journal can't be written.
    """

    def sent(self, ordinal: int, *, at: float, endpoint: str = "", place: int | None = None) -> None:
        """An attempt is about to be sent online, or was in a batch."""
        ...

    def unanswered(
        self,
        ordinal: int,
        kind: Kind,
        outcome: NoConnection | Ambiguous,
        *,
        at: float,
        place: int | None = None,
        endpoint: str = "",
        cut: Reply | None = None,
    ) -> Decision:
        """The attempt ended without a complete reply. `cut`: the part of a stream that had arrived."""
        ...


class Attempts(AttemptLog, typing.Protocol):
    """Says what an online lane sends, and what follows from the replies: an open chunk, or the hearing of a judge.

    `journalled` and `answered` raise StoreAway if the journal can't be written.
    """

    def is_slow(self, ordinal: int, /) -> bool:
        """True if `prompt` would hold up the event loop; then await `prepared` before it."""
        ...

    async def prepare(self, ordinal: int, /) -> None:
        """See `prepared`."""
        ...

    def prompt(self, ordinal: int, /) -> Prompt:
        """The request to send."""
        ...

    def refused_by(self, ordinal: int, /) -> Sequence[str]:
        """Endpoints that refused the request itself."""
        ...

    def is_wanted(self, ordinal: int, /) -> bool:
        """False if it is settled without being asked."""
        ...

    def journalled(
        self, ordinal: int, reply: Reply, *, at: float, latency_s: float, endpoint: str, place: int | None = None
    ) -> Journalled:
        """A reply came: it is in the journal before it is read. Large replies are journalled and read in threads."""
        ...

    def read(self, reply: Journalled, /) -> Received:
        """What the reply says."""
        ...

    def answered(self, received: Received, *, blame: Blame | None = None) -> Decision:
        """What follows from it."""
        ...


class Docket(typing.Protocol):
    """A chunk that a worker holds, as a lane sees it."""

    @property
    def attempts(self) -> Attempts:
        """The requests for it."""
        ...

    @property
    def abandoned(self) -> bool:
        """True if nothing more is sent for it."""
        ...

    def prompt_key(self, ordinal: int, /) -> Hashable:
        """The same for all samples of a prompt."""
        ...

    def number(self, ordinal: int, /) -> int:
        """The sample's number among its prompt's samples, which is added to its seed."""
        ...

    async def images(self, prompt: Prompt, /) -> tuple[SentImage, ...]:
        """The prompt's images."""
        ...

    def began(self) -> None:
        """A request for it begins."""
        ...

    def ended(self) -> None:
        """A request for it ended."""
        ...

    def advance(self) -> None:
        """Wake its worker if it is due: no sample is left, others may be asked, or answers await their verdicts."""
        ...


async def prepared(held: Docket, ordinal: int) -> None:
    """Make the sample's request in a thread. The chunk's journal stays open meanwhile, but the chunk may be abandoned
    when this returns."""
    if held.abandoned:
        return
    held.began()
    try:
        await held.attempts.prepare(ordinal)
    finally:
        held.ended()


DocketT = typing.TypeVar("DocketT", bound=Docket)
_ContraT = typing.TypeVar("_ContraT", bound=Docket, contravariant=True)


class Listener(typing.Protocol[_ContraT]):
    """Receives events from lanes that the whole worker must know at once."""

    def heard(self, held: _ContraT, ordinal: int, /) -> None:
        """An attempt for this sample of the chunk ended."""
        ...

    def wants_more(self) -> None:
        """The lane could ask more samples than it has."""
        ...


class Gate:
    """Decides whether anything new is sent, for all lanes of a worker."""

    def __init__(self, tasks: Tasks, fence: Fence, purse: Purse) -> None:
        self.fence = fence
        self.purse = purse
        self._tasks = tasks
        self._closed = False
        self._open = asyncio.Event()
        self._open.set()

    @property
    def stopping(self) -> bool:
        """True if nothing new is to be sent; requests in flight continue."""
        return self._closed or self._tasks.stopping

    @property
    def is_open(self) -> bool:
        """True if requests may be sent now."""
        return not self.stopping and self._open.is_set() and self.fence.is_open

    def close(self) -> None:
        """Send nothing new any more."""
        self._closed = True

    def hold(self) -> None:
        """Send nothing new until `go_on`."""
        self._open.clear()

    def go_on(self) -> None:
        """Send again."""
        self._open.set()

    @property
    def is_on_hold(self) -> bool:
        """True between `hold` and `go_on`."""
        return not self._open.is_set()

    async def passed(self) -> None:
        """Wait while sending is on hold."""
        await self._open.wait()


class Router(typing.Protocol[_ContraT]):
    """Decides which teacher a sample is sent to, for lanes whose teachers replace one another."""

    def leaves(self, held: _ContraT, ordinal: int, *, place: int) -> bool:
        """True if the sample is no longer this teacher's: it is in another lane now, or waits to be."""
        ...

    def asked(self, place: int) -> None:
        """A request is about to be sent to the teacher with this position."""
        ...

    def not_sent(self, held: _ContraT, ordinal: int) -> None:
        """None of the teacher's endpoints could be picked for the sample."""
        ...

    def ended(self, held: _ContraT, ordinal: int, outcome: Outcome, *, place: int, sent_at: float) -> None:
        """An attempt ended that was sent at this monotonic time."""
        ...

    def out_of_money(self, place: int, reason: str) -> None:
        """The account of the teacher with this position has no money left."""
        ...


class Lane(typing.Protocol[_ContraT]):
    """How one teacher's samples are asked."""

    @property
    def account(self) -> Account:
        """The account whose limits it obeys."""
        ...

    @property
    def waiting(self) -> int:
        """Samples that only wait for the account's limits."""
        ...

    @property
    def runs_dry(self) -> bool:
        """True if it could ask more samples than it has."""
        ...

    @property
    def slots(self) -> int:
        """Maximum number of connections that it uses now."""
        ...

    @property
    def wanted(self) -> int:
        """Connections that it could use now beyond `slots`."""
        ...

    @property
    def largest_reply_bytes(self) -> int:
        """Size of the largest reply so far."""
        ...

    def take(self, held: _ContraT, ordinals: Iterable[int], /) -> None:
        """Ask these samples of the chunk."""
        ...

    def widen(self, slots: int) -> None:
        """Use this many more connections."""
        ...

    def cancel(self) -> None:
        """End all tasks, because the worker ends."""
        ...
