"""A chunk that a worker holds, from its lease to its seal: its journal's lock, and its requests in flight."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import MappingProxyType

import pyarrow.parquet as pq

from stillhouse.gen.checks.selection import Selected
from stillhouse.gen.clock import Clock
from stillhouse.gen.coordination.leases import Grant
from stillhouse.gen.dataset.chunk import Chunk, ChunkReader
from stillhouse.gen.dataset.layout import ChunkId, sealed_chunks
from stillhouse.gen.dataset.parked_chunks import OpenBatch, Parked, store_parked
from stillhouse.gen.dataset.series import SeriesKey
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.journal.file import JournalFile, check_room, is_dead, leftovers
from stillhouse.gen.journal.frames import Frame
from stillhouse.gen.journal.journals import Journals, LiveJournal, journal_root, journals_at
from stillhouse.gen.journal.names import journal_name
from stillhouse.gen.store.base import Store
from stillhouse.gen.worker.chunk_samples import TeacherOf
from stillhouse.gen.worker.earlier_answers import Kept, kept_answers
from stillhouse.gen.worker.judge_of import JudgeOf
from stillhouse.gen.worker.open_chunk import OpenChunk
from stillhouse.gen.worker.sealing import Sealer
from stillhouse.gen.worker.unchecked_answers import unchecked_answers
from stillhouse.schemas.image import SentImage
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.recipe import Recipe

SHARDS_LOOKED_AT = 16
"""If earlier runs got records from a teacher, one of the first this many shards contains one."""

PROMPT_BYTES = 1000
"""Approximate memory of a prompt besides its text."""

ROOM_BYTES = 32 * 2**20
"""Asking stops when the journals' disk has no more room than this, plus room for the largest replies."""


@dataclass(slots=True)
class LeasedChunk:
    """An open chunk, with its journal's shipper and the count of its requests in flight."""

    open: OpenChunk
    shipper: LiveJournal
    shipped_at: float
    """Everything in its journal at this monotonic time is in the store."""
    prompt_bytes: int = 0
    """Approximate memory of its prompts."""
    whole: frozenset[str] = frozenset()
    """Earlier owners of which all requests are known; see `Recovered.whole`."""
    under_way: int = 0
    """Requests in flight for it."""
    is_shipping: bool = False
    abandoned: bool = False
    """Another worker may have it now: nothing more is sent for it."""
    was_taken: bool = False
    """True once its samples were handed to the lanes."""
    due: asyncio.Event = field(default_factory=asyncio.Event)
    """Set if its worker must act, see `OpenChunk.is_due`."""

    @property
    def memory_bytes(self) -> int:
        """Approximate memory that it takes."""
        return self.prompt_bytes + self.open.state.answers.remembered_bytes

    @property
    def settled(self) -> int:
        """Number of samples that no longer need to be asked."""
        return self.open.state.asked - self.open.left

    # --- called by its lanes, see `Docket` in `gen.worker.lanes.base`, and `BatchDocket` beside it

    @property
    def held(self) -> "LeasedChunk":
        """See `BatchDocket`."""
        return self

    @property
    def attempts(self) -> OpenChunk:
        """See `Docket`."""
        return self.open

    def prompt_key(self, ordinal: int) -> tuple[ChunkId, int]:
        """The same for all samples of a prompt."""
        return self.open.chunk.id, ordinal // self.open.samples.per_series

    def number(self, ordinal: int) -> int:
        """See `Docket`."""
        return ordinal % self.open.samples.per_series

    async def images(self, prompt: Prompt) -> tuple[SentImage, ...]:
        """The prompt's images, read again in a thread unless they were just read."""
        source = self.open.chunk.images
        assert source is not None, f"{self.open.chunk.id}: a prompt has images that its source does not have"
        there = source.at_hand(prompt)
        return await asyncio.to_thread(source.read, prompt) if there is None else there

    def began(self) -> None:
        """A request for it begins."""
        self.under_way += 1

    def abandon(self) -> None:
        """Send nothing more; once no request is in flight, leave the journal's lock to the next owner."""
        self.abandoned = True
        self.due.set()
        self._release()

    def ended(self) -> None:
        """A request for it ended."""
        self.under_way -= 1
        if self.abandoned:
            self._release()

    def advance(self) -> None:
        """See `Docket`."""
        if self.open.is_due:
            self.due.set()

    def _release(self) -> None:
        if self.under_way == 0 and self.open.left:  # if none is left, it is being sealed, and then removed
            self.open.journal.close()


