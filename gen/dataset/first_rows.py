"""Tries a recipe on the first rows of its source before anything is planned, because plans can't change."""

import io
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.gen.dataset.recipe_faults import no_prompt, no_such_column, placed, surveyed
from stillhouse.gen.errors import NoFiles, OtherRecipe, Paused, SourceError, StoreRefused, UsageError
from stillhouse.gen.source.files import SourceFile, kept_fields, read_rows
from stillhouse.gen.source.formats.row import Row
from stillhouse.gen.source.prompt_maker import PromptMaker
from stillhouse.schemas.arrow import columns_of
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.version import SCHEMA_VERSION

_FIRST_ROWS = 300
SOURCE_ANSWER = "source_answer"
"""The column for the turns that `source.answer: drop` removes from the prompt."""


def check_first_rows(
    files: Sequence[SourceFile],
    recipe: Recipe,
    *,
    kept: Callable[[], list[pa.Field]] | None = None,
    proven: bool = False,
    templates_system: bool = True,
) -> list[Prompt]:
    """Refuse a source with nothing to ask before it is planned, because plans can't change.

    An empty file among others is fine (parallel writers leave some). So is a source with only bad rows, if an earlier
    generation has `proven` the recipe. `kept`: finds the kept columns, once there are rows; by default `kept_columns`.

    Returns:
        The prompts of the first rows; empty if `proven`.

    Raises:
        SourceError: no file has a row, none of the first rows has a column that the recipe names, or none of them
            makes a prompt.
        UsageError: the template can't be compiled, or see `kept_columns`.
    """
    with placed(recipe):
        maker = PromptMaker.of(recipe, templates_system=templates_system)
        rows = first_rows(files, recipe, most=_FIRST_ROWS, columns=maker.columns)
    if not rows:
        raise SourceError(
            f"{recipe.where('source.path')}source.path: expected rows, got none in {_all_of(files)}: "
            "write prompts there, or give another path"
        )
    if message := no_such_column(recipe, rows, maker, first=files[0].url):
        raise SourceError(message)
    if proven:
        return []
    fields = kept_columns(files, recipe) if kept is None else kept()
    maker = PromptMaker.of(recipe, kept=fields, templates_system=templates_system)
    made = [row.bad or "no row" if row.values is None else maker.make(row.values) for row in rows]
    prompts = [each for each in made if isinstance(each, Prompt)]
    if not prompts:
        (why, count), *_ = Counter(map(str, made)).most_common(1)
        raise SourceError(no_prompt(recipe, rows, maker, why=why, count=count, first=files[0].url))
    return prompts


@contextmanager
def own_faults_first(recipe: Recipe) -> Iterator[None]:
    """If the dataset turns out to have a different recipe within this block, report first what is wrong with this one,
    such as a misspelt column.

    Raises:
        SourceError, UsageError: as `surveyed` and `check_first_rows` do.
    """
    try:
        yield
    except OtherRecipe:
        with suppress(NoFiles, StoreRefused, Paused):  # the source may be gone by now
            check_first_rows(surveyed(recipe).files, recipe)
        raise


def _all_of(files: Sequence[SourceFile]) -> str:
    first = files[0].url
    return first if len(files) == 1 else f"{len(files):,} files, the first of which is {first}"


def first_rows(files: Sequence[SourceFile], recipe: Recipe, *, most: int, columns: Collection[str] | None) -> list[Row]:
    """The source's first rows, with the wanted columns; None: all columns."""
    rows = (row for file in files for row in read_rows(file, source=recipe.source, columns=columns))
    return list(islice(rows, most))


def kept_columns(
    files: Sequence[SourceFile],
    recipe: Recipe,
    *,
    version: int = SCHEMA_VERSION,
    frozen: Sequence[pa.Field] | None = None,
) -> list[pa.Field]:
    """The kept columns as the plan freezes them, or as an earlier plan froze them (`frozen`).

    Raises:
        SourceError: a file lacks a column or can't be read, or no type can hold what two files have.
        UsageError: a column has a reserved name, or a type that Parquet does not have.
    """
    with placed(recipe):
        fields = list(kept_fields(files, source=recipe.source, frozen=frozen))
    if recipe.source.answer == "drop":
        fields.append(pa.field(SOURCE_ANSWER, pa.string()))
    try:
        columns_of(version, recipe.identity()).with_kept(fields)
    except ValueError as error:
        raise UsageError(f"{recipe.where('source.keep')}source.{error}") from None
    try:
        pq.write_table(pa.schema(fields).empty_table(), io.BytesIO())
    except (pa.ArrowException, NotImplementedError) as error:
        raise UsageError(
            f"{recipe.where('source.keep')}source.keep: {files[0].url} has a column of a type that can't be stored: "
            f"{error}"
        ) from None
    return fields
