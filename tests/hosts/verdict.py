"""What a run on two hosts came to: the teacher's log against what is stored, and the promises that they judge."""

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

SHIP_EVERY_S = 2.0
SLACK_S = 0.5
"""For a segment's way to the store, and between the teacher's log and the harness's marks."""
LATE_S = 6.0
"""A request that a cut host's kernel held arrives within this time after the link is back."""
STALL_S = 0.2
"""A teacher that sees nothing at all for this long did not run, and finds what came meanwhile all at once."""
IDLE_S = 2.0
"""A time without any request counts as idle from here on."""


@dataclass(slots=True)
class Ask:
    """One request, by the teacher's log."""

    token: str
    key: str
    peer: str
    at: float
    received_at: float | None = None
    """When its answer was acknowledged; None: it never was."""


@dataclass(frozen=True, slots=True)
class Excuse:
    """A time whose answers may be asked again: only the host's own disk had them."""

    peer: str
    since: float
    until: float

    @classmethod
    def disk_lost(cls, peer: str, at: float, until: float | None = None) -> "Excuse":
        """The host, or its way to all others, went at `at`, or process by process until then."""
        return cls(peer, at - SHIP_EVERY_S - SLACK_S, (at if until is None else until) + SLACK_S)

    @classmethod
    def disk_full(cls, peer: str, at: float, *, latency_s: float) -> "Excuse":
        """The host could keep no answers that were in flight when its journals' disk filled up."""
        return cls(peer, at - SLACK_S, at + latency_s + 2 * SLACK_S)

    @classmethod
    def store_lost(cls, peer: str, at: float, *, latency_s: float) -> "Excuse":
        """The host lost its store alone: it may ask for ten seconds more."""
        return cls(peer, at - SHIP_EVERY_S - SLACK_S, at + 10.0 + latency_s + SLACK_S)


@dataclass(slots=True)
class Story:
    """What a case did, for the judge."""

    excuses: list[Excuse] = field(default_factory=list)
    heals: list[tuple[str, float]] = field(default_factory=list)
    """(host's address, when its link came back)."""
    marks: list[tuple[float, str]] = field(default_factory=list)
    codes: list[int | None] = field(default_factory=list)
    """Of the runs, in their order; None: went with its host."""
    wanted: Sequence[int | None] = (0,)
    silences: list[float] = field(default_factory=list)
    """The longest time that each run printed nothing."""
    control: str = ""
    """Where the shared actors were."""
    least_share: float = 0.0
    longest_idle_s: float = float("inf")
    asks: list[tuple[str, float, float, bool]] = field(default_factory=list)
    """(host's address, since, until, whether it asks anything then)."""
    words: list[str] = field(default_factory=list)
    """What the runs have to say."""
    printed: str = ""
    """What they said."""
    runs_at_once: int = 1
    """Each keeps the limits by itself."""


def read_log(path: Path) -> list[Ask]:
    """The requests, oldest first."""
    asks: dict[str, Ask] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        said = json.loads(line)
        if "key" in said:
            asks[said["token"]] = Ask(**said)
        else:
            asks[said["token"]].received_at = said["received_at"]
    return sorted(asks.values(), key=lambda ask: ask.at)


def asked_again(asks: Iterable[Ask], story: Story) -> Counter[str]:
    """How many requests repeated an earlier one, by what had become of that."""
    by_key: defaultdict[str, list[Ask]] = defaultdict(list)
    for ask in asks:
        by_key[ask.key].append(ask)
    found = Counter({"in flight": 0, "unshipped": 0, "late": 0, "received": 0})
    for repeats in by_key.values():
        for first, second in pairwise(repeats):
            found[_why_again(first, second, story)] += 1
    return found


def _why_again(first: Ask, second: Ask, story: Story) -> str:
    if first.received_at is None or first.received_at > second.at:
        return "in flight"
    if any(peer == second.peer and at <= second.at <= at + LATE_S for peer, at in story.heals):
        return "late"
    at = first.received_at
    if any(e.peer == first.peer and e.since <= at <= e.until for e in story.excuses):
        return "unshipped"
    return "received"


def most_within(asks: Sequence[Ask], seconds: float) -> int:
    """The most requests in any window of this length."""
    times = [ask.at for ask in asks]
    return max((bisect_left(times, at + seconds) - n for n, at in enumerate(times)), default=0)


def most_in_second(asks: Sequence[Ask]) -> int:
    """The most requests in any second, as they came: what a teacher that stalled found in its sockets is spread.

    It stalled if for a while it neither read a request nor saw an acknowledgement.
    """
    times = [ask.at for ask in asks]
    seen = sorted([*times, *(ask.received_at for ask in asks if ask.received_at is not None)])
    for before, at in pairwise(seen):
        if STALL_S < at - before < IDLE_S:
            first, end = bisect_left(times, at), bisect_left(times, at + STALL_S / 2)
            step = (at + STALL_S / 2 - before) / max(1, end - first)
            times[first:end] = [before + step * (n + 1) for n in range(end - first)]
    return max((bisect_left(times, at + 1.0) - n for n, at in enumerate(times)), default=0)


