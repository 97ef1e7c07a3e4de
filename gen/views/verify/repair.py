"""Repair: a damaged shard is removed only if nothing is lost with it.

The answers of its chunk are read from raw/ and written to the chunk's journal, then the shard is removed: the next run
finds the chunk unsealed, with its answers, and asks only what raw/ did not have. A shard with answers that are not in
raw/ stays where it is, and so does one whose Failures a later generation asked again: they would be asked twice. A
shard that no longer says what it contains is moved aside. The journal is written first, so a crash in between costs
nothing.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow.parquet as pq

from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.dataset.run_lock import is_running, run_lock
from stillhouse.gen.errors import Paused, UsageError
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.frames import Frame, Kind
from stillhouse.gen.journal.journals import journal_root, journals_at
from stillhouse.gen.journal.shipping import SHIP_BYTES
from stillhouse.gen.store.base import Store
from stillhouse.gen.views.verify.checks import Verification
from stillhouse.gen.views.verify.expected import Expected, Identity, Part
from stillhouse.gen.views.verify.findings import FindingKind, Report
from stillhouse.gen.views.verify.shard_check import UNREADABLE, ShardCheck
from stillhouse.schemas.run_settings import RunSettings

ASIDE = "_stillhouse/damaged/"
"""Folder for unreadable shards."""

_BROUGHT_BACK = "{} answers went from raw/ to its journal; the next run resumes there"

_MENDABLE: frozenset[FindingKind] = frozenset(("unreadable", "metadata", "counts", "samples", "side_file"))
_NOT_THE_SHARD: frozenset[FindingKind] = frozenset(("version", "schema", "identity", "record_ids"))
"""With one of these findings, the fault may be in the recipe, the plan or the index, so nothing is removed."""


def verify_and_repair(store: Store) -> Report:
    """Check the dataset at the store's root, and repair what can be repaired; no run may be working on it.

    Files left by crashes are removed, and the answers of a damaged shard go from raw/ back to its chunk's journal, from
    which the next run seals it again; what is still damaged afterwards is reported again.

    Raises:
        DatasetError: there is no dataset at the store's root.
        UsageError: a run works on the dataset.
        StoreAway, StoreRefused: the store does not answer, or refuses.
    """
    with _alone(store):
        first = Verification(DatasetReader(store), running=False)
        before = first.run()
        repairer = Repairer(
            store, identity=first.identity, part_of=first.part_of, seals=first.seals, retried=first.retried
        )
        done = repairer.repair(first.damaged, sweep=first.sweepable, gone=first.gone)
        if not done:
            return before
        after = Verification(DatasetReader(store), running=False).run()
    still = set(after.findings)
    repaired = [
        finding.model_copy(update={"repaired": True, "message": f"{finding.message}; {done[finding.key]}"})
        if finding.key in done
        else finding.model_copy(update={"repaired": True})
        for finding in before.findings
        if finding not in still and finding.kind != "unfinished"
    ]
    return after.model_copy(update={"findings": (*repaired, *after.findings)})


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Keep runs from starting meanwhile."""
    if is_running(store):
        raise UsageError(f"{store.url}: a run is working on it; use `verify --repair` when it has ended")
    lost: list[Paused] = []
    with run_lock(store, run=f"repair-{secrets.token_hex(4)}", waiting=lambda _: None, lost=lost.append):
        yield
    if lost:
        raise UsageError(f"{store.url}: the repair lost its lock ({lost[0]}); run `verify` again when no run is active")


