"""Compares online requests with batches: what all of a recipe costs and how long it takes in either mode.

A teacher without a known batch API is asked online in both.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from stillhouse.gen.errors import UsageError
from stillhouse.gen.teachers.batches import batches_of
from stillhouse.gen.teachers.batches.base import MAX_INPUT_BYTES
from stillhouse.gen.teachers.prices import Mode, asked_by
from stillhouse.gen.views.workload import Workload, shares_of
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.teacher import Teacher

MODES: tuple[Mode, ...] = ("online", "batch")
LINE_BYTES = 400
"""Approximate size of a line of a batch's input, besides the prompt."""


class ModePlan(BaseModel):
    """One mode: its maximum cost, and how long it takes. Null: not known before asking."""

    model_config = ConfigDict(frozen=True)

    usd: float | None = None
    usd_if_answered: float | None = None
    """The maximum if batches answer everything that they are asked; less than `usd` only where what they don't answer
    is asked online."""
    prices: dict[str, str] = {}
    """Where each teacher's price comes from, by its name; teachers without a price are missing."""
    hours: float | None = None
    """Online, at the declared limits; in batches, the maximum if the provider keeps to its time and no request
    expires. What is asked online because `accept` needs more comes after the batches."""
    bound_by: str = ""
    """What decides `hours`, or why it is unknown."""
    batches: int = 0
    """Maximum number of batches, in all rounds."""
    at_once: int = 0
    """Maximum number of batches that are open at the same time."""
    rounds: int = 1
    """Under `accept`, the maximum number of rounds: samples are asked only once earlier answers have been judged."""


def modes_of(load: Workload) -> dict[Mode, ModePlan]:
    """The plan for each of the two modes; empty if no teacher has a batch API."""
    recipe = load.recipe
    if not load.samples or not any(has_batches(teacher) for teacher in recipe.answering):
        return {}
    return {mode: _plan(load.of(_in_mode(recipe, mode))) for mode in MODES}


def plan_of_batches(load: Workload) -> ModePlan | None:
    """The recipe as it is, if one of its teachers is asked in batches."""
    if all(teacher.mode == "online" for teacher in load.recipe.teachers):
        return None
    return _plan(load)


def has_batches(teacher: Teacher) -> bool:
    """True if it can be asked in batches, and that would make a difference."""
    if teacher.api == "simulator" and teacher.mode == "online":
        return False
    try:
        batches_of(teacher, teacher.batch)
    except UsageError:
        return False
    return True


def _in_mode(recipe: Recipe, mode: Mode) -> Recipe:
    teachers = (
        asked_by(each, mode) if each.role == "answer" and (mode == "online" or has_batches(each)) else each
        for each in recipe.teachers
    )
    return recipe.model_copy(update={"teachers": tuple(teachers)})


def _plan(load: Workload) -> ModePlan:
    seconds, bound_by = load.seconds()
    hours = None if seconds is None else seconds / 3600
    waves = [_Waves(load, each) for each in _batched_teachers(load)]
    verdicts = [_Waves(load, each) for each in _batched_judges(load)]
    if waves and hours is not None:
        longest = max(waves, key=lambda each: each.hours)
        if hours and any(each.mode == "batch-then-online" for each in load.recipe.answering):
            hours, bound_by = longest.hours + hours, f"batches of {longest.name}, then {bound_by}"
        elif longest.hours >= hours:
            hours, bound_by = longest.hours, f"batches of {longest.name}"
    for each in verdicts:  # a judge is asked once the answers are there, and after the judges before it
        if hours is not None:
            hours, bound_by = hours + each.hours, f"{bound_by}, then batches of {each.name}"
    waves += verdicts
    return ModePlan(
        usd=load.usd(),
        usd_if_answered=load.usd_if_answered(),
        prices=dict(_prices(load.recipe)),
        hours=hours,
        bound_by=bound_by,
        batches=sum(each.batches for each in waves),
        at_once=sum(each.at_once for each in waves),
        rounds=max((each.rounds for each in waves), default=1),
    )


class _Batched(NamedTuple):
    """A teacher that is asked in batches."""

    teacher: Teacher
    share: float
    """The part of all samples that it is asked, or judges."""
    chars: float
    """Characters of a request."""


def _batched_teachers(load: Workload) -> Iterator[_Batched]:
    """The teachers that answer in batches."""
    for teacher, part in zip(load.recipe.answering, shares_of(load.recipe), strict=True):
        if teacher.mode != "online" and load.samples:
            yield _Batched(teacher, part.share, load.chars_per_prompt)


def _batched_judges(load: Workload) -> Iterator[_Batched]:
    """The teachers that judge in batches, once for each of their checks: at most, they judge every answer."""
    for _, judge, teacher in load.recipe.judges:
        if teacher.mode != "online" and load.samples:
            yield _Batched(teacher, 1.0, load.chars_per_question(judge))


class _Waves:
    """One teacher's batches, at most: how many, how many at once, and the hours they take, wave by wave."""

    def __init__(self, load: Workload, batched: _Batched) -> None:
        recipe, (teacher, share, chars) = load.recipe, batched
        api, settings = batches_of(teacher, teacher.batch), teacher.batch
        line = LINE_BYTES + chars
        in_batch = min(settings.max_requests, api.max_requests, int(min(MAX_INPUT_BYTES, api.max_bytes) / line))
        chunks = math.ceil(load.samples / recipe.samples_per_prompt / recipe.prompts_per_shard)
        in_chunk = math.ceil(load.samples * share / chunks)
        self.rounds = rounds = _rounds(recipe) if teacher.mode == "batch" else 1
        in_round = in_chunk * (recipe.ask.accept or recipe.ask.most_samples) / recipe.ask.most_samples
        per_round = math.ceil(in_round / max(1, in_batch))
        self.name = teacher.name
        self.batches = chunks * min(rounds * per_round, rounds + in_chunk // max(1, in_batch))
        self.at_once = min(chunks * per_round, settings.max_open)
        self.hours = math.ceil(chunks * per_round / settings.max_open) * rounds * settings.window_h


def _rounds(recipe: Recipe) -> int:
    """The maximum: if one sample less than `accept` is accepted at first, the others are asked one by one."""
    return 1 if recipe.ask.accept is None else recipe.ask.most_samples - recipe.ask.accept + 1


def _prices(recipe: Recipe) -> Iterator[tuple[str, str]]:
    for teacher in recipe.answering:
        asked = [teacher]
        if teacher.mode == "batch-then-online":
            asked.append(asked_by(teacher, "online"))
        if words := [each.price.source or "the recipe" for each in asked if each.price is not None]:
            yield teacher.name, ", then ".join(dict.fromkeys(words))
