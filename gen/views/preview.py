"""What a recipe would ask, and what that would take: nothing is sent, and nothing is written or made.

The source is read once, as the index does it: the counts are those that a run of the whole source (or of its first
`limit` rows) comes to. What can't be known before asking is null, never a guess; the estimates say by what rule.
"""

from collections.abc import Iterator
from functools import cache

from pydantic import BaseModel, ConfigDict

from stillhouse.gen.checks.preflight import check_references
from stillhouse.gen.dataset.batch_rules import check_batches
from stillhouse.gen.dataset.binding import binding_for, resolved_by
from stillhouse.gen.dataset.budget_rules import check_budget
from stillhouse.gen.dataset.first_rows import check_first_rows, kept_columns
from stillhouse.gen.dataset.layout import ChunkId, open_dataset
from stillhouse.gen.dataset.plans import Plan, RetryPlan
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.dataset.recipe_faults import surveyed
from stillhouse.gen.dataset.row_fates import Judge, is_full
from stillhouse.gen.dataset.upstream import inherited, notes_on
from stillhouse.gen.errors import UsageError
from stillhouse.gen.journal.begun import why_begun
from stillhouse.gen.source.files import SourceFile, read_rows
from stillhouse.gen.source.formats.row import Row
from stillhouse.gen.source.prompt_maker import PromptMaker
from stillhouse.gen.teachers.image_tokens import CHARS_PER_TOKEN, chars_of
from stillhouse.gen.teachers.keys import credentials_of
from stillhouse.gen.teachers.prices import priced
from stillhouse.gen.teachers.protocols.answer_schema import schema_notes
from stillhouse.gen.views.preview_text import render
from stillhouse.gen.views.projection import Projection, project
from stillhouse.gen.views.workload import TeacherShare, Workload, shares_of
from stillhouse.schemas.prompt import Message, Prompt
from stillhouse.schemas.recipe import Recipe, Route
from stillhouse.schemas.select import Select
from stillhouse.schemas.terms_notes import terms_notes
from stillhouse.schemas.tool_call import ToolMessage

__all__ = ["Preview", "preview", "render"]

EXAMPLES = 3
"""Prompts shown as they would be asked,"""
EXAMPLE_CHARS = 1000
"""each message up to so many characters."""
BAD_ROWS = 5
"""Bad rows named."""
MANY_SHARDS = 10_000
SMALL_SHARD_BYTES = 2**20
MOST_PER_SHARD = 100_000
"""More files than that, and each smaller, are worth a warning; the most prompts that a shard may have."""
SHARDS_PER_WORKER = 4
"""With fewer, the last shards leave workers idle."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class PreviewFile(_Frozen):
    """A source file."""

    url: str
    bytes: int


class Example(_Frozen):
    """A prompt as it would be asked."""

    prompt_id: str
    messages: tuple[tuple[str, str], ...]
    """(role, content), the content cut after `EXAMPLE_CHARS`."""
    images: int = 0
    """Sent at the head of the first user message."""


class Preview(_Frozen):
    """What `stillhouse plan` says. Null: not to be known before asking."""

    dataset: str
    files: tuple[PreviewFile, ...]
    passed_over: tuple[str, ...] = ()
    """Files below the source's paths that are of other kinds."""
    prompts: int = 0
    """Source rows."""
    duplicates: int = 0
    bad: int = 0
    bad_rows: tuple[str, ...] = ()
    """The first `BAD_ROWS`: file:line and why."""
    route: Route = "weighted"
    samples: int
    """Of each prompt; under `accept` at most, under `route: each` from each teacher."""
    accept: int | None = None
    """With so many accepted answers to a prompt no more is asked; null where all samples are."""
    select: Select | None = None
    """What is kept of the accepted answers; null: all of them."""
    to_ask: int = 0
    """Samples: (prompts - duplicates - bad) x samples (x teachers under `route: each`), less those of sealed chunks;
    what is below is of these."""
    examples: tuple[Example, ...] = ()
    input_tokens: int = 0
    """All characters of what is asked / 4, and what its images take at most, by the teacher for whom that is most."""
    output_tokens: int | None = None
    """At most: ask.max_tokens for every sample; null where it is not set."""
    usd: float | None = None
    """At most, by the teachers' prices and the tokens above; null where a price or max_tokens is not set. Under
    `route: fallback`, at the dearest teacher."""
    usd_at: dict[str, float | None] = {}
    """Under `route: fallback`, by teacher: at most, if that one answers all of it."""
    checks_usd: float | None = None
    """At most, if judges are asked about every answer; null where there are none, or a price or max_tokens is not
    set."""
    judges: tuple[str, ...] = ()
    """Those that are asked about answers."""
    unpriced: tuple[str, ...] = ()
    """The fields of the recipe without which `usd` is not known."""
    seconds: float | None = None
    """At the declared limits, with answers of max_tokens; null where no declared limit decides it."""
    bound_by: str
    """The limit that decides `seconds`, or why there is none."""
    projection: Projection | None = None
    """What is left will take so much, by the answers that the dataset holds,"""
    no_projection: str = ""
    """or why that can't be said yet."""
    teachers: tuple[TeacherShare, ...]
    shards: int = 0
    prompts_per_shard: int
    workers: int | None = None
    """Null: `auto`, which the cluster's CPUs decide."""
    shards_per_worker: float | None = None
    sealed: int = 0
    """Chunks that the dataset holds already,"""
    settled: int = 0
    """and the samples in them."""
    warnings: tuple[str, ...] = ()


