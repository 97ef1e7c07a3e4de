"""Previews a run: what it would ask, its cost and its time. Nothing is sent, and nothing stays written.

The source is read once, in the same way as for the index: the counts are those of a run of the whole source (or of its
first `limit` rows). What can't be known before asking is null, never a guess; estimates state their rule.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict

from stillhouse.gen.checks.preflight import check_functions, check_references
from stillhouse.gen.dataset.batch_rules import check_batches
from stillhouse.gen.dataset.binding import binding_for, resolved_by
from stillhouse.gen.dataset.budget_rules import check_budget
from stillhouse.gen.dataset.first_rows import check_first_rows, kept_columns, own_faults_first
from stillhouse.gen.dataset.layout import ChunkId, open_dataset
from stillhouse.gen.dataset.plans import Plan, RetryPlan
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.dataset.recipe_faults import surveyed
from stillhouse.gen.dataset.source_planning import is_source_replaced
from stillhouse.gen.dataset.upstream import inherited, notes_on
from stillhouse.gen.journal.begun import why_begun
from stillhouse.gen.source.files import SourceFile, read_rows
from stillhouse.gen.source.formats.row import Row
from stillhouse.gen.source.prompt_maker import PromptMaker
from stillhouse.gen.teachers.prices import Mode, priced
from stillhouse.gen.views.batch_plan import ModePlan, modes_of, plan_of_batches
from stillhouse.gen.views.preview_text import render
from stillhouse.gen.views.preview_warnings import warnings_of
from stillhouse.gen.views.projection import Projection, project
from stillhouse.gen.views.source_count import Example, SourceCount
from stillhouse.gen.views.workload import TeacherShare, Workload, shares_of
from stillhouse.schemas.recipe import Recipe, Route
from stillhouse.schemas.select import Select

__all__ = ["Preview", "preview", "render"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class PreviewFile(_Frozen):
    """A source file."""

    url: str
    bytes: int


class Preview(_Frozen):
    """The output of `stillhouse plan`. Null: not known before asking."""

    dataset: str
    files: tuple[PreviewFile, ...]
    passed_over: tuple[str, ...] = ()
    """Files of other kinds below the source's paths."""
    prompts: int = 0
    """Source rows."""
    duplicates: int = 0
    bad: int = 0
    bad_rows: tuple[str, ...] = ()
    """The first few bad rows: file:line and reason."""
    route: Route = "weighted"
    samples: int
    """Samples per prompt; under `accept` the maximum, under `route: each` from each teacher."""
    accept: int | None = None
    """Accepted answers per prompt after which no more are asked; null if all samples are asked."""
    select: Select | None = None
    """Which accepted answers are kept; null: all of them."""
    to_ask: int = 0
    """Samples to ask: (prompts - duplicates - bad) x samples (x teachers under `route: each`), without those of sealed
    chunks; the figures below are for these."""
    examples: tuple[Example, ...] = ()
    input_tokens: int = 0
    """All characters to be sent / 4, plus the maximum for images, by the teacher for which that is highest."""
    output_tokens: int | None = None
    """Maximum: ask.max_tokens for every sample; null if it is not set."""
    usd: float | None = None
    """Maximum, by the teachers' prices and the tokens above; null if a price or max_tokens is not set. Under `route:
    fallback`, for the most expensive teacher."""
    usd_at: dict[str, float | None] = {}
    """Under `route: fallback`, by teacher: the maximum if that teacher answers everything."""
    checks_usd: float | None = None
    """Maximum if judges are asked about every answer; null if there are none, or a price or max_tokens is not set."""
    judges: tuple[str, ...] = ()
    """The judges that are asked about answers."""
    unpriced: tuple[str, ...] = ()
    """The fields of the recipe without which `usd` is unknown."""
    seconds: float | None = None
    """At the declared limits, with answers of max_tokens; null if no declared limit decides it."""
    bound_by: str
    """The limit that decides `seconds`, or why there is none."""
    batches: ModePlan | None = None
    """If teachers are asked in batches: the maximum number of batches, and the longest time they take."""
    modes: dict[Mode, ModePlan] = {}
    """Cost and time if all teachers with a batch API were asked online, and if all were asked in batches; empty if none
    has one."""
    projection: Projection | None = None
    """Estimate for the rest, from the answers in the dataset; null if there is none yet."""
    no_projection: str = ""
    """Why there is no projection yet."""
    teachers: tuple[TeacherShare, ...]
    shards: int = 0
    prompts_per_shard: int
    workers: int | None = None
    """Null: `auto`, which the cluster's CPUs decide."""
    shards_per_worker: float | None = None
    sealed: int = 0
    """Chunks that are already in the dataset."""
    settled: int = 0
    """Samples in the chunks that are already in the dataset."""
    warnings: tuple[str, ...] = ()


