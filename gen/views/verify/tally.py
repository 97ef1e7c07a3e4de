"""Counts the rows of a chunk's files: how often each sample occurs, and what does not belong to the chunk."""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

from stillhouse.gen.dataset.series import SeriesKey
from stillhouse.gen.views.verify.expected import Expected, Identity
from stillhouse.gen.views.verify.seen_ids import ID_BYTES
from stillhouse.schemas.identity import has_selection
from stillhouse.schemas.record import NOT_SELECTED


class Tally:
    """Collects rows; call `against` with the index at the end."""

    def __init__(self, identity: Identity | None, expected: Expected | None) -> None:
        self._identity = identity
        self._expected = expected
        self._seen = bytearray(expected.ordinals_count if expected is not None else 0)
        """How often each sample was seen, up to 255."""
        self._accepted: Counter[SeriesKey | None] = Counter()
        """Under `ask.accept`: accepted answers, including those that a selection did not keep."""
        self._selects = identity is not None and has_selection(identity.bound.identity)
        self._strange = 0
        self.answers = self.wrong_ids = self.input = self.output = 0
        self.usd: float | None = None
        self.reasons: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self._duplicates: Counter[tuple[str, str, str]] = Counter()
        self._bad: Counter[tuple[str, int, str]] = Counter()
        self.ids = bytearray()

    @property
    def duplicates(self) -> int:
        """Rows of duplicate prompts."""
        return self._duplicates.total()

    @property
    def bad_rows(self) -> int:
        """Rows of source rows that don't make a prompt."""
        return self._bad.total()

    def take(self, kind: str, rows: Iterator[tuple[Any, ...]]) -> None:
        """Add a batch of rows, with the columns of `kind`."""
        for record_id, prompt_id, key, sample, teacher, *rest in rows:
            if kind == "failed":
                failure, file, line, message = rest
                if failure == "bad_row":
                    self._bad[file, line, message] += 1
                    continue
                self.kinds[failure] += 1
            elif record_id is None:
                self._duplicates[prompt_id, key, rest[-1]] += 1
                continue
            else:
                self._used(*rest[:3])
                if kind == "rejected":
                    self.reasons[rest[3]] += 1
                self.ids += _digest(record_id)
            self._sample(record_id, prompt_id, key, sample, teacher, answered=kind != "failed")
            if self._expected is not None and self._expected.accept:
                is_left = self._selects and kind == "rejected" and rest[3] == NOT_SELECTED
                self._accepted[self._series(key, teacher)] += kind == "data" or is_left

    def _series(self, key: str, teacher: str) -> SeriesKey | None:
        """The series of a row; None if the dataset has no such teacher, or its key is not a key."""
        assert self._expected is not None
        try:
            return self._expected.series.key(bytes.fromhex(key), teacher)
        except ValueError:
            return None

    def _used(self, input_tokens: int | None, output_tokens: int | None, usd: float | None) -> None:
        self.input += input_tokens or 0
        self.output += output_tokens or 0
        if usd is not None:
            self.usd = (self.usd or 0.0) + usd

    def _sample(self, record_id: str, prompt_id: str, key: str, sample: int, teacher: str, *, answered: bool) -> None:
        if self._identity is None or self._expected is None:
            return
        _, own_id = self._expected.asks.get(key, (0, None))
        series = self._series(key, teacher) if own_id is not None else None
        if series is None or sample not in self._expected.samples_of(series):
            self._strange += 1
            return
        ordinal = self._expected.first_ordinal(series) + sample
        self.answers += answered and not self._seen[ordinal]
        self._seen[ordinal] = min(255, self._seen[ordinal] + 1)
        ids = self._identity.ids.get(teacher)
        self.wrong_ids += prompt_id != own_id or ids is None or ids.of(bytes.fromhex(key), sample) != record_id

    def against(self, expected: Expected) -> Iterator[str]:
        """Report rows that do not match the index."""
        if self._identity is not None:
            asked = sum(len(expected.samples_of(key)) for key in expected.asked())
            seen = len(self._seen) - self._seen.count(0)
            if expected.accept:
                yield from self._until_accepted(expected)
            elif missing := asked - seen:
                yield f"{missing} of {asked} samples are neither a record nor rejected nor failed"
            if twice := seen - self._seen.count(1):
                yield f"{twice} samples occur more than once"
            if self._strange:
                yield f"{self._strange} rows belong to no sample of this chunk"
        if self._duplicates != expected.duplicates:
            yield _rows_differ("duplicate prompts in rejected/", self._duplicates, expected.duplicates)
        if self._bad != expected.bad:
            yield _rows_differ("bad rows in failed/", self._bad, expected.bad)

    @property
    def unseen(self) -> int:
        """Samples of the chunk that are in none of its files."""
        expected = self._expected
        if expected is None:
            return 0
        return sum(len(expected.samples_of(key)) for key in expected.asked()) - (len(self._seen) - self._seen.count(0))

    def by_accepted(self, expected: Expected) -> dict[int, int]:
        """The value that the chunk must report as `prompts_by_accepted`."""
        found: Counter[int] = Counter()
        for key, need in expected.needs.items():
            before = expected.accept - need
            if key in expected.again:
                found[before] -= 1
            found[before + self._counted(key, need)] += 1
        return {count: prompts for count, prompts in found.items() if prompts}

    def _counted(self, key: SeriesKey, need: int) -> int:
        """Accepted answers; with a selection, those beyond the need are only candidates."""
        return min(need, self._accepted[key]) if self._selects else self._accepted[key]

    def _until_accepted(self, expected: Expected) -> Iterator[str]:
        """Samples must be asked in order until enough are accepted, and no further; later generations choose their
        own."""
        gaps = unfinished = too_many = 0
        for key, need in expected.needs.items():
            first = expected.first_ordinal(key)
            seen = [self._seen[first + sample] > 0 for sample in sorted(expected.samples_of(key))]
            too_many += self._counted(key, need) > need
            unfinished += self._accepted[key] < need and not all(seen)
            gaps += key not in expected.again and any(later and not one for one, later in itertools.pairwise(seen))
        if gaps:
            yield f"{gaps} prompts have answers to samples that come after ones never asked"
        if unfinished:
            yield f"{unfinished} prompts lack accepted answers, and not all of their samples were asked"
        if too_many:
            yield f"{too_many} prompts have more accepted answers than ask.accept says"


def _rows_differ(what: str, seen: Counter[Any], expected: Counter[Any]) -> str:
    missing, strange = (expected - seen).total(), (seen - expected).total()
    return f"{what}: {missing} that the index names are missing, {strange} are there that it does not name"


def _digest(record_id: str) -> bytes:
    """The id's bytes; empty if it is not an id, which is reported elsewhere."""
    try:
        digest = bytes.fromhex(record_id)
    except ValueError:
        return b""
    return digest if len(digest) == ID_BYTES else b""