def preview(recipe: Recipe, *, workers: int | None = None, limit: int | None = None) -> Preview:
    """Read the source and say what asking it would take; memory grows by a key a prompt.

    Args:
        recipe: what would be run.
        workers: how many there would be; by default as the recipe says.
        limit: no more than the next so many source rows; a pilot that is not sealed yet does not grow.

    Raises:
        SourceError: a source file is missing or can't be read; there is no row, or none with a named column; or a
            check can't judge by any row.
        DatasetError: the dataset is another recipe's, or damaged.
        UsageError: the template can't be compiled, or a kept column has a reserved name.
        StoreAway, StoreRefused: the source's or the dataset's store does not answer, or refuses.
    """
    store = open_dataset(recipe)
    store.check_writable()
    dataset = DatasetReader(store)
    bound = binding_for(store, recipe, begun=lambda: why_begun(store, recipe.run, last=dataset.last_holder))
    recipe, notes = priced(resolved_by(recipe, bound))
    check_budget(recipe)
    check_batches(recipe)
    there = _There(dataset, is_bound=bound is not None)
    if limit is not None:
        limit = there.rows + (limit if there.is_sealed else 0)
    found = surveyed(recipe)
    files = found.files
    inherited(files, recipe)
    counted = _Count(recipe, _maker(recipe, files, there.first))
    for file, row in _rows(recipe, files, counted.maker, limit):
        counted.add(file, row)
    wanted = counted.asked * recipe.samples_per_prompt
    left = max(0, wanted - there.samples)
    load = Workload(recipe, samples=left, chars_per_prompt=counted.chars / max(1, counted.asked))
    workers = workers or (None if recipe.run.workers == "auto" else recipe.run.workers)
    projected = project(dataset, recipe, left=left) if left and there.chunks else ""
    seconds, bound_by = load.seconds()
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
        to_ask=load.samples,
        examples=tuple(counted.examples),
        input_tokens=load.input_tokens,
        output_tokens=load.output_tokens,
        usd=load.usd(),
        usd_at={each.name: load.usd_at(each) for each in recipe.answering if recipe.route == "fallback"},
        checks_usd=load.checks_usd() if len(recipe.answering) < len(recipe.teachers) else None,
        judges=tuple(teacher.name for teacher in recipe.teachers if teacher.role == "judge"),
        unpriced=load.unpriced(),
        seconds=seconds,
        bound_by=bound_by,
        projection=projected if isinstance(projected, Projection) else None,
        no_projection=projected if isinstance(projected, str) else "",
        teachers=shares_of(recipe),
        shards=counted.shards,
        prompts_per_shard=recipe.prompts_per_shard,
        workers=workers,
        shards_per_worker=None if workers is None else round(counted.shards / workers, 2),
        sealed=there.chunks,
        settled=wanted - left,
        warnings=(*notes, *notes_on(files, recipe.source), *_warnings(recipe, counted, load, workers=workers)),
    )


def _maker(recipe: Recipe, files: list[SourceFile], first: Plan | None) -> PromptMaker:
    """What makes prompts as the dataset's first plan says, or will say; the first rows are tried."""
    kept = cache(lambda: kept_columns(files, recipe) if first is None else first.kept_fields)
    templates_system = first is None or first.templates_system
    prompts = check_first_rows(files, recipe, templates_system=templates_system, kept=kept)
    check_references(recipe, prompts)
    check_budget(recipe, prompts)
    return PromptMaker.of(recipe, kept=kept(), templates_system=templates_system)


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