def preview(recipe: Recipe, *, workers: int | None = None, limit: int | None = None) -> Preview:
    """Read the source and estimate what asking it needs; memory grows by one key per prompt.

    Args:
        recipe: the recipe to run.
        workers: their number; by default as the recipe says.
        limit: at most this many of the next source rows; a pilot that is not sealed yet does not grow.

    Raises:
        SourceError: a source file is missing, can't be read, or changed after it was planned; there is no row, or none
            with a named column; or a check can't judge by any row.
        DatasetError: the dataset belongs to another recipe, or is damaged.
        UsageError: the template can't be compiled, a kept column has a reserved name, or a function can't be imported.
        StoreAway, StoreRefused: the source's or the dataset's store does not answer, or refuses; or the dataset can't
            be written there.
    """
    store = open_dataset(recipe)
    store.probe()
    dataset = DatasetReader(store)

    def begun() -> str | None:
        return why_begun(store, recipe.run, last=dataset.last_holder)

    with own_faults_first(recipe):
        bound = binding_for(store, recipe, begun=begun)
    recipe, notes = priced(resolved_by(recipe, bound))
    check_budget(recipe)
    check_batches(recipe)
    check_functions(recipe)
    found = surveyed(recipe)
    files = found.files
    is_bound = bound is not None and not is_source_replaced(recipe, dataset.generations, files=files, begun=begun)
    there = _There(dataset, is_bound=is_bound)
    inherited(files, recipe)
    counted = _counted(recipe, files, there, limit)
    wanted = counted.asked * recipe.samples_per_prompt
    left = max(0, wanted - there.samples)
    load = Workload(recipe, samples=left, chars_per_prompt=counted.chars / max(1, counted.asked))
    workers = workers or (None if recipe.run.workers == "auto" else recipe.run.workers)
    projected = project(dataset, recipe, left=left) if left and there.chunks else ""
    return Preview(
        dataset=store.url,
        files=tuple(PreviewFile(url=file.url, bytes=file.size) for file in files),
        passed_over=found.passed_over,
        prompts=counted.rows,
        duplicates=counted.duplicates,
        bad=counted.bad,
        bad_rows=tuple(counted.bad_rows),
        route=recipe.route,
        samples=recipe.ask.most_samples,
        accept=recipe.ask.accept,
        select=recipe.select,
        examples=tuple(counted.examples),
        teachers=shares_of(recipe),
        shards=counted.shards,
        prompts_per_shard=recipe.prompts_per_shard,
        workers=workers,
        shards_per_worker=None if workers is None else round(counted.shards / workers, 2),
        sealed=there.chunks,
        settled=wanted - left,
        warnings=(*notes, *notes_on(files, recipe.source), *warnings_of(recipe, counted, load, workers=workers)),
        **_takes(recipe, load, projected),
    )


def _takes(recipe: Recipe, load: Workload, projected: Projection | str) -> dict[str, Any]:
    """The fields that say what asking would take: tokens, money and time."""
    seconds, bound_by = load.seconds()
    in_batches = plan_of_batches(load)
    if in_batches is not None:
        seconds = None if in_batches.hours is None else 3600 * in_batches.hours
        bound_by = in_batches.bound_by
    return {
        "to_ask": load.samples,
        "input_tokens": load.input_tokens,
        "output_tokens": load.output_tokens,
        "usd": load.usd(),
        "usd_at": {each.name: load.usd_at(each) for each in recipe.answering if recipe.route == "fallback"},
        "checks_usd": load.checks_usd() if len(recipe.answering) < len(recipe.teachers) else None,
        "judges": tuple(teacher.name for teacher in recipe.teachers if teacher.role == "judge"),
        "unpriced": load.unpriced(),
        "seconds": seconds,
        "bound_by": bound_by,
        "batches": in_batches,
        "modes": modes_of(load),
        "projection": projected if isinstance(projected, Projection) else None,
        "no_projection": projected if isinstance(projected, str) else "",
    }


def _maker(recipe: Recipe, files: list[SourceFile], first: Plan | None) -> PromptMaker:
    """The prompt maker that the dataset's first plan requires, or will require; the first rows are tried."""
    kept = cache(lambda: kept_columns(files, recipe) if first is None else first.kept_fields)
    templates_system = first is None or first.templates_system
    prompts = check_first_rows(files, recipe, templates_system=templates_system, kept=kept)
    check_references(recipe, prompts)
    check_budget(recipe, prompts)
    return PromptMaker.of(recipe, kept=kept(), templates_system=templates_system)


def _counted(recipe: Recipe, files: list[SourceFile], there: "_There", limit: int | None) -> SourceCount:
    """The count of the source's rows, those in the dataset among them; `limit`: as in `preview`."""
    if limit is not None:
        limit = there.rows + (limit if there.is_sealed else 0)
    counted = SourceCount(recipe, _maker(recipe, files, there.first))
    for file, row in _rows(recipe, files, counted.maker, limit):
        counted.add(file, row)
    return counted


def _rows(
    recipe: Recipe, files: list[SourceFile], maker: PromptMaker, limit: int | None
) -> Iterator[tuple[SourceFile, Row]]:
    left = limit
    for file in files:
        for row in read_rows(file, source=recipe.source, columns=maker.columns):
            if left == 0:
                return
            yield file, row
            left = left - 1 if left is not None else None


class _There:
    """What the dataset already has of source rows."""

    def __init__(self, dataset: DatasetReader, *, is_bound: bool) -> None:
        """`is_bound`: False for a dataset that a run would begin, whatever an earlier mistake planned."""
        sealed = set(dataset.shards)
        self.chunks = len(sealed)
        self.rows = self.samples = 0
        """Rows that are planned, and samples in sealed chunks that no earlier generation asked."""
        self.is_sealed = True
        generations = dataset.generations if is_bound else ()
        self.first = generations[0].plan if generations else None
        """Samples that later generations take over."""
        for generation in generations:
            plan = generation.plan
            if isinstance(plan, RetryPlan):
                continue
            self.is_sealed &= generation.is_sealed
            for part in generation.parts:
                self.rows += part.rows
                for number in range(part.first_chunk, part.first_chunk + len(part.asks)):
                    if ChunkId(plan.generation, number) in sealed:
                        self.samples += part.samples_in(number, each=plan.samples)
