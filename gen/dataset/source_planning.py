"""The next generation of source rows: new files, and the rest of files from where earlier generations ended."""

from collections.abc import Callable, Sequence
from functools import cache, partial

from stillhouse.gen.dataset.binding import Begun
from stillhouse.gen.dataset.first_rows import check_first_rows, first_rows, kept_columns
from stillhouse.gen.dataset.generations import Generation
from stillhouse.gen.dataset.index import End
from stillhouse.gen.dataset.planned_files import PlannedFiles
from stillhouse.gen.dataset.plans import CHUNKS_PER_PART, PlannedFile, SourcePlan, frozen_columns
from stillhouse.gen.dataset.upstream import inherited
from stillhouse.gen.errors import SourceError
from stillhouse.gen.source.files import START_OF_FILE, SourceFile
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.version import SCHEMA_VERSION

_ROWS_PER_PART = 100_000
"""About 20 MB in a worker that reads it, several times as much in the queue that writes it."""
_IMAGE_ROWS_PER_PART = 2_000
"""Some 6 s of CPU, as each image is decoded once."""


def next_plan(
    recipe: Recipe,
    generations: Sequence[Generation],
    *,
    limit: int | None = None,
    version: int = SCHEMA_VERSION,
    preflight: Callable[[Sequence[Prompt]], None] = lambda prompts: None,
    arrived: list[SourceFile] | None = None,
) -> SourcePlan | None:
    """The next generation of source rows, or None if every row is planned; requires all generations to be indexed.

    `arrived`: the files that count, if the source is followed; without rows they are not planned.

    Raises:
        SourceError: there is no source file, or a planned one changed; see also `check_first_rows`, `inherited` and
            `preflight`.
    """
    ends = _ends(generations)
    files = PlannedFiles(recipe, found=arrived)
    known = files.matched(list(ends))
    places = {file: ends[known[file]] if file in known else START_OF_FILE for file in files.found()}
    fresh = [(file, place) for file, place in places.items() if place is not None]
    if not fresh and generations:
        return None
    begun = bool(generations)
    sources = [file for file, _ in fresh]
    if (begun or arrived) and not first_rows(sources, recipe, most=1, columns=None):
        return None
    upstream = inherited(sources, recipe)
    templates_system = generations[0].plan.templates_system if begun else True
    frozen = generations[0].plan.kept_fields if begun else None
    kept = cache(partial(kept_columns, sources, recipe, version=version, frozen=frozen))
    preflight(check_first_rows(sources, recipe, kept=kept, proven=begun, templates_system=templates_system))
    return SourcePlan(
        generation=len(generations),
        files=files.plan(fresh),
        limit=limit,
        samples=recipe.ask.most_samples,
        accept=recipe.ask.accept or 0,
        templates_system=templates_system,
        kept=frozen_columns(kept()),
        upstream=upstream,
        chunks_per_part=_chunks_per_part(recipe),
    )


def is_source_replaced(
    recipe: Recipe, generations: Sequence[Generation], *, files: list[SourceFile] | None = None, begun: Begun
) -> bool:
    """True if a run would plan the source again, because it has changed and the dataset has not `begun`.

    `files`: those that count, if they are already listed.

    Raises:
        SourceError: it has changed, all of it is indexed, and the dataset has begun.
    """
    there = PlannedFiles(recipe, found=files)
    sources = [each for each in generations if isinstance(each.plan, SourcePlan)]
    unread = [each for each in sources if not each.is_indexed]
    try:
        if unread:
            there.check(file for each in unread for file in each.plan.files)
        else:
            there.matched(list(_ends(generations)))
    except SourceError:
        if begun() is None:
            return True
        if not unread:
            raise
        # The rest of the index may not need the changed file. If it does, it says so.
    return False


def _chunks_per_part(recipe: Recipe) -> int:
    """Asking starts with the first part, and parts are held in memory: fewer chunks if they are large, or if rows
    are slow to index."""
    rows = _IMAGE_ROWS_PER_PART if recipe.source.images else _ROWS_PER_PART
    return min(CHUNKS_PER_PART, max(1, rows // recipe.prompts_per_shard))


def _ends(generations: Sequence[Generation]) -> dict[PlannedFile, End]:
    """How far each file was planned, from the last generation that names it; latest first."""
    ends: dict[PlannedFile, End] = {}
    named: set[tuple[str, int, str | None]] = set()
    places: set[tuple[str, int]] = set()
    for generation in reversed(generations):
        if isinstance(generation.plan, SourcePlan):
            for planned, end in zip(generation.plan.files, generation.parts[-1].ends, strict=True):
                place = (planned.url, planned.size)
                name = (*place, planned.digest)
                # Without a digest, any later file with the same url and size counts as the planned one.
                known = name in named if planned.digest else place in places
                if not known:
                    ends[planned] = end
                    named.add(name)
                    places.add(place)
    return ends
