"""Requirements of teachers that are asked in batches, checked before anything is asked."""

from stillhouse.gen.dataset.batch_intents import collect_by, count_batches, day_of, open_by_who, who_of
from stillhouse.gen.errors import UsageError
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.gen.teachers.batches import batches_of
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.teacher import Teacher


def teachers_by_who(recipe: Recipe) -> dict[str, Teacher]:
    """The teachers that may be asked in batches, as `batch_intents` names them: a judge once for each of its checks."""
    answering = {who_of(place): teacher for place, teacher in enumerate(recipe.answering)}
    return answering | {who_of(0, stage=stage): teacher for stage, _, teacher in recipe.judges}


def check_batches(recipe: Recipe) -> None:
    """Refuse to ask a teacher in batches without a batch API, or without the settings that its API needs.

    Raises:
        UsageError: names the teacher and what to do.
    """
    for teacher in recipe.teachers:
        if teacher.mode != "online":
            batches_of(teacher, teacher.batch)


def check_still_batched(recipe: Recipe, store: ReadableStore) -> None:
    """Refuse to ask online for what is in open batches: the answers would be paid for twice.

    Raises:
        UsageError: names the teacher and what to do.
        StoreAway: the store fails.
    """
    found = open_by_who(store)
    for who, teacher in teachers_by_who(recipe).items():
        if (count := found[who]) > 0 and teacher.mode == "online":
            are = "batch is" if count == 1 else "batches are"
            modes = "`mode: batch`" + (" or `mode: batch-then-online`" if teacher.role == "answer" else "")
            raise UsageError(
                f"teachers.{teacher.name}: {count:,} {are} at the provider or not collected, and `mode: online` would "
                f"pay for their answers again: set {modes} until they are collected "
                "(`stillhouse stop DATASET --cancel-batches` ends them early; one more run in `mode: batch` then "
                "collects what they finished)"
            )


def at_provider_line(store: ReadableStore) -> str:
    """How many batches are open, and how long their results are kept.

    Raises:
        DatasetError, StoreAway.
    """
    count, by = count_batches(store).open, day_of(collect_by(store))
    are = "batch" if count == 1 else "batches"
    return f"{count:,} {are} at the provider; collect by {by}" if by else f"{count:,} {are} at the provider"


def check_none_open(store: ReadableStore) -> None:
    """Refuse to seal open chunks while batches are at a provider: their answers are paid for.

    Raises:
        UsageError: there are such batches.
    """
    if (count := count_batches(store).open) > 0:
        are = "batch is" if count == 1 else "batches are"
        raise UsageError(
            f"{count:,} {are} at the provider, and their answers will be paid for: run without --finish to collect them"
        )
