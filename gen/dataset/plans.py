"""Plans: what each generation is made of. Immutable once written."""

import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import orjson
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator

from stillhouse.gen.dataset.binding import read_binding
from stillhouse.gen.dataset.damage import damaged, missing, newer
from stillhouse.gen.dataset.layout import plan_key
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.schemas.arrow import SCHEMA_VERSION

_READERS = 16

NOT_NEEDED = "not_needed"
"""What a sample was, where later generations ask one that was not needed: it stands where Failures have their kind."""


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
        """The file from its start: equal for whoever plans a part of it, and not for another that has its url now."""
        return self.model_copy(update={"row": 0, "offset": 0, "line": 1})


class Plan(_Stored):
    """A generation: the source rows it is made of, or the samples it asks again or adds. Immutable."""

    version: int = SCHEMA_VERSION
    generation: int
    files: tuple[PlannedFile, ...]
    limit: int | None = None
    """Maximum number of source rows; null: all of them."""
    samples: Annotated[int, Field(ge=0)] = 0
    """The most answers asked per prompt when planned. Stored as 0 in schema version 1, whose plans mean those first
    bound."""
    accept: Annotated[int, Field(ge=0)] = 0
    """Accepted answers wanted per prompt when planned, with which asking ends; 0: all samples are asked."""
    retry: tuple[str, ...] | None = None
    """Kinds of Failures from earlier generations that are asked again; null if this is not a retry generation."""
    more: bool = False
    """True if it adds samples to prompts of earlier generations."""
    templates_system: bool = False
    """True if ask.system is a template; false in datasets that began before it could be one."""
    kept: str
    """Types of the kept columns: a serialised Arrow schema in base64."""

    @field_validator("kept")
    @classmethod
    def _can_be_read(cls, kept: str) -> str:
        try:
            _thawed(kept)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"expected an Arrow schema in base64: {error}") from None
        return kept

    @property
    def is_source(self) -> bool:
        """True for a generation of source rows; other generations ask prompts from those again."""
        return self.retry is None and not self.more

    @property
    def kept_fields(self) -> list[pa.Field]:
        """The kept columns."""
        return list(_thawed(self.kept))

    def with_samples(self, samples: int) -> "Plan":
        """The plan, with the samples its dataset was first bound with if it does not state them itself."""
        return self if self.samples else self.model_copy(update={"samples": samples})

    @staticmethod
    def freeze(kept: list[pa.Field]) -> str:
        """Encode these columns for `kept`."""
        return base64.b64encode(pa.schema(kept).serialize().to_pybytes()).decode()


def _thawed(kept: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(kept)))


def read_plans(store: ReadableStore, *, known: Sequence["Plan"] = ()) -> list[Plan]:
    """The plans stored so far; plans in `known` are not read again.

    Raises:
        DatasetError: a plan is damaged, or missing beside shards of its generation.
    """
    names = {stat.key for stat in store.list("_stillhouse/plan-")}
    count = next(number for number in range(len(names) + 1) if plan_key(number) not in names)
    with ThreadPoolExecutor(_READERS) as pool:
        fresh = pool.map(lambda number: read_plan(store, number), range(len(known), count))
        plans = [*known, *(plan for plan in fresh if plan is not None)]
    if later := sorted(names - {plan_key(number) for number in range(count)}):
        raise missing(store.url, plan_key(count), beside=later[0])
    if next(iter(store.list(f"data/part-{len(plans):03d}-")), None) is not None:
        raise missing(store.url, plan_key(len(plans)), beside=f"shards of generation {len(plans)}")
    if not all(plan.samples for plan in plans) and (bound := read_binding(store)) is not None:
        return [plan.with_samples(bound.first_samples) for plan in plans]
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
        plan = Plan.model_validate(document)
    except (ValueError, KeyError, TypeError):
        raise damaged(origin) from None
    if plan.generation != generation:
        raise damaged(origin, "it is the plan of another generation")
    return plan


def store_plan(store: Store, plan: Plan) -> None:
    """Freeze the plan.

    Raises:
        DatasetError: another run froze another plan for this generation.
    """
    key = plan_key(plan.generation)
    if not store.put_new(key, orjson.dumps(plan.model_dump())):
        raise DatasetError(f"{store.url}/{key}: another run has just planned it; only one run works on a dataset")
