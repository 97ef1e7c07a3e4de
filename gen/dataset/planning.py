"""What the next generation is: source rows that no generation has planned yet."""

import io
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.gen.dataset.index import PartInfo, read_parts
from stillhouse.gen.dataset.layout import sealed_chunks
from stillhouse.gen.dataset.plans import Plan, PlannedFile, read_plans, store_plan
from stillhouse.gen.errors import SourceError, UsageError
from stillhouse.gen.source.files import Row, SourceFile, find_files, kept_fields, read_rows
from stillhouse.gen.source.prompt_maker import PromptMaker
from stillhouse.gen.store.base import Store
from stillhouse.schemas.arrow import RECORD, with_kept
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.recipe import Recipe

_FIRST_ROWS = 300


def generations(store: Store, recipe: Recipe, *, limit: int | None = None) -> Iterator[Plan]:
    """Those that are not sealed, then a new one where there are source rows that none has planned.

    Each is to be sealed before the next is asked for. A pilot that is resumed is finished and does not grow; a retry
    generation that is resumed does not stand in a pilot's way.

    Raises:
        SourceError, DatasetError: see `next_plan`, `store_plan` and `read_plans`.
    """
    plans = read_plans(store)
    resumed = False
    for plan in plans:
        if not is_sealed(store, plan):
            resumed = resumed or plan.retry is None
            yield plan
    if resumed and limit is not None:
        return
    ends = [read_parts(store, plan)[-1] for plan in plans]
    fresh = next_plan(recipe, plans, ends, limit=limit)
    if fresh is not None:
        store_plan(store, fresh)
        yield fresh


def is_sealed(store: Store, plan: Plan) -> bool:
    """Whether the generation is wholly indexed and all its chunks have their shards."""
    parts = read_parts(store, plan)
    sealed = sum(chunk.generation == plan.generation for chunk in sealed_chunks(store))
    return bool(parts) and parts[-1].last and sealed == sum(len(part.asks) for part in parts)


def next_plan(recipe: Recipe, plans: list[Plan], ends: list[PartInfo], *, limit: int | None = None) -> Plan | None:
    """The next generation, or None where every source row is planned. `ends`: each earlier generation's last part.

    Raises:
        SourceError: there is no source file, or one that was planned is not what it was; or see `check_first_rows`.
    """
    known: dict[str, tuple[PlannedFile, tuple[int, int, int] | None]] = {}
    for plan, end in zip(plans, ends, strict=True):
        if plan.retry is not None:
            continue  # it asks rows that others planned
        for planned, stop in zip(plan.files, end.ends, strict=True):
            known[planned.url] = (planned, stop)
    files = []
    found = find_files(recipe.source)
    for source in found:
        if source.url not in known:
            files.append(_planned(source, 0, 0, 1))
            continue
        file, place = known[source.url]
        check_unchanged(file, source)
        if place is not None:
            files.append(_planned(source, *place))
    if not files and plans:
        return None
    fresh = [SourceFile(file.url, file.size, file.etag) for file in files]
    if plans and not _first_rows(fresh, recipe, most=1, columns=None):
        return None
    check_first_rows(fresh, recipe, proven=bool(plans))
    kept = kept_columns(found[0], recipe)
    if plans and kept != plans[0].kept_fields:
        raise SourceError(
            f"{found[0].url}: the kept columns have other types than when the dataset was begun; write the file with "
            "those, or use another dataset.path"
        )
    return Plan(generation=len(plans), files=tuple(files), limit=limit, kept=Plan.freeze(kept))


def check_first_rows(files: Sequence[SourceFile], recipe: Recipe, *, proven: bool = False) -> None:
    """Refuse a source that holds nothing to ask before it is planned, for what is planned may not change.

    An empty file among others is fine, as whoever writes many at once leaves some; so are bad rows alone where an
    earlier generation has `proven` the recipe.

    Raises:
        SourceError: there is no row in any file, in none of the first rows a column that the recipe names, or none of
            them makes a prompt.
        UsageError: the template can't be compiled, or see `kept_columns`.
    """
    maker = PromptMaker(recipe.source, recipe.ask)
    rows = _first_rows(files, recipe, most=_FIRST_ROWS, columns=maker.columns)
    if not rows:
        raise SourceError(
            f"source.path: expected rows, got none in {len(files)} files, the first of which is {files[0].url}: "
            "write the prompts into them"
        )
    there = {name for row in rows for name in row.values or ()}
    for field, name in _named_columns(recipe):
        if there and name not in there:
            names = ", ".join(map(repr, sorted(there)[:100]))
            raise SourceError(
                f"source.{field}: none of the first {len(rows)} rows has the column {name!r}, in {files[0].url} and "
                f"what follows it; they have {names}"
            )
    if proven:
        return
    maker = PromptMaker(recipe.source, recipe.ask, kept=kept_columns(files[0], recipe))
    made = [row.bad or "no row" if row.values is None else maker.make(row.values) for row in rows]
    if not any(isinstance(each, Prompt) for each in made):
        (why, count), *_ = Counter(map(str, made)).most_common(1)
        raise SourceError(
            f"expected prompts, but none of the first {len(rows)} rows makes one, {count} of them because: {why}; that "
            f"is the recipe or the whole of {files[0].url}, not a single row"
        )


def _first_rows(
    files: Sequence[SourceFile], recipe: Recipe, *, most: int, columns: Collection[str] | None
) -> list[Row]:
    rows = (row for file in files for row in read_rows(file, source=recipe.source, columns=columns))
    return list(islice(rows, most))


def _named_columns(recipe: Recipe) -> Iterator[tuple[str, str]]:
    source = recipe.source
    named = [("prompt", source.prompt), ("messages", source.messages), ("id", source.id)]
    yield from ((field, name) for field, name in named if name is not None)
    yield from (("keep", keep.name) for keep in source.keep)


def kept_columns(file: SourceFile, recipe: Recipe) -> list[pa.Field]:
    """The kept columns as the plan freezes them.

    Raises:
        SourceError: the file lacks one, or can't be read.
        UsageError: one has the name of a column of ours, or a type that Parquet has not.
    """
    fields = list(kept_fields(file, source=recipe.source))
    try:
        schema = with_kept(RECORD, fields)
    except ValueError as error:
        raise UsageError(f"source.{error}") from None
    try:
        pq.write_table(schema.empty_table(), io.BytesIO())
    except (pa.ArrowException, NotImplementedError) as error:
        raise UsageError(f"source.keep: {file.url} has a column of a type that can't be stored: {error}") from None
    return fields


def _planned(file: SourceFile, row: int, offset: int, line: int) -> PlannedFile:
    return PlannedFile(url=file.url, size=file.size, etag=file.etag, row=row, offset=offset, line=line)


def check_unchanged(planned: PlannedFile, now: SourceFile) -> None:
    """Raise SourceError where a planned file is not what it was."""
    if (planned.size, planned.etag) != (now.size, now.etag):
        raise SourceError(
            f"{now.url}: changed after it was planned (it was {planned.size} bytes, it is {now.size}); "
            "restore it, put new prompts into a new file beside it, or use another dataset.path"
        )
