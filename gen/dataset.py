"""The layout of a dataset and its state, which is what a listing and the index say.

Names are built only from numbers and our own hex digits. Everything a run needs to go on is read from here; nothing is
remembered elsewhere.
"""

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
import yaml
from pydantic import BaseModel, ConfigDict, field_validator

from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store import Store, open_store
from stillhouse.schemas.arrow import SCHEMA_VERSION
from stillhouse.schemas.recipe import Recipe

CHUNKS_PER_PART = 100
"""Chunks in one part of the index."""

RECIPE_KEY = "_stillhouse/recipe.yaml"
LAST_RUN_KEY = "_stillhouse/last_run.yaml"
RUN_KEY = "_stillhouse/run.json"
JOURNAL_PREFIX = "_stillhouse/journal/"
_SHARD = re.compile(r"data/part-(\d{3,})-(\d{6,})\.parquet")


@dataclass(frozen=True, slots=True, order=True)
class ChunkId:
    """A chunk: its generation and its number in it."""

    generation: int
    number: int

    def __str__(self) -> str:
        return f"{self.generation:03d}-{self.number:06d}"

    @property
    def data_key(self) -> str:
        """Its shard, whose existence is its commit."""
        return f"data/part-{self}.parquet"

    @property
    def journal_prefix(self) -> str:
        """Its shipped journals."""
        return f"{JOURNAL_PREFIX}{self}/"

    def side_key(self, kind: str, seal: str) -> str:
        """A file beside its shard: kind is rejected, failed or raw."""
        folder = "_stillhouse/raw" if kind == "raw" else kind
        return f"{folder}/part-{self}-{seal}.parquet"


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


def plan_key(generation: int) -> str:
    """Where a generation's plan is."""
    return f"_stillhouse/plan-{generation:03d}.json"


def index_key(generation: int, part: int) -> str:
    """Where a part of a generation's index is."""
    return f"_stillhouse/index-{generation:03d}-{part:06d}.parquet"


def open_dataset(recipe: Recipe, *, path: str | None = None) -> Store:
    """The store of the recipe's dataset."""
    where = recipe.dataset
    return open_store(
        path or where.path, endpoint_url=where.endpoint_url, region=where.region, path_style=where.path_style
    )


def bind(store: Store, recipe: Recipe) -> None:
    """Bind a new dataset to the recipe's identity, or check that it is bound to it.

    Raises:
        DatasetError: see `is_bound`.
    """
    if is_bound(store, recipe):
        return
    document = {"stillhouse": SCHEMA_VERSION, "name": recipe.name, "identity": recipe.identity()}
    # In ASCII: PyYAML writes some line breaks of Unicode so that they are read as others.
    text = yaml.safe_dump(document, sort_keys=False)
    if yaml.safe_load(text) != document:  # PyYAML folds some line separators that it leaves unescaped
        text = yaml.safe_dump(document, sort_keys=False)
    if not store.put_new(RECIPE_KEY, text.encode()) and not is_bound(store, recipe):
        store.put(RECIPE_KEY, text.encode())


def is_bound(store: Store, recipe: Recipe) -> bool:
    """Whether the dataset is bound to the recipe's identity; False where nothing was planned yet. Writes nothing.

    Raises:
        DatasetError: it is bound to another identity, or its recipe.yaml is damaged, or gone while shards are there.
    """
    stored = store.get(RECIPE_KEY)
    if stored is None:
        if next(iter(sealed_chunks(store)), None) is not None:
            raise DatasetError(
                f"{store.url}: holds shards but no {RECIPE_KEY}, so it can't be told what they are; "
                "restore that file, or use another dataset.path"
            )
        return False
    bound = read_identity(stored, origin=f"{store.url}/{RECIPE_KEY}")
    if different := sorted(_differences(bound, recipe.identity())):
        if store.stat(plan_key(0)) is None and next(iter(sealed_chunks(store)), None) is None:
            return False  # a run with a mistake in its recipe got no further than this file
        raise DatasetError(
            f"{store.url}: was made by another recipe; it differs in {', '.join(different)}. "
            "Use another dataset.path, or the recipe it was made with"
        )
    return True


def read_identity(stored: bytes, *, origin: str) -> dict[str, Any]:
    """The identity a dataset is bound to.

    Raises:
        DatasetError: the file is damaged or from a newer version.
    """
    try:
        document = yaml.safe_load(stored)
        is_newer, identity = document["stillhouse"] > SCHEMA_VERSION, dict(document["identity"])
        is_sound = is_newer or isinstance(identity["ask"]["samples"], int)
    except (yaml.YAMLError, TypeError, KeyError, ValueError):
        is_newer = is_sound = False
    if not is_sound:
        raise DatasetError(f"{origin}: is damaged; restore it, or use another dataset.path")
    if is_newer:
        raise DatasetError(f"{origin}: written by a newer version of Stillhouse; use that version")
    return identity


def _differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of the leaves in which two identities differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in ours.keys() | theirs.keys():
            yield from _differences(ours.get(name), theirs.get(name), f"{path}.{name}".lstrip("."))
    elif ours != theirs:
        yield path


def read_plans(store: Store) -> list[Plan]:
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


def read_plan(store: Store, generation: int) -> Plan | None:
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


@contextmanager
def damage_said(store: Store, key: str) -> Iterator[None]:
    """Have what goes wrong with a stored file's content said.

    Raises:
        DatasetError: it is missing, damaged, or holds what no run writes.
    """
    try:
        yield
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{store.url}/{key}: is missing or damaged ({type(error).__name__}); "
            "`stillhouse verify` says what can be done"
        ) from None


def sealed_chunks(store: Store) -> Iterator[ChunkId]:
    """The chunks whose shard exists, in order."""
    for stat in store.list("data/"):
        if match := _SHARD.fullmatch(stat.key):
            yield ChunkId(int(match[1]), int(match[2]))