class Repairer:
    """Repairs what a verification found.

    `seals`: the seals of the sound shards; `retried`: by prompt key, the last generation that asked it again.
    """

    def __init__(
        self,
        store: Store,
        *,
        identity: Identity | None,
        part_of: Callable[[ChunkId], Part | None],
        seals: Mapping[ChunkId, str | None],
        retried: Mapping[str, int],
    ) -> None:
        self._store = store
        self._identity = identity
        self._part_of = part_of
        self._seals = seals
        self._retried = retried

    def repair(self, checks: Iterable[ShardCheck], *, sweep: Sequence[str], gone: Sequence[ChunkId]) -> dict[str, str]:
        """Repair what can be repaired; returns the keys of the damaged objects, each with what was done. No run may be
        working on it.

        `gone`: chunks that have answers in raw/, but neither a shard nor a journal.
        """
        done = {}
        for key in sweep:
            self._store.delete(key)
            done[key] = "removed"
        # All are judged before one is removed: two swapped shards are covered by each other's raw files.
        for check in [check for check in checks if self._may_go(check)]:
            answers = self._replay(check.chunk)
            became = "removed" if check.meta is not None else f"moved to {self._move_aside(check.chunk.data_key)}"
            self._store.delete(check.chunk.data_key)
            words = f"its shard was {became}, {_BROUGHT_BACK.format(answers)}"
            done |= {finding.key: words for finding in check.findings}
        for chunk in gone:
            if self._holds(chunk, 1):
                done[chunk.data_key] = _BROUGHT_BACK.format(self._replay(chunk))
        return done

    def _move_aside(self, key: str) -> str:
        """Copy an object to where no reader of the dataset looks; returns its new key."""
        aside = f"{ASIDE}{key.rpartition('/')[2]}"
        self._store.put(aside, self._store.get(key) or b"")
        return aside

    def _may_go(self, check: ShardCheck) -> bool:
        """True if the shard is at fault, and all the readable answers in it are elsewhere too."""
        kinds = {finding.kind for finding in check.findings}
        copy = check.meta is not None and self._seals.get(check.owner) == check.meta.seal
        if not kinds & _MENDABLE or kinds & _NOT_THE_SHARD or ("unknown_chunk" in kinds and not copy):
            return False
        if "unknown_chunk" not in kinds and not self._holds(check.chunk, check.answers):
            return False
        if self._is_retried(check.chunk):
            return False
        if check.meta is None or copy or check.owner == check.chunk:
            return True
        return self._holds(check.owner, check.meta.counts.records + sum(check.meta.counts.rejected.values()))

    def _holds(self, chunk: ChunkId, answers: int) -> bool:
        """True if raw/ has answers of this many of the chunk's samples; False if that is unknown."""
        frames = self._frames(chunk)
        return frames is not None and len({frame.ordinal for frame in frames}) >= answers

    def _is_retried(self, chunk: ChunkId) -> bool:
        """True if a later generation asked again what this one had asked."""
        expected = self._expected(chunk)
        return expected is not None and any(self._retried.get(key, 0) > chunk.generation for key in expected.asks)

    def _expected(self, chunk: ChunkId) -> Expected | None:
        part = self._part_of(chunk)
        if part is None or self._identity is None:
            return None
        return part.expects(chunk.number, bound=self._identity.bound)

    def _frames(self, chunk: ChunkId) -> Iterator[Frame] | None:
        """The answers in raw/, of any seal: all seals of a chunk were made from one journal."""
        expected = self._expected(chunk)
        if expected is None or self._identity is None:
            return None
        return self._read_raw(chunk, expected.ordinals(self._identity))

    def _read_raw(self, chunk: ChunkId, samples: Mapping[str, tuple[int, int]]) -> Iterator[Frame]:
        for stat in self._store.list(f"_stillhouse/raw/part-{chunk}-"):
            # What comes before a damaged page is as good as in any other file.
            with suppress(*UNREADABLE), self._store.open(stat.key) as file:
                for batch in pq.ParquetFile(file, page_checksum_verification=True).iter_batches(64):
                    for row in batch.to_pylist():
                        if (sample := samples.get(row["record_id"])) is not None:
                            yield _answered(row, ordinal=sample[0], teacher=sample[1])

    def _replay(self, chunk: ChunkId) -> int:
        """Write the answers to the chunk's journal, where its next owner looks; returns their number."""
        store = self._store
        folder = journal_root(store, RunSettings()) / str(chunk) if store.is_local else store.scratch()
        journal = JournalFile.create(folder / f"{time.time():017.6f}-repair.journal")
        live = journals_at(store, folder.parent).live(chunk, journal)
        seen: set[int] = set()
        for frame in self._frames(chunk) or ():
            if frame.ordinal not in seen:
                seen.add(frame.ordinal)
                sent = Frame(Kind.SENT, frame.ordinal, frame.at, endpoint=frame.endpoint, teacher=frame.teacher)
                journal.append(sent)
                journal.append(frame)
                if live.behind_bytes >= SHIP_BYTES:
                    live.ship()
        live.ship()
        journal.close() if store.is_local else journal.remove()
        return len(seen)


def _answered(row: Mapping[str, Any], *, ordinal: int, teacher: int) -> Frame:
    """A row of raw/ as the frame it was made from, without what raw/ does not keep."""
    at = row["received_at"].timestamp()
    return Frame(Kind.ANSWERED, ordinal, at, 0.0, row["status"], row["endpoint"], row["body"], teacher=teacher)
