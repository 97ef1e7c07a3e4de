"""The plans: what each generation is made of. Immutable once written."""

import base64

import orjson
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, field_validator

from stillhouse.gen.dataset.layout import plan_key
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.schemas.arrow import SCHEMA_VERSION


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlannedFile(_Stored):
    """A source file as it was when planned, and where in it this generation begins."""

    url: str
    size: int
    etag: str
    row: int = 0
    offset: int = 0
    line: int = 1


class Plan(_Stored):
    """A generation: which source rows it is made of, or which Failures it asks again. Immutable."""

    version: int = SCHEMA_VERSION
    generation: int
    files: tuple[PlannedFile, ...]
    limit: int | None = None
    """At most so many source rows; null: all there are."""
    retry: tuple[str, ...] | None = None
    """The kinds of the Failures of earlier generations that are asked again; null: a generation of source rows."""
    kept: str
    """The types of the kept columns: a serialised Arrow schema in base64."""

    @field_validator("kept")
    @classmethod
    def _can_be_read(cls, kept: str) -> str:
        try:
            _thawed(kept)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"expected an Arrow schema in base64: {error}") from None
        return kept

    @property
    def kept_fields(self) -> list[pa.Field]:
        """The kept columns."""
        return list(_thawed(self.kept))

    @staticmethod
    def freeze(kept: list[pa.Field]) -> str:
        """The value of `kept` for these columns."""
        return base64.b64encode(pa.schema(kept).serialize().to_pybytes()).decode()


def _thawed(kept: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(kept)))


def read_plans(store: ReadableStore) -> list[Plan]:
    """The generations planned so far.

    Raises:
        DatasetError: a plan is damaged, or missing beside shards of its generation.
    """
    plans: list[Plan] = []
    while (plan := read_plan(store, len(plans))) is not None:
        plans.append(plan)
    if next(iter(store.list(f"data/part-{len(plans):03d}-")), None) is not None:
        raise DatasetError(
            f"{store.url}: holds shards of generation {len(plans)} but no {plan_key(len(plans))}; "
            "restore that file, or use another dataset.path"
        )
    return plans


def read_plan(store: ReadableStore, generation: int) -> Plan | None:
    """One generation's plan, or None where there is none.

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
            raise DatasetError(f"{origin}: written by a newer version of Stillhouse; use that version")
        return Plan.model_validate(document)
    except (ValueError, KeyError, TypeError):
        raise DatasetError(f"{origin}: is damaged; restore it, or use another dataset.path") from None


def store_plan(store: Store, plan: Plan) -> None:
    """Freeze the plan.

    Raises:
        DatasetError: another run froze another plan for this generation.
    """
    key = plan_key(plan.generation)
    if not store.put_new(key, orjson.dumps(plan.model_dump())):
        raise DatasetError(f"{store.url}/{key}: another run planned it just now; only one run works on a dataset")