def as_sent(asks: Iterable[Ask], story: Story, sent_at: Mapping[str, float]) -> list[Ask]:
    """The requests; those that a cut host's kernel held until the link was back have the time when they were sent.

    Nobody can call such a request back, so it says nothing about how fast the host asks once it is back.
    """

    def is_held(ask: Ask) -> bool:
        sent = sent_at.get(ask.token, ask.at)
        return any(
            peer == ask.peer and sent < healed_at - SLACK_S and healed_at - SLACK_S < ask.at < healed_at + LATE_S
            for peer, healed_at in story.heals
        )

    return sorted(
        (replace(ask, at=sent_at[ask.token]) if is_held(ask) else ask for ask in asks), key=lambda ask: ask.at
    )


@dataclass(frozen=True, slots=True)
class Figures:
    """A case in numbers; `faults` is empty where all promises held."""

    case: str
    faults: list[str]
    codes: list[int | None]
    requests: int
    again: dict[str, int]
    share: float
    """Percent of the limit, without the first and the last five seconds."""
    held: int
    """Requests that a cut host's kernel held until its link was back, counted in the second in which they were sent."""
    most_in_second: int
    most_in_minute: int
    idle_s: float
    silent_s: float
    peers: dict[str, int]
    control: str
    marks: list[tuple[float, str]]

    def line(self) -> str:
        """For a terminal."""
        again = " / ".join(str(self.again[kind]) for kind in ("in flight", "unshipped", "late", "received"))
        verdict = "ok" if not self.faults else f"FAULT: {'; '.join(self.faults)}"
        return (
            f"{self.case}: {verdict} | exit {self.codes} | {self.requests} requests, again {again} | "
            f"share {self.share:.1f} % | idle {self.idle_s:.0f} s | silent {self.silent_s:.0f} s | "
            f"most {self.most_in_second} a second ({self.held} held), {self.most_in_minute} a minute | "
            f"{self.peers} | {self.control}"
        )

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


def judge(
    case: str, *, story: Story, log: Path, dataset: Path, prompts: int, per_minute: int, verify: str | None
) -> Figures:
    """Compare; `verify` is the command's output if it found something."""
    asks = read_log(log)
    again = asked_again(asks, story)
    rows = {kind: _rows(dataset / kind) for kind in ("data", "rejected", "failed")}
    sent = as_sent(asks, story, {row["response_id"]: row["asked_at"].timestamp() for row in rows["data"]})
    second, minute = most_in_second(sent), most_within(asks, 60.0)
    start, end = (asks[0].at, asks[-1].at) if asks else (0.0, 0.0)
    steady = sum(start + 5.0 <= ask.at <= end - 5.0 for ask in asks)
    share = 100 * steady / max(1e-9, end - start - 10.0) / (per_minute / 60)
    gaps = [b.at - a.at for a, b in pairwise(asks)]
    idle_s = sum(gap for gap in gaps if gap > IDLE_S)
    faults = list(_stored_amiss(dataset, rows, prompts=prompts, asks=asks))
    if list(story.codes) != list(story.wanted):
        faults.append(f"exit codes {story.codes}, not {list(story.wanted)}")
    if verify is not None:
        faults.append(f"verify: {verify}")
    if again["received"]:
        faults.append(f"{again['received']} answers that had been received were asked again")
    if minute > story.runs_at_once * per_minute:
        faults.append(f"{minute} requests in a minute")
    if second > story.runs_at_once * per_minute / 60 * 1.25:
        faults.append(f"{second} requests in a second")
    if share < story.least_share:
        faults.append(f"{share:.1f} % of the limit, less than {story.least_share:g} %")
    for peer, since, until, wanted in story.asks:
        if any(ask.peer == peer and since <= ask.at <= until for ask in asks) != wanted:
            faults.append(f"{peer} asked {'nothing' if wanted else 'something'} from {since - start:.0f} s on")
    faults += [f"the run never said: {words}" for words in story.words if words not in story.printed]
    if idle_s > story.longest_idle_s:
        faults.append(f"{idle_s:.0f} s idle, more than {story.longest_idle_s:g}")
    return Figures(
        case=case,
        faults=faults,
        codes=story.codes,
        requests=len(asks),
        again=dict(again),
        share=round(share, 1),
        held=sum(ask not in sent for ask in asks),
        most_in_second=second,
        most_in_minute=minute,
        idle_s=round(idle_s, 1),
        silent_s=round(max(story.silences, default=0.0), 1),
        peers=dict(Counter(ask.peer for ask in asks)),
        control=story.control,
        marks=[(round(at - start, 1), what) for at, what in story.marks],
    )


def _stored_amiss(
    dataset: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]], *, prompts: int, asks: Sequence[Ask]
) -> Iterable[str]:
    """What is wrong with the dataset: every prompt should be there once, with an answer given to it."""
    counted = {kind: len(found) for kind, found in rows.items() if found}
    if counted != {"data": prompts}:
        yield f"stored {counted}, not {prompts} records"
    keys = Counter(row["prompt_id"] for row in rows["data"])
    if twice := sum(count > 1 for count in keys.values()):
        yield f"{twice} prompts are stored twice"
    given = {ask.token for ask in asks}
    if strange := sum(row["response_id"] not in given for row in rows["data"]):
        yield f"{strange} stored answers that the teacher never gave"
    journal = dataset / "_stillhouse" / "journal"
    if left := [path for path in journal.rglob("*") if path.is_file()]:
        yield f"{len(left)} journals are left in the store"


def _rows(folder: Path) -> list[dict[str, Any]]:
    columns = ["prompt_id", "response_id", *(["asked_at"] if folder.name == "data" else [])]
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.parquet")):
        found += pq.read_table(path, columns=columns).to_pylist()
    return found
