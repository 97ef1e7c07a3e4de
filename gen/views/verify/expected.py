"""What a chunk must contain: its samples by the dataset's identity, its rows by the index."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from stillhouse.gen.dataset.binding import Binding
from stillhouse.gen.dataset.index import PartInfo, read_part, read_part_info
from stillhouse.gen.dataset.plans import Plan, SourcePlan
from stillhouse.gen.dataset.series import ONE_SERIES, Series, SeriesKey
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.identity import answering_in
from stillhouse.schemas.parameters import TeacherParameters
from stillhouse.schemas.record import RecordIds


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity's settings that decide what the dataset's rows must be."""

    bound: Binding
    ids: Mapping[str, RecordIds]
    """Record ids by the name of the teacher, in the recipe's order."""

    @classmethod
    def of(cls, bound: Binding) -> Self:
        """Parse the identity.

        Raises:
            ValueError: it is not an identity.
        """
        try:
            asked = dict(bound.identity.get("ask", {}))
            tools = {"tools": asked.pop("tools")} if "tools" in asked else {}  # this may be just a file's hash
            ask = Ask.model_validate(asked)
            ids = {
                t["name"]: RecordIds(teacher=t["name"], model=t["model"], parameters={**_parameters(ask, t), **tools})
                for t in answering_in(bound.identity)
            }
        except (KeyError, TypeError) as error:
            raise ValueError(f"{error} is missing or wrong") from None
        return cls(bound, ids)


