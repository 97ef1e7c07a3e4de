"""Warnings of a preview: keys that are missing here, idle workers, many small files."""

from collections.abc import Iterator

from stillhouse.gen.errors import UsageError
from stillhouse.gen.teachers.image_tokens import CHARS_PER_TOKEN
from stillhouse.gen.teachers.keys import credentials_of
from stillhouse.gen.teachers.protocols.answer_schema import schema_notes
from stillhouse.gen.views.source_count import SourceCount
from stillhouse.gen.views.workload import Workload
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.terms_notes import terms_notes

MANY_SHARDS = 10_000
SMALL_SHARD_BYTES = 2**20
MOST_PER_SHARD = 100_000
"""More files than this, each smaller than the other limit, cause a warning; the third is the maximum of prompts per
shard."""
SHARDS_PER_WORKER = 4
"""With fewer shards per worker, some workers are idle at the end."""


def warnings_of(recipe: Recipe, counted: SourceCount, load: Workload, *, workers: int | None) -> Iterator[str]:
    """Things to know before the run that are not errors."""
    yield from _missing_keys(recipe)
    yield from schema_notes(recipe)
    yield from terms_notes(recipe)
    if workers is not None and load.samples > 0 and counted.shards < workers * SHARDS_PER_WORKER:
        yield _too_few(counted, workers=workers)
    if small := _many_small_files(counted, load):
        yield small


def _missing_keys(recipe: Recipe) -> Iterator[str]:
    """Keys that a run from here would not find: another machine may have them, so this is not an error yet."""
    for number, teacher in enumerate(recipe.teachers):
        try:
            credentials_of(teacher)
        except UsageError as error:
            yield f"{recipe.where(f'teachers.{number}.api_key')}{error}; not found on this machine"


def _too_few(counted: SourceCount, *, workers: int) -> str:
    wanted = counted.asked // (workers * SHARDS_PER_WORKER)
    advice = (
        f"set dataset.prompts_per_shard to {wanted} or less, or use fewer workers" if wanted else "use fewer workers"
    )
    return (
        f"{counted.shards} shards for {workers} workers: with fewer than {SHARDS_PER_WORKER} per worker, "
        f"some will be idle; {advice}"
    )


def _many_small_files(counted: SourceCount, load: Workload) -> str | None:
    """Listing a dataset takes one request per thousand files, and readers open each of them."""
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
