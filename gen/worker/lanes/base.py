"""The contract of a lane: how one teacher's samples get asked, and what all lanes of a worker obey.

To add one: a file here, and a line in `LANES`. Whatever a lane pays for is in the chunk's journal before anything acts
on it, and nothing is sent for a chunk while the worker's fence is closed.
"""

import asyncio
import typing
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from stillhouse.gen.errors import StillhouseError
from stillhouse.gen.teachers.account import Account
from stillhouse.gen.teachers.outcome import Outcome
from stillhouse.gen.worker.fence import Fence
from stillhouse.gen.worker.leased_chunk import Held
from stillhouse.gen.worker.purse import Purse


class Host(typing.Protocol):
    """The worker as its lanes see it."""

    def spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> asyncio.Task[None]:
        """Run a task that ends with the worker."""
        ...

    def fail(self, error: StillhouseError) -> None:
        """Stop in good order because of this error."""
        ...

    def heard(self, held: Held) -> None:
        """A reply came for the chunk."""
        ...

    def taken(self) -> None:
        """A sample left the queue: more may be wanted."""
        ...

    def advanced(self, held: Held) -> None:
        """The chunk is due: no sample is left, others may be asked now, or answers await their verdicts."""
        ...


class Gate:
    """Decides whether anything new is sent, for all lanes of a worker."""

    def __init__(self, fence: Fence, purse: Purse) -> None:
        self.fence = fence
        self.purse = purse
        self.stopping = False
        """True if nothing new is to be sent; requests in flight continue."""
        self._open = asyncio.Event()
        self._open.set()

    @property
    def is_open(self) -> bool:
        """True if requests may be sent now."""
        return not self.stopping and self._open.is_set() and self.fence.is_open

    def hold(self) -> None:
        """Send nothing new until `go_on`."""
        self._open.clear()

    def go_on(self) -> None:
        """Send again."""
        self._open.set()

    async def passed(self) -> None:
        """Wait while sending is held up."""
        await self._open.wait()


class Router(typing.Protocol):
    """Decides which teacher a sample is asked of, for lanes whose teachers stand in for one another."""

    def leaves(self, held: Held, ordinal: int, *, place: int) -> bool:
        """True if the sample is no longer this teacher's to ask: it is in another lane now, or waits to be."""
        ...

    def asked(self, place: int) -> None:
        """A request is about to be sent to the teacher with this place."""
        ...

    def not_sent(self, held: Held, ordinal: int) -> None:
        """None of the teacher's endpoints could be picked for the sample."""
        ...

    def ended(self, held: Held, ordinal: int, outcome: Outcome, *, place: int, sent_at: float) -> None:
        """An attempt ended that was sent at this monotonic time."""
        ...

    def out_of_money(self, place: int, reason: str) -> None:
        """The account of the teacher with this place has no money left."""
        ...


class Lane(typing.Protocol):
    """How one teacher's samples get asked."""

    @property
    def account(self) -> Account:
        """The account whose limits it keeps."""
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
        """Connections it uses at most as it is now."""
        ...

    @property
    def wanted(self) -> int:
        """Connections it could use now beyond `slots`."""
        ...

    @property
    def largest_reply_bytes(self) -> int:
        """Size of the largest reply so far."""
        ...

    def take(self, held: Held, ordinals: Iterable[int]) -> None:
        """Ask these samples of the chunk."""
        ...

    def widen(self, slots: int) -> None:
        """Use so many connections more."""
        ...

    def cancel(self) -> None:
        """End all tasks, for the worker ends."""
        ...