class _Count:
    """What the rows come to."""

    def __init__(self, recipe: Recipe, maker: PromptMaker) -> None:
        self.maker = maker
        self._teachers = recipe.answering
        self._per_shard = recipe.prompts_per_shard
        self._judge = Judge(maker, has_ids=False)  # its fates' ids of duplicates are not needed
        self.rows = self.duplicates = self.bad = self.chars = 0
        self.bad_rows: list[str] = []
        self.examples: list[Example] = []
        self.shards = 1
        """A generation has at least one chunk, as in `gen.dataset.indexer`."""
        self._rows_in_shard = self._asks_in_shard = 0
        """Of the last shard."""

    @property
    def asked(self) -> int:
        """Prompts."""
        return self._judge.asked

    def add(self, file: SourceFile, row: Row) -> None:
        """Take in the next row."""
        if is_full(asks=self._asks_in_shard, rows=self._rows_in_shard, prompts_per_shard=self._per_shard):
            self.shards += 1
            self._rows_in_shard = self._asks_in_shard = 0
        fate = self._judge.fate(row)
        self.rows += 1
        self._rows_in_shard += 1
        match fate.fate:
            case "bad":
                self.bad += 1
                if len(self.bad_rows) < BAD_ROWS:
                    self.bad_rows.append(f"{file.url}:{row.at.line}: {fate.detail}")
            case "duplicate":
                self.duplicates += 1
            case "ask":
                assert fate.prompt is not None
                self._asks_in_shard += 1
                self._ask(fate.prompt)

    def _ask(self, prompt: Prompt) -> None:
        self.chars += max(chars_of(prompt, teacher) for teacher in self._teachers) if prompt.images else prompt.chars
        if len(self.examples) < EXAMPLES:
            messages = tuple((message[0], _cut(_shown(message))) for message in prompt.messages)
            example = Example(prompt_id=_cut(prompt.id), messages=messages, images=len(prompt.images))
            self.examples.append(example)


def _shown(message: Message) -> str:
    """The message's text, and the calls in it."""
    calls = message.calls or () if isinstance(message, ToolMessage) else ()
    return "\n".join([*filter(None, [message[1]]), *(f"{call.name}({call.arguments})" for call in calls)])


def _cut(text: str) -> str:
    more = len(text) - EXAMPLE_CHARS
    return text if more <= 0 else f"{text[:EXAMPLE_CHARS]}… ({more:,} more characters)"


class _There:
    """What the dataset holds already of source rows."""

    def __init__(self, dataset: DatasetReader, *, is_bound: bool) -> None:
        """`is_bound`: False for a dataset that a run would begin, whatever an earlier mistake planned."""
        sealed = set(dataset.shards)
        self.chunks = len(sealed)
        self.rows = self.samples = 0
        """Rows that are planned, and samples in sealed chunks that no earlier generation asked."""
        self.is_sealed = True
        generations = dataset.generations if is_bound else ()
        self.first = generations[0].plan if generations else None
        """What later generations take over from."""
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


def _warnings(recipe: Recipe, counted: _Count, load: Workload, *, workers: int | None) -> Iterator[str]:
    yield from _missing_keys(recipe)
    yield from schema_notes(recipe)
    yield from terms_notes(recipe)
    if workers is not None and load.samples > 0 and counted.shards < workers * SHARDS_PER_WORKER:
        yield _too_few(counted, workers=workers)
    if small := _many_small_files(counted, load):
        yield small


def _missing_keys(recipe: Recipe) -> Iterator[str]:
    """Where a run from here would find no key: another machine may have it, so it is not an error yet."""
    for number, teacher in enumerate(recipe.teachers):
        try:
            credentials_of(teacher)
        except UsageError as error:
            yield f"{recipe.where(f'teachers.{number}.api_key')}{error}; not found on this machine"


def _too_few(counted: _Count, *, workers: int) -> str:
    wanted = counted.asked // (workers * SHARDS_PER_WORKER)
    advice = (
        f"set dataset.prompts_per_shard to {wanted} or less, or use fewer workers" if wanted else "use fewer workers"
    )
    return (
        f"{counted.shards} shards for {workers} workers: with fewer than {SHARDS_PER_WORKER} per worker, "
        f"some will be idle; {advice}"
    )


def _many_small_files(counted: _Count, load: Workload) -> str | None:
    """Listing a dataset takes a request per thousand files, and readers open each of them."""
    if counted.shards <= MANY_SHARDS:
        return None
    answers = (load.output_tokens or 0) * CHARS_PER_TOKEN
    size = max(1, (counted.chars * load.samples // max(1, counted.asked) + answers) // counted.shards)
    if size >= SMALL_SHARD_BYTES:
        return None
    per_shard = counted.asked // counted.shards
    fewer = max(-(-counted.shards // MANY_SHARDS), -(-SMALL_SHARD_BYTES // size))
    return (
        f"{counted.shards:,} files in data/, each smaller than a megabyte: set dataset.prompts_per_shard to "
        f"{min(MOST_PER_SHARD, per_shard * fewer):,} or so"
    )
