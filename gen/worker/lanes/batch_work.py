"""A chunk in the batch lane: which of its samples wait, and which are in intents whose batches may exist."""

import asyncio
import contextlib
import re
from collections import Counter
from dataclasses import dataclass, field

from stillhouse.gen.dataset.batch_intents import StoredIntent
from stillhouse.gen.dataset.parked_chunks import OpenBatch
from stillhouse.gen.errors import StoreAway
from stillhouse.gen.teachers.batches.base import Intent
from stillhouse.gen.teachers.expense import NOTHING, Expense
from stillhouse.gen.worker.lanes.batch_docket import BatchAttempts, BatchDocket
from stillhouse.gen.worker.leased_chunk import LeasedChunk

LOOK_S = (1.0, 300.0)
"""Time between two looks at a batch: half its age, within these bounds."""
PARK_AFTER_S = 5.0
"""A chunk is parked only once its batches are this old: small ones may have ended by then."""


_KEY = re.compile(r"([0-9a-f]{24})-([0-9]{1,9})(?:-([0-9a-f]{16}))?")


@dataclass(slots=True, eq=False)
class OpenIntent:
    """An intent whose batch may exist."""

    n: int
    stored: StoredIntent
    batch: str | None
    """The provider's id of the batch; None if it is unknown whether there is one."""
    candidates: tuple[str, ...] = ()
    """Ids of running batches of which each may be this one, if that is unknown."""
    worst: Expense = NOTHING
    """What the batch may cost, under a budget."""
    has_ended: bool = False
    """True once all that its batch says is safe."""
    may_rest: bool = False
    """True if it needs nothing until it ends, which takes a while."""

    @property
    def wanted(self) -> Intent:
        """The intent in the form in which a batch API looks for it."""
        return Intent(self.stored.id, sum(count for _, count in self.stored.samples), self.stored.at)

    def at_provider(self, place: int, *, stage: int, is_missing: bool = False) -> OpenBatch:
        """The intent's batch, as it is recorded for a parked chunk; for `place` and `stage` see `OpenBatch`.

        `is_missing`: it was given up on, and is only to be cancelled if a listing shows it late.
        """
        ids = self.candidates if self.batch is None else (self.batch,)
        return OpenBatch(
            place=place,
            stage=stage,
            n=self.n,
            at=self.stored.at,
            url=self.stored.url,
            ids=() if is_missing else ids,
            missing=self.stored.id if is_missing else "",
        )

    def asked_in(self, key: str) -> tuple[int, str] | None:
        """The sample and the mark in a `request_id`; None if it belongs to another intent."""
        match = _KEY.fullmatch(key)
        return (int(match[2]), match[3] or "") if match is not None and match[1] == self.stored.id else None


@dataclass(slots=True, eq=False)
class Work:
    """What the lane does for one chunk."""

    docket: BatchDocket
    is_known: bool = False
    """True once the intents that earlier owners left open were read."""
    waiting: dict[int, None] = field(default_factory=dict)
    """Samples to put into a batch, in order."""
    expired: Counter[int] = field(default_factory=Counter)
    """How often each sample expired."""
    next: int = 0
    """Number of the next intent."""
    intents: dict[int, OpenIntent] = field(default_factory=dict)
    """The open intents, by number."""
    missing: dict[int, OpenIntent] = field(default_factory=dict)
    """Intents that were given up on, by number: the provider may list their batches late."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    dropped: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the chunk is no longer this worker's."""

    @property
    def held(self) -> LeasedChunk:
        """The chunk."""
        return self.docket.held

    @property
    def attempts(self) -> BatchAttempts:
        """The lane's requests for it."""
        return self.docket.attempts

    @property
    def is_over(self) -> bool:
        """True if nothing more is asked for the chunk here."""
        return self.held.abandoned or self.held.open.left == 0

    @property
    def reserved(self) -> Expense:
        """What the chunk's batches may cost, under a budget."""
        return sum((each.worst for each in self.intents.values() if not each.has_ended), NOTHING)

    @property
    def fresh(self) -> list[int]:
        """Samples that wait, and are not in a batch."""
        settled = self.attempts.is_settled
        out = {each for intent in self.intents.values() for each in intent.stored.ordinals()}
        return [each for each in self.waiting if each not in out and not settled(each)]

    def unsettled(self, intent: OpenIntent) -> list[int]:
        """Samples of the intent that are not decided."""
        is_settled = self.attempts.is_settled
        return [each for each in intent.stored.ordinals() if not is_settled(each)]

    def unread(self, intent: OpenIntent) -> list[int]:
        """Samples of the intent whose results earlier owners did not collect; what the others cost is spent."""
        at = intent.stored.at
        return [each for each in self.unsettled(intent) if not self.attempts.was_read(each, at)]

    def awaits(self, intent: OpenIntent, *, age_s: float) -> None:
        """The intent needs nothing until its batch ends: the chunk may be parked once it is old enough."""
        intent.may_rest = age_s >= PARK_AFTER_S
        if intent.may_rest:
            self.held.due.set()

    async def made_safe(self) -> bool:
        """Ship everything known about the chunk; False if it was sealed meanwhile, or is another worker's."""
        try:
            if not self.is_over:
                await asyncio.to_thread(self.held.open.journal.sync)
                await asyncio.to_thread(self.held.shipper.ship)
        except (StoreAway, OSError):
            if not self.is_over:  # otherwise its journal is gone
                raise
        return not self.is_over

    async def until_changed(self) -> None:
        """Wait until there may be something to ask, but no longer than between two looks."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S[1]):
                await self.changed.wait()

    async def until_next_look(self, age_s: float) -> None:
        """Wait before another look at a batch of this age."""
        await self.pause(min(LOOK_S[1], max(LOOK_S[0], age_s / 2)))

    async def pause(self, seconds: float) -> None:
        """Wait this long, or until the chunk is no longer this worker's."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.dropped.wait()


def request_id(intent: str, ordinal: int, mark: str) -> str:
    """The id of a request in the intent's batch, 51 characters at most; for `mark` see `BatchAttempts.entry`."""
    return f"{intent}-{ordinal}-{mark}" if mark else f"{intent}-{ordinal}"
