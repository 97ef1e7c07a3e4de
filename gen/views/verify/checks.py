"""Checks all promises against what is stored, using storage alone.

Nothing is written. What can't be read is a finding, never a guess: rows are compared only with an index and an identity
that are themselves sound. Memory: a part of the index, one row group per reader, and some 30 bytes per record id.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from stillhouse.gen.counted import counted
from stillhouse.gen.dataset.binding import Binding, parse_binding
from stillhouse.gen.dataset.budget_file import read_budget
from stillhouse.gen.dataset.layout import (
    BUDGET_KEY,
    JOURNAL_PREFIX,
    RECIPE_KEY,
    ChunkId,
    index_key,
    plan_key,
)
from stillhouse.gen.dataset.plans import Plan, RetryPlan, read_plan
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.gen.views.verify.expected import Identity, Part, read_checked_part
from stillhouse.gen.views.verify.findings import Checked, Finding, FindingKind, Report
from stillhouse.gen.views.verify.seen_ids import SeenIds
from stillhouse.gen.views.verify.shard_check import ShardCheck, check_shard

_READERS = 8
_INDEX = re.compile(r"_stillhouse/index-(\d{3,})-(\d{6,})\.parquet")
_PLAN = re.compile(r"_stillhouse/plan-(\d{3,})\.json")
_SIDE = re.compile(r"(?:rejected|failed|_stillhouse/raw)/part-(\d{3,})-(\d{6,})-[0-9a-f]+\.parquet")
_JOURNAL = re.compile(JOURNAL_PREFIX + r"(\d{3,})-(\d{6,})/.+")
_SIDE_FOLDERS = ("rejected/", "failed/", "_stillhouse/raw/")


def verify(store: ReadableStore) -> Report:
    """Check the dataset at the store's root.

    Raises:
        DatasetError: there is no dataset at the store's root.
        StoreAway, StoreRefused: the store does not answer, or refuses.
    """
    dataset = DatasetReader(store)
    return Verification(dataset, running=dataset.is_running).run()


class Verification:
    """One pass over a dataset."""

    def __init__(self, dataset: DatasetReader, *, running: bool) -> None:
        self._dataset = dataset
        self._store = dataset.store
        self._running = running
        self._findings: list[Finding] = []
        self._checked = Checked()
        self._ids = SeenIds()
        self._plans: dict[int, Plan] = {}
        self._parts: set[tuple[int, int]] = set()
        """Parts of the index that are sound."""
        self.seals: dict[ChunkId, str | None] = {}
        """Metadata of every shard; None if it is not sound."""
        self._shards: Sequence[ChunkId] = ()
        self.retried: dict[str, int] = {}
        """The last generation that asked a prompt's Failures again, by prompt key."""
        self.identity: Identity | None = None
        self.damaged: list[ShardCheck] = []
        """Chunks of shards with findings."""
        self.gone: list[ChunkId] = []
        """Chunks whose answers are only in raw/."""
        self.sweepable: list[str] = []
        """Keys of files that crashes left behind."""

    def run(self) -> Report:
        """Check everything."""
        self._shards = self._dataset.shards
        generations = self._generations()
        self._read_recipe(any_left=bool(generations))
        self._budget()
        for generation in range(generations):
            self._generation(generation)
        for (first, second), count in sorted(self._ids.duplicates().items()):
            where = f"also in {self._shards[first].data_key} or its rejected file"
            self._found(
                "twice",
                self._shards[second].data_key,
                f"{counted(count, 'record')} of it {'is' if count == 1 else 'are'} {where}",
            )
        self._foreign()
        self._gone_shards()
        self._leftover_side_files()
        self._leftover_journals()
        self._leftover_scratch()
        return Report(dataset=self._store.url, checked=self._checked, findings=tuple(self._findings))

    @property
    def bound(self) -> Binding | None:
        """The identity that the dataset is bound to; None if it can't be read."""
        return self.identity.bound if self.identity is not None else None

    def part_of(self, chunk: ChunkId) -> Part | None:
        """The part of the index that names the chunk, if it is sound."""
        plan = self._plans.get(chunk.generation)
        if plan is None or (plan.generation, number := plan.part_of(chunk.number)) not in self._parts:
            return None
        return read_checked_part(self._store, plan, number)

    def _found(self, kind: FindingKind, key: str, message: str) -> None:
        # Errors name the file themselves, and a finding is shown with its key.
        self._findings.append(Finding(kind=kind, key=key, message=message.partition(f"{key}: ")[2] or message))

    def _count(self, **counts: int) -> None:
        now = self._checked.model_dump()
        self._checked = Checked(**{name: value + counts.get(name, 0) for name, value in now.items()})

    # --- the dataset as a whole

    def _generations(self) -> int:
        """Number of generations, judged by whatever is left of them."""
        numbers = [chunk.generation for chunk in self._shards[-1:]]
        for stat in self._store.list("_stillhouse/"):
            if match := _PLAN.fullmatch(stat.key) or _INDEX.fullmatch(stat.key):
                numbers.append(int(match[1]))
        return max(numbers, default=-1) + 1

    def _read_recipe(self, *, any_left: bool) -> None:
        stored = self._store.get(RECIPE_KEY)
        if stored is None and not any_left:
            raise self._dataset.absent()
        try:
            self.identity = Identity.of(parse_binding(stored or b"", origin=RECIPE_KEY))
        except (DatasetError, ValueError) as error:
            self._found("recipe", RECIPE_KEY, f"{error}. What the rows must be is unknown without it")

    def _budget(self) -> None:
        try:
            read_budget(self._store)
        except DatasetError as error:
            self._found("budget", BUDGET_KEY, str(error))

    def _generation(self, generation: int) -> None:
        self._count(generations=1)
        plan = self._plan(generation)
        chunks = [chunk for chunk in self._shards if chunk.generation == generation]
        matches = (_INDEX.fullmatch(s.key) for s in self._store.list(f"_stillhouse/index-{generation:03d}-"))
        present = {int(match[2]) for match in matches if match}
        by_part: defaultdict[int, list[ChunkId]] = defaultdict(list)
        for chunk in chunks:
            # Without its plan, how many chunks a part has is unknown.
            by_part[plan.part_of(chunk.number) if plan is not None else 0].append(chunk)
        known, ended = 0, False
        for number in range(max([*present, *by_part], default=-1) + 1):
            part = self._part(plan, generation, number, present=number in present, ended=ended)
            known += len(part.info.asks) if part is not None else 0
            ended = ended or (part is not None and part.info.last)
            self._check_chunks(plan, part, by_part[number], ended=ended)
        self._count(chunks=known)
        if not ended or known > len(chunks):
            left = max(0, known - len(chunks))
            words = f"{counted(left, 'chunk')} {'is' if left == 1 else 'are'} not sealed yet"
            self._found("unfinished", plan_key(generation), words + ("" if ended else "; its index is not complete"))

    def _plan(self, generation: int) -> Plan | None:
        try:
            plan = read_plan(self._store, generation)
            _ = plan.kept_fields if plan is not None else None
        except (DatasetError, ValueError, OSError) as error:
            self._found("plan", plan_key(generation), str(error))
            return None
        if plan is None:
            self._found("plan", plan_key(generation), "is gone, but its shards or its index are there; restore it")
        else:
            self._plans[generation] = plan
        return plan

    def _part(self, plan: Plan | None, generation: int, number: int, *, present: bool, ended: bool) -> Part | None:
        key = index_key(generation, number)
        if not present:
            if not ended:
                self._found("index", key, "is gone; restore it: without it, the contents of its chunks are unknown")
            return None
        self._count(index_parts=1)
        if ended:
            self._found("index", key, "exists although the part before it is the last of its generation")
        if plan is None:
            return None
        try:
            part = read_checked_part(self._store, plan, number)
        except DatasetError as error:
            self._found("index", key, f"{error}. Its chunks were not compared with it; restore it")
            return None
        self._parts.add((generation, number))
        if isinstance(plan, RetryPlan):
            self.retried |= dict.fromkeys((key.hex() for key in part.rows["key"].to_pylist()), generation)
        self._count(source_rows=part.info.rows)
        return part

    # --- shards

    def _check_chunks(self, plan: Plan | None, part: Part | None, chunks: list[ChunkId], *, ended: bool) -> None:
        """Check the shards of one part of the index."""

        def check(chunk: ChunkId) -> ShardCheck:
            expected = part.expects(chunk.number, bound=self.bound) if part is not None else None
            kept = plan.kept_fields if plan is not None else None
            result = check_shard(self._store, chunk, identity=self.identity, kept=kept, expected=expected)
            if expected is None and (ended or part is not None):
                words = "belongs to a chunk that the index does not name"
                result.findings.append(Finding(kind="unknown_chunk", key=chunk.data_key, message=words))
            return result

        with ThreadPoolExecutor(_READERS) as pool:
            for result in pool.map(check, chunks):
                self._take_in(result)

    def _take_in(self, result: ShardCheck) -> None:
        self._ids.add(result.ids, owner=len(self.seals))
        self.seals[result.chunk] = result.meta.seal if result.meta and not result.findings else None
        self._findings += result.findings
        if result.findings:
            self.damaged.append(result)
        rows, meta = result.rows, result.meta
        self._count(
            shards=1,
            side_files=len(meta.side) if meta else 0,
            records=rows["data"],
            rejected=rows["rejected"],
            failed=rows["failed"],
            duplicates=result.duplicates,
            bad_rows=result.bad_rows,
        )

    # --- files that do not belong there

    def _foreign(self) -> None:
        """Report files in data/ that are not shards: a reader's glob takes them for the dataset."""
        shards = {chunk.data_key for chunk in self._shards}
        for stat in self._store.list("data/"):
            if stat.key not in shards and not self._running:
                self._found(
                    "foreign",
                    stat.key,
                    "is not a shard of this dataset, but readers of data/ will read it; move it away",
                )

    def _gone_shards(self) -> None:
        """Report chunks with answers in raw/ but no shard. A crash while sealing leaves a journal, a lost shard does
        not.

        For a dataset on S3, the journal may also be on a node that was lost before it was shipped.
        """
        if self._running:
            return
        named = (_SIDE.fullmatch(stat.key) for stat in self._store.list("_stillhouse/raw/"))
        raw = {ChunkId(int(match[1]), int(match[2])) for match in named if match}
        journals = (_JOURNAL.fullmatch(stat.key) for stat in self._store.list(JOURNAL_PREFIX))
        raw -= {ChunkId(int(match[1]), int(match[2])) for match in journals if match}
        self.gone = sorted(raw - self.seals.keys())
        for chunk in self.gone:
            words = "is gone, and so is its journal, but raw/ has its answers: `--repair` takes them from there"
            self._found("gone" if self._store.is_local else "leftover", chunk.data_key, words)

    def _leftover_side_files(self) -> None:
        for folder in _SIDE_FOLDERS:
            for stat in self._store.list(folder):
                match = _SIDE.fullmatch(stat.key)
                if match is None:
                    self._found("foreign", stat.key, "is not a file of this dataset; move it away")
                    continue
                self._side_file(stat.key, ChunkId(int(match[1]), int(match[2])))

    def _side_file(self, key: str, chunk: ChunkId) -> None:
        if chunk not in self.seals:
            if not self._running:
                self._found(
                    "leftover",
                    key,
                    "a crash left it before its shard was written; it is removed once the chunk is sealed",
                )
        elif (seal := self.seals[chunk]) is not None and not key.endswith(f"-{seal}.parquet"):
            self._sweep(key, "its shard belongs to another seal")

    def _leftover_journals(self) -> None:
        for stat in self._store.list(JOURNAL_PREFIX):
            match = _JOURNAL.fullmatch(stat.key)
            if match and self.seals.get(ChunkId(int(match[1]), int(match[2]))) is not None:
                self._sweep(stat.key, "a journal of a chunk that is sealed")

    def _leftover_scratch(self) -> None:
        for key in self._store.leftovers():
            self._sweep(key, "a file that was being written when its process died")

    def _sweep(self, key: str, message: str) -> None:
        """A running run may be about to remove it itself."""
        if not self._running:
            self._found("leftover", key, message)
            self.sweepable.append(key)
