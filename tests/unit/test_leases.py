"""Leases: no chunk belongs to two live workers, and none is lost, whatever workers, the queue and time do."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stillhouse.gen.coordination.leases import FENCE_S, TERM_S, Grant, Leases
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.parked_chunks import OpenBatch, Parked

WORKERS = st.sampled_from(["a", "b", "c"])
PARKED = Parked(batches=(OpenBatch(place=0, n=0, at=0.0, url="http://t", ids=("b",)),), settled=3)
CHUNKS = [ChunkId(0, number) for number in range(6)]


class Fleet(RuleBasedStateMachine):
    """Workers that follow the rules (send only while they renewed lately) around one queue that may restart."""

    def __init__(self) -> None:
        super().__init__()
        self.leases = Leases()
        self.now = 0.0
        self.next_chunk = 0
        self.sealed: set[ChunkId] = set()
        self.held: dict[str, set[ChunkId]] = {"a": set(), "b": set(), "c": set()}
        self.renewed: dict[tuple[str, ChunkId], float] = {}
        self.waits: dict[ChunkId, float] = {}
        self.deaths: set[ChunkId] = set()
        self.begun: set[ChunkId] = set()
        """Chunks that were leased before, as far as the queue knows."""
        self.parked: dict[ChunkId, float] = {}
        """Since when each is."""

    @rule()
    def plan(self) -> None:
        """The index grows by a chunk."""
        if self.next_chunk < len(CHUNKS):
            self.leases.add(CHUNKS[self.next_chunk])
            self.next_chunk += 1

    @rule(worker=WORKERS)
    def lease(self, worker: str) -> None:
        """A worker asks; it gets the first chunk that nobody can be working on."""
        grant = self.leases.grant(worker, now=self.now)
        free = [chunk for chunk in CHUNKS[: self.next_chunk] if self.is_free(chunk)]
        free.sort(key=lambda chunk: (chunk not in self.begun, chunk))
        assert (grant.chunk if grant else None) == (free[0] if free else None)
        if grant:
            assert grant == Grant(grant.chunk, died=grant.chunk in self.deaths)
            self.deaths.discard(grant.chunk)
            self.waits.pop(grant.chunk, None)
            self.held[worker].add(grant.chunk)
            self.renewed[worker, grant.chunk] = self.now
            self.begun.add(grant.chunk)

    @rule(worker=WORKERS)
    def lease_begun(self, worker: str) -> None:
        """A worker that waits for room takes only what was begun before."""
        free = [chunk for chunk in CHUNKS[: self.next_chunk] if self.is_free(chunk) and chunk in self.begun]
        grant = self.leases.grant(worker, now=self.now, begun=True)
        assert (grant.chunk if grant else None) == (free[0] if free else None)
        if grant:
            self.deaths.discard(grant.chunk)
            self.waits.pop(grant.chunk, None)
            self.held[worker].add(grant.chunk)
            self.renewed[worker, grant.chunk] = self.now

    @rule(worker=WORKERS, chunk=st.sampled_from(CHUNKS))
    def park(self, worker: str, chunk: ChunkId) -> None:
        """A worker parks a chunk; if it no longer owns the chunk, nothing happens."""
        self.leases.park(worker, chunk, PARKED, now=self.now, utc=self.now)
        if (worker, chunk) in self.renewed and self.runs(worker, chunk):
            self.parked[chunk] = self.now
            del self.renewed[worker, chunk]
        self.held[worker].discard(chunk)

    @rule(ended=st.booleans())
    def look(self, ended: bool) -> None:
        """Workers look at what is due, and report; then it is leasable, or due again later."""
        for look in self.leases.looks(now=self.now):
            assert look.batches == PARKED.batches
            assert self.now >= self.parked[look.chunk]
            if ended:
                self.leases.batch_ended(look.chunk)
                self.leases.batch_ended(look.chunk)
                del self.parked[look.chunk]
            else:
                self.leases.parked.running(look.chunk, now=self.now, utc=self.now)
                assert look.chunk not in [each.chunk for each in self.leases.looks(now=self.now)]

    def is_free(self, chunk: ChunkId) -> bool:
        """True if the chunk is still to do and nobody has a live lease on it."""
        leased = any(self.now < at + TERM_S for (_, one), at in self.renewed.items() if one == chunk)
        is_open = chunk not in self.sealed and chunk not in self.parked
        return is_open and not leased and self.waits.get(chunk, 0.0) <= self.now

    @rule(worker=WORKERS)
    def renew(self, worker: str) -> None:
        """A worker renews, and drops what it lost."""
        lost = self.leases.renew(worker, sorted(self.held[worker]), now=self.now)
        self.held[worker] -= set(lost)
        for chunk in lost:
            self.renewed.pop((worker, chunk), None)
        for chunk in self.held[worker]:
            self.renewed[worker, chunk] = self.now

    @rule(worker=WORKERS, seconds=st.sampled_from([0.0, 5.0, TERM_S]))
    def die(self, worker: str, seconds: float) -> None:
        """A worker's process is gone; its journals may take a while."""
        mine = {chunk for (one, chunk) in self.renewed if one == worker and self.runs(worker, chunk)}
        gone = self.leases.died(worker, not_before=self.now + seconds)
        assert mine <= set(gone)
        for chunk in gone:
            self.waits[chunk] = self.now + seconds
            self.deaths.add(chunk)
        self.forget(worker)

    def runs(self, worker: str, chunk: ChunkId) -> bool:
        """True if the worker's lease is live."""
        return chunk not in self.sealed and self.now < self.renewed[worker, chunk] + TERM_S

    def forget(self, worker: str) -> None:
        """The next worker with this name starts with nothing."""
        self.held[worker] = set()
        for key in [key for key in self.renewed if key[0] == worker]:
            del self.renewed[key]

    @rule(chunks=st.lists(st.sampled_from(CHUNKS)))
    def ship(self, chunks: list[ChunkId]) -> None:
        """What dead workers left of some chunks is in the store."""
        self.leases.shipped(chunks)
        for chunk in chunks:
            self.waits.pop(chunk, None)

    @rule(worker=WORKERS, chunk=st.sampled_from(CHUNKS))
    def give_back(self, worker: str, chunk: ChunkId) -> None:
        """A worker gives a chunk back, which it may not even hold now."""
        self.leases.give_back(worker, chunk)
        self.held[worker].discard(chunk)
        self.renewed.pop((worker, chunk), None)

    @rule(chunk=st.sampled_from(CHUNKS))
    def seal(self, chunk: ChunkId) -> None:
        """Someone sealed the chunk: its holder, or one that hung and woke up."""
        if chunk in CHUNKS[: self.next_chunk]:
            self.leases.sealed(chunk)
            self.sealed.add(chunk)
            self.parked.pop(chunk, None)
            for key in [key for key in self.renewed if key[1] == chunk]:
                del self.renewed[key]

    @rule(seconds=st.sampled_from([0.1, 3.0, FENCE_S, 15.0, TERM_S, 100.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @rule()
    def restart(self) -> None:
        """The queue is restarted: it reads the index and the shards, and listens to live workers before it grants."""
        self.leases = Leases()
        for chunk in CHUNKS[: self.next_chunk]:
            if chunk in self.parked:
                self.leases.found_parked(chunk, PARKED, due=self.now)
                self.parked[chunk] = self.now
            elif chunk not in self.sealed:
                self.leases.add(chunk)
        self.waits.clear()
        self.deaths.clear()
        self.begun = set(self.parked)
        alive = [(worker, chunk) for worker, chunk in self.renewed if self.runs(worker, chunk)]
        self.renewed = {}
        for worker, chunk in alive:
            self.leases.adopt(worker, chunk, now=self.now)
            self.leases.adopt("another", chunk, now=self.now)
            self.begun.add(chunk)
            self.renewed[worker, chunk] = self.now

    @invariant()
    def no_chunk_is_with_two(self) -> None:
        """Among workers that may send because they renewed within FENCE_S, no two have the same chunk."""
        sending = [
            chunk
            for (worker, chunk), at in self.renewed.items()
            if self.now - at <= FENCE_S and chunk in self.held[worker] and chunk not in self.sealed
        ]
        assert len(sending) == len(set(sending))

    @invariant()
    def none_is_lost(self) -> None:
        """Every chunk that is not sealed is open."""
        assert self.leases.open == self.next_chunk - len(self.sealed)

    def teardown(self) -> None:
        """In the end everything can be leased."""
        self.now += 1000.0
        for look in self.leases.looks(now=self.now):
            self.leases.batch_ended(look.chunk)
        rest = [chunk for chunk in CHUNKS[: self.next_chunk] if chunk not in self.sealed]
        granted = [self.leases.grant("last", now=self.now) for _ in rest]
        assert sorted(grant.chunk for grant in granted if grant) == rest
        assert self.leases.grant("last", now=self.now) is None


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_sealing_does_not_slow_down_with_the_number_of_chunks() -> None:
    """A hundred thousand chunks are leased and sealed within seconds: nothing scans what is pending."""
    leases = Leases()
    chunks = [ChunkId(0, number) for number in range(100_000)]
    for chunk in chunks:
        leases.add(chunk)
    for number, chunk in enumerate(chunks):
        grant = leases.grant("a", now=float(number))
        assert grant is not None
        assert grant.chunk == chunk
        leases.sealed(chunk)
    assert leases.open == 0
