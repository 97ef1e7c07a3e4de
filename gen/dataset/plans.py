"""Plans: what each generation consists of, as one type per kind of generation. Immutable once written."""

import base64
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal, Self, TypeAlias

import orjson
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator

from stillhouse.gen.dataset.binding import read_binding
from stillhouse.gen.dataset.damage import damaged, missing, newer
from stillhouse.gen.dataset.layout import plan_key
from stillhouse.gen.dataset.stored_teacher import StoredTeacher
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.schemas.version import SCHEMA_VERSION

_READERS = 16

CHUNKS_PER_PART = 100
"""Chunks in one part of an index, unless its plan states another number."""

NOT_NEEDED = "not_needed"
"""The kind of a sample that was not needed, if a later generation asks it; other samples have the kind of their
Failure."""


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlannedFile(_Stored):
    """A source file as it was when planned, and where this generation begins in it."""

    url: str
    size: int
    etag: str
    digest: str | None = None
    """See `gen.source.files.digest_of`; null in plans of schema version 1."""
    row: int = 0
    offset: int = 0
    line: int = 1

    @property
    def content(self) -> "PlannedFile":
        """The file from its start: equal for all plans of parts of it, but not for another file that now has its
        url."""
        return self.model_copy(update={"row": 0, "offset": 0, "line": 1})


class _Plan(_Stored):
    """Fields that the plans of all kinds of generations share."""

    version: int = SCHEMA_VERSION
    generation: int
    files: tuple[PlannedFile, ...]
    samples: Annotated[int, Field(ge=0)] = 0
    """The maximum number of answers per prompt when planned. 0 in schema version 1, whose plans mean the number first
    bound."""
    accept: Annotated[int, Field(ge=0)] = 0
    """Accepted answers per prompt after which asking ends, when planned; 0 if all samples are asked."""
    templates_system: bool = False
    """True if ask.system is a template; false in datasets that began before it could be one."""
    kept: str
    """Types of the kept columns: a serialised Arrow schema in base64."""
    upstream: tuple[StoredTeacher, ...] = ()
    """Teachers of the datasets that its source comes from; see `gen.dataset.upstream`."""
    chunks_per_part: Annotated[int, Field(gt=0)] = CHUNKS_PER_PART
    """Chunks in one part of its index."""

    @field_validator("kept")
    @classmethod
    def _can_be_read(cls, kept: str) -> str:
        try:
            _thawed(kept)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"expected an Arrow schema in base64: {error}") from None
        return kept

    def part_of(self, chunk: int) -> int:
        """The number of the part of its index that names this chunk."""
        return chunk // self.chunks_per_part

    @property
    def kept_fields(self) -> list[pa.Field]:
        """The kept columns."""
        return list(_thawed(self.kept))

    def with_samples(self, samples: int) -> Self:
        """The plan; if it does not state a number of samples, with the one that its dataset was first bound with."""
        return self if self.samples else self.model_copy(update={"samples": samples})


class SourcePlan(_Plan):
    """A generation of source rows."""

    limit: int | None = None
    """Maximum number of source rows; null: all of them."""


class RetryPlan(_Plan):
    """A generation that asks Failures of earlier generations again."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    kinds: Annotated[tuple[str, ...], Field(alias="retry")]
    """Kinds of the Failures."""


class MorePlan(_Plan):
    """A generation that adds samples to prompts of earlier generations."""

    more: Literal[True] = True


Plan: TypeAlias = SourcePlan | RetryPlan | MorePlan

_ABSENT: dict[str, Any] = {"limit": None, "retry": None, "more": False}
"""What stored plans contain for the fields of other kinds of generations."""


_LATER = ("upstream", "chunks_per_part")
"""Fields that earlier versions refuse."""


def frozen_columns(kept: list[pa.Field]) -> str:
    """Encode these columns for `kept`."""
    return base64.b64encode(pa.schema(kept).serialize().to_pybytes()).decode()


def upstream_of(plans: Sequence[Plan]) -> tuple[StoredTeacher, ...]:
    """Everything that these plans inherit."""
    return tuple(dict.fromkeys(teacher for plan in plans for teacher in plan.upstream))


def _thawed(kept: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(kept)))


def read_plans(store: ReadableStore, *, known: Sequence[Plan] = ()) -> list[Plan]:
    """The plans stored so far. After those in `known`, only the next ones are asked for, without a listing.

    Raises:
        DatasetError: a plan is damaged, or missing although its generation has shards.
    """
    plans = [*known, *(_plans_from(store, len(known)) if known else _listed_plans(store))]
    if not all(plan.samples for plan in plans) and (bound := read_binding(store)) is not None:
        return [plan.with_samples(bound.first_samples) for plan in plans]
    return plans


def _plans_from(store: ReadableStore, generation: int) -> Iterator[Plan]:
    """The plans from this generation on."""
    while (plan := read_plan(store, generation)) is not None:
        yield plan
        generation += 1


def _listed_plans(store: ReadableStore) -> list[Plan]:
    """All plans; refuses if one is missing before others, or before shards."""
    names = set(store.keys("_stillhouse/plan-"))
    count = next(number for number in range(len(names) + 1) if plan_key(number) not in names)
    with ThreadPoolExecutor(_READERS) as pool:
        plans = [plan for plan in pool.map(lambda number: read_plan(store, number), range(count)) if plan is not None]
    if later := sorted(names - {plan_key(number) for number in range(count)}):
        raise missing(store.url, plan_key(count), beside=later[0])
    if next(iter(store.keys(f"data/part-{len(plans):03d}-")), None) is not None:
        raise missing(store.url, plan_key(len(plans)), beside=f"shards of generation {len(plans)}")
    return plans


def read_plan(store: ReadableStore, generation: int) -> Plan | None:
    """One generation's stored plan, or None if there is none.

    Raises:
        DatasetError: it is damaged or from a newer version.
    """
    data = store.get(plan_key(generation))
    if data is None:
        return None
    origin = f"{store.url}/{plan_key(generation)}"
    try:
        document = orjson.loads(data)
        if document["version"] > SCHEMA_VERSION:
            raise newer(origin)
        plan = _parsed(document)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise damaged(origin) from None
    if plan.generation != generation:
        raise damaged(origin, "it is the plan of another generation")
    return plan


def _parsed(document: dict[str, Any]) -> Plan:
    """Raises ValueError if fields of two kinds of generations are set."""
    said = {name: value for name, value in document.items() if name not in _ABSENT or value != _ABSENT[name]}
    if "retry" in said:
        return RetryPlan.model_validate(said)
    return MorePlan.model_validate(said) if "more" in said else SourcePlan.model_validate(said)


def _stored(plan: Plan) -> dict[str, Any]:
    """The plan's stored fields, without later ones that it does not use: earlier versions can then read it."""
    unused = {name for name in _LATER if getattr(plan, name) == type(plan).model_fields[name].default}
    return plan.model_dump(mode="json", by_alias=True, exclude=unused)


def store_plan(store: Store, plan: Plan) -> None:
    """Freeze the plan.

    Raises:
        DatasetError: another run froze a different plan for this generation.
    """
    key = plan_key(plan.generation)
    if not store.put_new(key, orjson.dumps(_ABSENT | _stored(plan))):
        raise DatasetError(f"{store.url}/{key}: another run has just planned it; only one run works on a dataset")
