"""Datasets that a source comes from: their teachers, and the terms of those.

A teacher's terms apply to everything that is made from its answers. So a dataset inherits the teachers of the datasets
in its source: they are frozen in the plan, repeated in each shard, and listed on the card.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import orjson
from pydantic import ValidationError

from stillhouse.gen.dataset.generations import read_generations
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.plans import read_plans
from stillhouse.gen.dataset.recipe_faults import placed
from stillhouse.gen.dataset.run_lock import is_running
from stillhouse.gen.dataset.stored_teacher import StoredTeacher
from stillhouse.gen.errors import SourceError, StillhouseError
from stillhouse.gen.source.dataset_folder import dataset_of, shard_beside
from stillhouse.gen.source.files import SourceFile, metadata_of, stat_file
from stillhouse.gen.store import open_store
from stillhouse.gen.store.base import Store
from stillhouse.schemas.licences import known_terms
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.source import Source
from stillhouse.schemas.version import META_KEY

_READERS = 16


def inherited(files: Sequence[SourceFile], recipe: Recipe) -> tuple[StoredTeacher, ...]:
    """The teachers of the datasets that the files belong to, each once.

    They are read from the files themselves, so that a shard that was copied elsewhere has them too.

    Raises:
        SourceError: the terms of one forbid training on its answers, or can't be read; or the source leads back to the
            recipe's own dataset.
    """
    _refuse_cycle(files, recipe)
    with ThreadPoolExecutor(_READERS) as pool:
        metas = pool.map(lambda file: _meta_of(file, recipe.source), files)
        found: dict[StoredTeacher, None] = {}
        with placed(recipe):
            for file, meta in zip(files, metas, strict=True):
                if meta is not None:
                    found |= dict.fromkeys(_teachers_in(meta, file))
    return tuple(found)


def notes_on(files: Sequence[SourceFile], source: Source) -> Iterator[str]:
    """Notes for the user on the datasets in the source."""
    for root in _roots(file.url for file in files):
        with suppress(StillhouseError):  # a folder of copied shards says nothing
            store = _open(root, source)
            generations = read_generations(store)
            if not generations or not all(each.is_sealed for each in generations):
                now = "a run is working on it" if is_running(store) else "no run is working on it"
                yield f"{root} is not finished, and {now}: run this again later to ask what is added until then"


def _roots(urls: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(root for url in urls if (root := dataset_of(url)) is not None))


def _open(root: str, source: Source) -> Store:
    return open_store(root, endpoint_url=source.endpoint_url, region=source.region, path_style=source.path_style)


def _refuse_cycle(files: Sequence[SourceFile], recipe: Recipe) -> None:
    """Refuse a source whose rows were made from this dataset's own records."""
    own = open_dataset(recipe).url.rstrip("/")
    ways: list[tuple[str, ...]] = [(root,) for root in _roots(file.url for file in files)]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        if way[-1] == own:
            through = f", by way of {', '.join(way[:-1])}" if way[:-1] else ""
            raise SourceError(
                f"{recipe.where('source.path')}source.path: expected prompts from elsewhere, got records of "
                f"dataset.path itself ({own}){through}: write to another dataset.path"
            )
        if way[-1] not in seen:
            seen.add(way[-1])
            with suppress(StillhouseError):  # copied shards; or we can't read their source
                plans = read_plans(_open(way[-1], recipe.source))
                ways += [(*way, root) for root in _roots(file.url for plan in plans for file in plan.files)]


def _meta_of(file: SourceFile, source: Source) -> dict[str, Any] | None:
    """The metadata of the shard that a file is, or belongs to; None for a file that is not from Stillhouse."""
    if (meta := _parsed(metadata_of(file, source=source), file)) is None or "teachers" in meta:
        return meta
    url = shard_beside(file.url)
    shard = None if url is None else stat_file(url, source)
    meta = None if shard is None else _parsed(metadata_of(shard, source=source), shard)
    if meta is None or "teachers" not in meta:
        raise SourceError(
            f"{file.url}: holds answers of a Stillhouse dataset, but the shard with their teachers is missing: put "
            "the file back into the dataset's folder, and give that as source.path with `rejected: true`"
        )
    return meta


def _parsed(metadata: dict[bytes, bytes], file: SourceFile) -> dict[str, Any] | None:
    if (text := metadata.get(META_KEY.encode())) is None:
        return None
    try:
        meta = orjson.loads(text)
    except orjson.JSONDecodeError:
        meta = None
    if not isinstance(meta, dict):
        raise _damaged(file)
    return meta


def _damaged(file: SourceFile) -> SourceError:
    return SourceError(f"{file.url}: its metadata about its teachers is damaged; restore that file")


def _teachers_in(meta: dict[str, Any], file: SourceFile) -> Iterator[StoredTeacher]:
    """The teachers that a shard names, including those that it inherits."""
    dataset = dataset_of(file.url) or file.url
    try:
        for each in meta["teachers"]:
            model, terms = str(each["model"]), each["terms"]
            known = None if terms is None else known_terms(model, hosts=())
            use = None if terms is None else terms["training_use"]
            if use == "prohibited" or (known is not None and known.prohibits and use != "by-authorisation"):
                raise SourceError(
                    f"source.path: {dataset} holds answers of {each['name']} ({model}), whose terms prohibit "
                    "training on them and on anything made from them: use another source",
                    field="source.path",
                )
            source = each.get("source") or dataset
            yield StoredTeacher.model_validate({"name": each["name"], "model": model, "terms": terms, "source": source})
    except (KeyError, TypeError, AttributeError, ValidationError):
        raise _damaged(file) from None
