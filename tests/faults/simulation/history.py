"""What really happened: which requests were sent, which answers were kept, and where. It knows what each worker knew.

The promises are judged here while they can be broken: an answer that a worker kept is never asked for again by a worker
that could know of it, and what is lost is younger than a journal may wait to be shipped.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from stillhouse.gen.coordination.leases import FENCE_S, TERM_S
from stillhouse.schemas.budget import Budget

from .loop import VirtualLoop
from .processes import Node, Process, Processes

Sample: TypeAlias = tuple[str, int]
"""(the prompt's text, the number of the sample)."""

SETTLING = frozenset(("answer", "length", "filtered", "refused"))
"""Fates after which a sample is never asked again."""
_UNSERVED = ("expired", "unreached")
"""Fates of requests that a batch's provider did not get to, and does not bill."""

_SERIAL = re.compile(rb'"id":"r(\d+)"')
SLACK_S = 2.0
"""For messages, and for a journal's turn among others, beside `ship_every_s`."""


class Broken(AssertionError):
    """A promise is broken."""


@dataclass(eq=False)
class Copy:
    """An answer in a journal file."""

    process: Process
    path: Path
    at: float
    on_disk: bool
    """False if a later owner had already read and removed the file: the writer was taken for dead, and was not."""


@dataclass(eq=False)
class Request:
    """One attempt."""

    serial: int
    sample: Sample
    process: Process
    sent_at: float
    fate: str
    teacher: str = ""
    """The host that was asked."""
    copies: list[Copy] = field(default_factory=list)
    """Where its reply was kept, oldest first."""

    @property
    def kept_at(self) -> float | None:
        """When its reply was in a journal."""
        return self.copies[0].at if self.copies else None


class History:
    """See the module."""

    def __init__(
        self, loop: VirtualLoop, processes: Processes, *, ship_every_s: float, ships: bool, note: Callable[[str], None]
    ) -> None:
        self._loop = loop
        self._note = note
        self._processes = processes
        self._bound_s = ship_every_s + SLACK_S
        self.requests: list[Request] = []
        self.by_sample: defaultdict[Sample, list[Request]] = defaultdict(list)
        self.attempts: Counter[Sample] = Counter()
        """Requests to teachers sent or tried to be."""
        self._knows: defaultdict[Process, set[int]] = defaultdict(set)
        self._opened: dict[tuple[Process, str], float] = {}
        self._files: defaultdict[Path, set[int]] = defaultdict(set)
        self._segments: dict[str, set[int]] = {}
        self._unshipped: defaultdict[Process, defaultdict[Path, dict[int, float]]]
        self._unshipped = defaultdict(lambda: defaultdict(dict))
        """When answers were kept that are in no segment."""
        self.ships = ships
        """True if journals go to a store."""
        self.budget: Budget | None = None
        """That of the latest run; it is only ever raised."""
        self.billed_usd = 0.0
        """By the teacher's count; requests whose answers are lost at their dearest."""
        self.lost_disks: list[tuple[Node, float]] = []
        self.store_trouble = False
        """True if the store was ever slow or away: journals may then wait."""
        self.disk_full = False
        """True if a journal's disk was ever full: answers that could not be kept may be billed."""
        self.upheaval = False
        """True if a queue or a driver ever died: for a while two workers may have one chunk."""
        self.limiter_died = False
        self.message_lost = False
        self.store_lost = False
        """True if some ever lost the store that others reached: what they could not ship, others can't know."""
        self.broken: list[Broken] = []
        """Promises broken where a worker met it, which took it for an error of its own and stopped."""
        self.lost: set[int] = set()
        """Serials of kept answers that were asked again with an excuse."""

    @property
    def faithful(self) -> bool:
        """True if every attempt is remembered: at most workers died, all on one disk, or nobody did and everything was
        shipped.
        """
        everyone = self._processes.all
        nodes = {p.node for p in everyone if p.kind == "worker"}
        disturbed = self.upheaval or self.store_lost or any(p.disturbed for p in everyone)
        return not (disturbed or self.lost_disks) and (len(nodes) == 1 or (self.deaths == 0 and not self.store_trouble))

    @property
    def deaths(self) -> int:
        """Workers that died."""
        return sum(p.kind == "worker" and p.dead_at is not None and not p.retired for p in self._processes.all)

    @property
    def undisturbed(self) -> bool:
        """True if nothing ever died, stopped or was cut off."""
        everyone = self._processes.all
        return not (
            self.upheaval
            or self.store_lost
            or self.limiter_died
            or any(p.disturbed or (p.dead_at is not None and not p.retired) for p in everyone)
        )

    # --- journals

    def opened(self, process: Process, path: Path, shipped: Iterator[str]) -> None:
        """A worker opens a chunk; `shipped`: the keys of its segments in the store."""
        self._opened[process, path.parent.name] = self._loop.time()
        for other in path.parent.glob("*.journal"):
            self._knows[process] |= self._files[other]
        for key in shipped:
            self._knows[process] |= self._segments[key]
        self._note(f"{process.name} on {process.node.name} opens {path.parent.name}")

    def kept(self, process: Process, path: Path, body: bytes) -> None:
        """A whole answer is in a worker's journal file."""
        for serial in serials(body):
            request = self.requests[serial]
            if request.fate in SETTLING:
                request.copies.append(Copy(process, path, self._loop.time(), on_disk=path.exists()))
                self._files[path].add(serial)
                self._knows[process].add(serial)
                if request.process is process:  # what was recovered is no loss of its own
                    self._unshipped[process][path][serial] = self._loop.time()
            self._note(f"{process.name} keeps r{serial} in {path.parent.name}")

    def let_go(self, process: Process, path: Path) -> None:
        """A worker closed a journal: its chunk is sealed, or another's."""
        self._unshipped[process].pop(path, None)

    def shipped(self, key: str, data: bytes) -> None:
        """A segment is in the store."""
        found = serials(data)
        for files in self._unshipped.values():
            for waiting in files.values():
                for serial in found:
                    waiting.pop(serial, None)
        self._note(f"shipped: {key} with {sorted(found)}")
        self._segments[key] = {serial for serial in found if self.requests[serial].fate in SETTLING}

    def billed(self, usd: float) -> None:
        """The teacher bills for the request that was sent last.

        Raises:
            Broken: the budget does not allow it.
        """
        self.billed_usd += usd
        budget = self.budget
        if budget is None:
            return
        if budget.requests is not None and self.served > budget.requests:
            raise Broken(f"{self.served} requests were sent, the budget is {budget.requests}")
        if budget.usd is not None and self.billed_usd > budget.usd + 1e-6:
            raise Broken(f"{self.billed_usd} USD are billed, the budget is {budget.usd}")

    @property
    def served(self) -> int:
        """Requests, less those that a provider did not get to."""
        return sum(request.fate not in _UNSERVED for request in self.requests)

    def judge_end(self) -> None:
        """A run ended because the budget is used up.

        Raises:
            Broken: it is not, and nothing happened that could leave a part of it unused.
        """
        budget, calm = self.budget, self.undisturbed and not (self.message_lost or self.store_trouble or self.disk_full)
        if calm and budget is not None and budget.requests is not None and self.served < budget.requests:
            raise Broken(f"{self.served} requests were sent of a budget of {budget.requests}")

    # --- requests

    def sent(
        self, process: Process, sample: Sample, fate: str, *, teacher: str = "", left_at: float | None = None
    ) -> Request:
        """A worker sends a request, which left it at `left_at`, by default now.

        Raises:
            Broken: it must not.
        """
        request = Request(len(self.requests), sample, process, self._loop.time(), fate, teacher)
        if left_at is None:
            left_at = request.sent_at
        if (silent_s := left_at - process.renewed_at) > FENCE_S + SLACK_S + 5.0:  # 5 s: a closed circuit
            raise Broken(f"{process.name} sends {silent_s:.1f} s after its last renewal")
        if (lapsed_s := left_at - process.tenure.good_until) > SLACK_S and not process.disturbed:
            raise Broken(f"{process.name} sends {lapsed_s:.1f} s after its run may have lost the dataset")
        if self.ships and not (process.disturbed or self.upheaval):
            self._judge_unshipped(request)
        for earlier in self.by_sample[sample]:
            if earlier.copies:
                self._judge_repeat(earlier, request)
        self._note(f"{process.name} asks {sample}: r{request.serial}, {fate}")
        self.requests.append(request)
        self.by_sample[sample].append(request)
        return request

    def _judge_unshipped(self, request: Request) -> None:
        """Nothing is sent while an answer has waited for the store too long."""
        for path, waiting in self._unshipped[request.process].items():
            age_s = request.sent_at - min(waiting.values(), default=request.sent_at)
            if age_s > FENCE_S + SLACK_S:
                raise Broken(f"{request.process.name} sends, and {path.name} has not been shipped for {age_s:.1f} s")

    def _judge_repeat(self, earlier: Request, request: Request) -> None:
        """A sample is asked although its answer was kept: only an answer that nobody could know of may be."""
        process = request.process
        what = f"{process.name} asks {request.sample} again, which r{earlier.serial} answered"
        if earlier.serial in self._knows[process]:
            raise Broken(f"{what}; it had that answer")
        chunk = earlier.copies[0].path.parent.name
        opened_at = self._opened.get((process, chunk))
        if opened_at is None:  # a retry asks a Failure: the answer was kept by a worker that others had taken for dead
            askers = [request.process for request in self.by_sample[request.sample]]
            unseen = earlier.serial in self.lost or self.went_unseen(earlier)  # by an owner that had no money to ask
            if not (unseen or self.upheaval or any(asker.disturbed for asker in askers)):
                raise Broken(f"{what}; chunk {chunk} was sealed without it")
            self.lost.add(earlier.serial)
            return
        assert earlier.kept_at is not None
        if earlier.kept_at > opened_at:
            if not (process.disturbed or earlier.process.disturbed or self.upheaval):
                raise Broken(f"{what}; both {process.name} and {earlier.process.name} have chunk {chunk}")
        else:
            for copy in earlier.copies:
                if copy.at <= opened_at and (reason := self._why_not_seen(copy, process, opened_at)) is not None:
                    raise Broken(f"{what}; {reason}")
        self.lost.add(earlier.serial)

    def went_unseen(self, request: Request) -> bool:
        """True if a later owner of its chunk legitimately could not know of a kept answer."""
        chunk = request.copies[0].path.parent.name
        for (process, opened), at in self._opened.items():
            if opened == chunk and at >= request.copies[0].at and request.serial not in self._knows[process]:
                early = [copy for copy in request.copies if copy.at <= at]
                if all(self._why_not_seen(copy, process, at) is None for copy in early):
                    return True
        return False

    def _why_not_seen(self, copy: Copy, process: Process, opened_at: float) -> str | None:
        """Why a copy must have been seen by a worker that opened its chunk later; None: it may be lost."""
        owner = copy.process
        lost_at = [at for node, at in self.lost_disks if node is owner.node and at >= copy.at]
        ends = [at for at in (owner.dead_at, owner.stopped_at, *lost_at) if at is not None and at >= copy.at]
        age_s = min([opened_at, *ends]) - copy.at
        remains = copy.on_disk and not lost_at
        if owner.node is process.node and remains:
            return f"its journal was on the disk of {owner.node.name}"
        if self.store_trouble:
            return None
        if age_s > self._bound_s and not owner.disturbed:
            return f"its journal was not shipped for {age_s:.1f} s"
        if remains and owner.dead_at is not None and (sweeper := self._sweeper(owner, opened_at)) is not None:
            return f"{sweeper.name} was there to ship what {owner.name} left"
        return None

    def _sweeper(self, dead: Process, opened_at: float) -> Process | None:
        """A worker that lived beside a dead one's journals long enough to ship them before the chunk was opened."""
        assert dead.dead_at is not None
        for worker in self._processes.all:
            lived = worker.dead_at is None or worker.dead_at > opened_at
            early = worker.started_at + SLACK_S < dead.dead_at and dead.dead_at + TERM_S / 2 < opened_at
            if worker.kind == "worker" and worker.node is dead.node and lived and early and not worker.disturbed:
                return worker
        return None


def serials(data: bytes) -> set[int]:
    """The serial numbers of the replies in these bytes."""
    return {int(number) for number in _SERIAL.findall(data)}
