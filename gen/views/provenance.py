"""Where a dataset comes from, according to its shards: teachers with their terms, versions, and the recipe it is bound
to.

A dataset takes the union of its teachers' obligations; if a later run declared other terms, both are listed.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import ValidationError

from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.dataset.shard_meta import MOST_MODELS, ShardMeta
from stillhouse.gen.dataset.stored_teacher import StoredTeacher
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.views.summary import Summary, summary_of
from stillhouse.schemas.arrow import Columns
from stillhouse.schemas.price import Price
from stillhouse.schemas.recipe import Recipe


@dataclass(slots=True)
class Provenance:
    """What is known about how a dataset was made."""

    name: str
    identity: dict[str, Any]
    """The recipe, as far as the dataset is bound to it."""
    columns: Columns
    """The columns of the dataset, without the kept ones."""
    teachers: list[StoredTeacher] = field(default_factory=list)
    """Each teacher, with each of the terms that it had."""
    versions: set[str] = field(default_factory=set)
    """Versions of Stillhouse."""
    answered_as: dict[str, set[str]] = field(default_factory=dict)
    """By teacher, the models that its answers named."""
    prices: dict[str, list[str]] = field(default_factory=dict)
    """By teacher, its price in words, with the price's source."""
    _seen: set[bytes] = field(default_factory=set)

    def add(self, meta: ShardMeta) -> None:
        """Add a shard.

        Raises:
            DatasetError: its teachers can't be read.
        """
        self.versions.add(meta.stillhouse)
        for teacher, models in meta.answered_as.items():
            self.answered_as.setdefault(teacher, set()).update(models)
        if (text := orjson.dumps(meta.teachers, option=orjson.OPT_SORT_KEYS)) in self._seen:
            return
        self._seen.add(text)
        try:
            self._add_teachers([StoredTeacher.model_validate(teacher) for teacher in meta.teachers])
            for each in meta.teachers:
                if each.get("source") is None:
                    for name in ("price", "online_price"):
                        price = Price.model_validate(each[name]) if name in each else None
                        self._add_price(each["name"], price, words=_stated(each.get("mode", "online"), name))
        except ValidationError:
            chunk = ChunkId(meta.generation, meta.chunk)
            raise DatasetError(f"{chunk.data_key}: its teachers' terms are damaged; restore that file") from None

    def add_recipe(self, recipe: Recipe) -> None:
        """Add the teachers of a run that has no shard yet."""
        self._add_teachers([StoredTeacher.of(each, recipe) for each in recipe.teachers])
        for each in recipe.teachers:
            self._add_price(each.name, each.price, words=_stated(each.mode, "price"))
            self._add_price(each.name, each.online_price, words=_stated(each.mode, "online_price"))

    def _add_price(self, teacher: str, price: Price | None, *, words: str) -> None:
        known = self.prices.setdefault(teacher, [])
        if price is not None and (said := _in_words(price, words)) not in known:
            known.append(said)

    def _add_teachers(self, teachers: list[StoredTeacher]) -> None:
        self.teachers += [teacher for teacher in teachers if teacher not in self.teachers]

    def strangers(self, teacher: StoredTeacher) -> list[str]:
        """Models that answered as this teacher under a different name, the first few of them.

        A name with a version, or without its organisation, counts as the teacher's own; any other may be bound to other
        terms.
        """
        if teacher.source is not None:
            return []
        own = _plain(teacher.model)
        named = {model: _plain(model) for model in self.answered_as.get(teacher.name, ())}
        return sorted(model for model, plain in named.items() if own not in plain and plain not in own)[:MOST_MODELS]

    @property
    def obligations(self) -> list[str]:
        """What anyone who trains on the records must do, each obligation once."""
        terms = [teacher.terms for teacher in self.teachers if teacher.terms is not None]
        return list(dict.fromkeys(obligation for each in terms for obligation in each.obligations))


def _stated(mode: str, name: str) -> str:
    """Where the price in the field of this name comes from, unless it says so itself."""
    if name == "online_price":
        return "the recipe, for what no batch answered"
    return "the recipe" if mode == "online" else "the recipe, for batches"


def _in_words(price: Price, stated: str) -> str:
    names = (("cached_input", "cached input"), ("cache_write", "cache writes"), ("reasoning", "reasoning"))
    further = [f"{words} {value:g}" for name, words in names if (value := getattr(price, name)) is not None]
    long = [
        f"input {each.input:g} and output {each.output:g} above {each.input_tokens:,} tokens" for each in price.above
    ]
    said = ", ".join([f"input {price.input:g}", f"output {price.output:g}", *further, *long])
    return f"{said} USD per million tokens, by {price.source or stated}"


def _plain(model: str) -> str:
    return model.rpartition("/")[2].lower()


@dataclass(frozen=True, slots=True)
class Survey:
    """A dataset according to its footers."""

    summary: Summary
    provenance: Provenance
    shards: int
    files: tuple[tuple[str, str], ...]
    """(key, kind) of all files with rows, in the chunks' order; kind is data, rejected or failed."""


def survey(dataset: DatasetReader, *, state: str | None = None) -> Survey:
    """Read every footer once.

    Raises:
        DatasetError: there is no dataset, or it is damaged.
    """
    provenance = _bound(dataset)
    files: list[tuple[str, str]] = []
    shards = 0

    def visit(chunk: ChunkId, meta: ShardMeta) -> None:
        nonlocal shards
        shards += 1
        provenance.add(meta)
        if meta.counts.records:
            files.append((chunk.data_key, "data"))
        files.extend((side.key, kind) for kind, side in meta.side.items() if kind != "raw")

    summary = summary_of(dataset, state=state, visit=visit)
    return Survey(summary, provenance, shards, tuple(files))


def _bound(dataset: DatasetReader) -> Provenance:
    """What the dataset is bound to, before any shard is read."""
    bound = dataset.bound
    return Provenance(name=bound.name, identity=bound.identity | bound.wanted, columns=bound.columns)