def _parameters(ask: Ask, teacher: Mapping[str, Any]) -> Mapping[str, JsonValue]:
    """The parameters of a teacher in an identity."""
    own = TeacherParameters.model_validate(teacher.get("ask", {}))
    return ask.changed(own.changes(), teacher.get("extra", {})).parameters()


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a generation's index whose rows and metadata agree."""

    plan: Plan
    info: PartInfo
    rows: pa.Table

    def expects(self, chunk: int, *, bound: Binding | None) -> "Expected | None":
        """What the chunk must contain, or None if this part has no such chunk; `bound`: None if unknown."""
        if not 0 <= chunk - self.info.first_chunk < len(self.info.asks):
            return None
        samples = self.plan.samples or (bound.first_samples if bound else 0)
        series = ONE_SERIES if bound is None else Series.of(bound.identity)
        table = self.rows.filter(pc.equal(self.rows["chunk"], chunk))
        asks: dict[str, tuple[int, str]] = {}
        duplicates: Counter[tuple[str, str, str]] = Counter()
        bad: Counter[tuple[str, int, str]] = Counter()
        again: dict[SeriesKey, dict[int, str | None]] = {}
        needs: dict[SeriesKey, int] = {}
        names = ("file", "line", "fate", "key", "prompt_id", "detail", "again", "need", "teacher")
        rows = zip(*(table[name].to_pylist() for name in names), strict=True)
        for file, line, fate, key, prompt_id, detail, again_now, need, teacher in rows:
            if fate == "ask":
                asks.setdefault(key.hex(), (len(asks), prompt_id))
                asked = series.keys(key) if again_now is None else [series.indexed(key, teacher)]
                if again_now is not None:
                    again[asked[0]] = {sample["sample"]: sample["kind"] for sample in again_now}
                if self.plan.accept:
                    needs |= dict.fromkeys(asked, self.plan.accept if need is None else need)
            elif fate == "duplicate":
                duplicates[prompt_id, key.hex(), detail] += 1
            else:
                bad[self.plan.files[file].url, line, detail] += 1
        return Expected(asks, duplicates, bad, again, samples, series, needs, self.plan.accept)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a chunk contains according to the index."""

    asks: Mapping[str, tuple[int, str]]
    """The prompt key's hex digits, to its position in the chunk and the prompt's id."""
    duplicates: Counter[tuple[str, str, str]]
    """(prompt id, key, duplicate_of)."""
    bad: Counter[tuple[str, int, str]]
    """Bad rows, as (file, line, message)."""
    again: Mapping[SeriesKey, Mapping[int, str | None]]
    """In a generation that does not come from source rows: the samples asked of each series, and what Failure each
    was."""
    samples: int
    """The maximum number of answers per series, which determines how its samples are numbered."""
    series: Series
    needs: Mapping[SeriesKey, int] = field(default_factory=dict)
    """Under `ask.accept`: the accepted answers that each series lacked before this chunk."""
    accept: int = 0
    """Accepted answers wanted per series; 0 if all samples are asked."""

    @property
    def retried(self) -> Counter[str]:
        """How many samples of each kind of Failure are asked again."""
        kinds = (kind for kinds in self.again.values() for kind in kinds.values())
        return Counter(kind for kind in kinds if kind is not None)

    @property
    def ordinals_count(self) -> int:
        """One more than the highest ordinal that a sample of the chunk may have."""
        return len(self.asks) * self.series.per_prompt * self.samples

    def asked(self) -> Iterator[SeriesKey]:
        """The series of which samples are asked."""
        if self.again:
            yield from self.again
        else:
            for key in self.asks:
                yield from self.series.keys(bytes.fromhex(key))

    def samples_of(self, key: SeriesKey) -> Collection[int]:
        """The samples that are asked of a series."""
        return self.again.get(key, {}).keys() if self.again else range(self.samples)

    def first_ordinal(self, key: SeriesKey) -> int:
        """The ordinal of sample 0 of a series of the chunk."""
        place, _ = self.asks[key.prompt.hex()]
        return (place * self.series.per_prompt + key.teacher) * self.samples

    def ordinals(self, identity: Identity) -> dict[str, tuple[int, int]]:
        """The chunk's possible record ids: (ordinal, the teacher's position) of each."""
        return {
            ids.of(key.prompt, sample): (self.first_ordinal(key) + sample, teacher)
            for key in self.asked()
            for sample in self.samples_of(key)
            for teacher, ids in enumerate(identity.ids.values())
            if not self.series.teachers or teacher == key.teacher
        }


def read_checked_part(store: ReadableStore, plan: Plan, number: int) -> Part:
    """One part of the index.

    Raises:
        DatasetError: it is missing or damaged, or its rows do not match the counts in its metadata.
    """
    info = read_part_info(store, plan.generation, number)
    rows = read_part(store, plan.generation, number)
    if info is None or (why := _contradiction(plan, number, info, rows)):
        raise DatasetError(
            f"its rows and its metadata contradict each other: {'it is missing' if info is None else why}"
        )
    return Part(plan, info, rows)


def _contradiction(plan: Plan, number: int, info: PartInfo, rows: pa.Table) -> str | None:
    fates = Counter(rows["fate"].to_pylist())
    chunks = rows["chunk"].to_pylist()
    asks = Counter(rows.filter(pc.equal(rows["fate"].cast(pa.string()), "ask"))["chunk"].to_pylist())
    known = range(info.first_chunk, info.first_chunk + len(info.asks))
    is_source = isinstance(plan, SourcePlan)
    expected = {
        "first chunk": (number * plan.chunks_per_part, info.first_chunk),
        "rows": (info.rows, len(rows) if is_source else 0),
        "samples asked again": (is_source or not len(rows), rows["again"].null_count == len(rows)),
        "duplicates": (info.duplicates, fates["duplicate"]),
        "bad rows": (info.bad, fates["bad"]),
        "prompts by chunk": (list(info.asks), [asks[chunk] for chunk in known]),
        "order of chunks": (sorted(chunks), chunks),
        "chunks beyond its own": (0, sum(chunk not in known for chunk in chunks)),
        "files beyond the plan's": (0, sum(file >= len(plan.files) for file in rows["file"].to_pylist())),
        "files": (len(plan.files), len(info.ends)),
        "chunks of a full part": (info.last or plan.chunks_per_part, info.last or len(info.asks)),
    }
    return next((what for what, (wanted, found) in expected.items() if wanted != found), None)