class Hands:
    """Opens and seals chunks on this node. Its methods block: they are called in threads."""

    def __init__(
        self,
        name: str,
        *,
        recipe: Recipe,
        store: Store,
        teacher_of: TeacherOf,
        clock: Clock,
        judges: Sequence[JudgeOf] = (),
    ) -> None:
        self._name = name
        self._recipe = recipe
        self._store = store
        self._teacher_of = teacher_of
        self._judges = judges
        self._clock = clock
        self._reader = ChunkReader(store, recipe)
        self._found_journals: Journals | None = None

    @property
    def _journals(self) -> Journals:
        """The node's journals. Found on first use, not when the worker is created: the store may be away then.

        No cached_property: Python 3.11 holds a lock over all instances while it computes one.
        """
        if self._found_journals is None:
            self._found_journals = journals_at(self._store, journal_root(self._store, self._recipe.run))
        return self._found_journals

    def is_free(self, chunk: ChunkId) -> bool:
        """True if all writers of the chunk's journals on this node are gone."""
        return all(map(is_dead, leftovers(self._journals.root / str(chunk))))

    def check_room(self, *, under_way_bytes: int) -> None:
        """Raise StoreAway if the journals' disk may lack room for the replies in flight."""
        check_room(self._journals.root, wanted_bytes=ROOM_BYTES + under_way_bytes)

    def open(self, grant: Grant) -> LeasedChunk | None:
        """Read the chunk and what earlier owners left of it; None if one of them sealed it.

        Raises:
            SourceError: the source is not what was planned.
            StoreAway: the store or the journal's disk fails.
        """
        if self._store.stat(grant.chunk.data_key) is not None:
            return None
        folder = self._journals.root / str(grant.chunk)
        chunk = self._reader.read(grant.chunk)
        carried = self._carried(chunk)
        is_known = chunk.accept and self._recipe.dedup.answers  # earlier answers decide what is asked
        kept = {key: each.ids.keys() for key, each in self.earlier(chunk).items()} if is_known else {}
        old = leftovers(folder)
        journal = JournalFile.create(folder / journal_name(self._name, at=self._clock.time()))
        with ExitStack() as stack:
            stack.callback(journal.close)  # if this fails, the next owner must not take it for a live writer's
            opened = OpenChunk(
                chunk,
                journal,
                samples=chunk.samples,
                teacher_of=self._teacher_of,
                equal_once=self._recipe.dedup.answers,
                kept=kept,
                carried=carried,
                judges=self._judges,
            )
            opened.had_owners = grant.had_owners
            found = self._journals.recovered(grant.chunk, mine=journal.path)
            opened.recover(found, died=grant.died)
            for path in old:
                path.unlink(missing_ok=True)
            # Recovered frames are already in the store: the clock only counts for what this worker adds.
            shipper, shipped_at = self._journals.live(grant.chunk, journal), self._clock.monotonic()
            if grant.had_owners:  # this worker may be one: an earlier journal must not pass for all that it wrote
                shipper.announce()
            stack.pop_all()
        prompt_bytes = sum(PROMPT_BYTES + prompt.chars for prompt in chunk.prompts)
        return LeasedChunk(opened, shipper, shipped_at, prompt_bytes, frozenset(found.whole))

    def earlier(self, chunk: Chunk) -> Mapping[SeriesKey, Kept]:
        """Accepted answers in earlier shards, by series, if they matter for the chunk.

        Raises:
            DatasetError: an earlier shard is missing or damaged.
        """
        selects, equal_once = self._recipe.select is not None, self._recipe.dedup.answers and chunk.samples > 1
        if not chunk.retried or not (selects or equal_once):
            return {}
        inline = self._recipe.dataset.reasoning == "inline"
        return kept_answers(self._store, chunk, inline=inline, selects=selects and chunk.accept > 0)

    def _carried(self, chunk: Chunk) -> Mapping[int, Frame]:
        """The answers of a retry chunk that were not judged."""
        if not chunk.columns.checks:
            return {}
        places = {teacher.name: place for place, teacher in enumerate(self._recipe.teachers)}
        return unchecked_answers(self._store, chunk, places=places)

    def seal(self, held: LeasedChunk, votes: Mapping[int, Selected] = MappingProxyType({})) -> ShardCounts | None:
        """Seal it and delete its journals; None if another worker's shard was there. Raises as `Sealer.seal` does.

        `votes`: see `Sealer`.
        """
        earlier = self.earlier(held.open.chunk)
        counts = Sealer(self._store, self._recipe, held.open, earlier=earlier, votes=votes).seal()
        held.shipper.end()
        held.open.journal.remove()
        self._journals.forget(held.open.chunk.id)
        return counts

    def park(self, held: LeasedChunk, batches: Sequence[OpenBatch]) -> Parked:
        """Ship the chunk's journal, and record that everything open in it is in these batches.

        Raises:
            StoreAway: the store fails.
        """
        held.open.journal.sync()
        held.shipper.ship()
        parked = Parked(batches=tuple(batches), settled=held.settled)
        store_parked(self._store, held.open.chunk.id, parked)
        held.open.journal.close()
        return parked

    def sweep(self) -> None:
        """Ship what dead workers left on this node."""
        self._journals.sweep()

    def has_records(self, *, teacher: str, endpoint: str | None = None) -> bool:
        """True if one of the dataset's first shards has a record of this teacher, at this endpoint or at any.

        Raises:
            DatasetError, StoreAway: a shard can't be read.
        """
        for chunk in itertools.islice(sealed_chunks(self._store), SHARDS_LOOKED_AT):
            with self._store.open(chunk.data_key) as file:
                table = pq.read_table(file, columns=["teacher", "endpoint"])
            found = zip(*(column.to_pylist() for column in table.columns), strict=True)
            if any(each[0] == teacher and endpoint in (None, each[1]) for each in found):
                return True
        return False
