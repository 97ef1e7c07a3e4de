"""Rules between the sections of a recipe. Each returns its messages by the field at fault."""

from typing import TYPE_CHECKING

from stillhouse.schemas.asked_schema import SCHEMA_CHECK
from stillhouse.schemas.base import Place
from stillhouse.schemas.combinations import refused_pairs
from stillhouse.schemas.identity import TOOL_FIELDS
from stillhouse.schemas.judge_rules import judge_faults
from stillhouse.schemas.licences import hosts_of
from stillhouse.schemas.model_rules import refusals
from stillhouse.schemas.score import SCORING_APIS
from stillhouse.schemas.source import ONE_PROMPT

if TYPE_CHECKING:
    from stillhouse.schemas.recipe import Recipe

MAX_SAMPLES_PER_SHARD = 2**32 - 1
"""The journal numbers a shard's samples in 32 bits."""


def contradiction(recipe: "Recipe") -> str | None:
    """Why the recipe makes no sense as a whole, in a message that names the fields."""
    names = [teacher.name for teacher in recipe.teachers]
    if twice := {name for name in names if names.count(name) > 1}:
        return f"teachers: the name {', '.join(sorted(twice))} is given twice"
    ask, source = recipe.ask, recipe.source
    if ask.template is not None and source.messages is not None:
        return "ask.template goes with source.prompt: a conversation is sent as it is"
    if ask.score is None and ask.template is None and source.prompt is None and source.messages is None:
        return f"source: expected {ONE_PROMPT}, or ask.template, got none"
    if recipe.dataset.images == "embed" and not source.images:
        return "dataset.images: embed needs `source.images`: the prompts have no images otherwise"
    return _tools_fault(recipe)


def _tools_fault(recipe: "Recipe") -> str | None:
    """What is wrong with where tools are given."""
    own = [name for name, value in (("ask.tools", recipe.ask.tools), ("source.tools", recipe.source.tools)) if value]
    if len(own) == 2:
        return "expected tools in one of `ask.tools` (for all rows) and `source.tools` (for each row), got both"
    extras = (recipe.ask.extra, *(teacher.extra for teacher in recipe.teachers))
    if own and any(name in extra for extra in extras for name in TOOL_FIELDS):
        return f"expected tools in {own[0]} or in `extra`, got both; leave them out of `extra`"
    return None


def field_faults(recipe: "Recipe") -> dict[Place, str]:
    """What is wrong with single fields; the first rule that finds something counts."""
    return (
        _name_faults(recipe)
        or _shard_faults(recipe)
        or judge_faults(recipe)
        or refused_pairs(recipe)
        or _score_faults(recipe)
        or _refused_parameters(recipe) | _misfits(recipe) | _unbounded(recipe)
    )


def _name_faults(recipe: "Recipe") -> dict[Place, str]:
    same = [number for number, check in enumerate(recipe.checks) if check.name == SCHEMA_CHECK]
    if not same or recipe.asked_schema is None:
        return {}
    place = ("checks", same[0], recipe.checks[same[0]].kind, "name")
    return {place: f"the name {SCHEMA_CHECK} belongs to the check of `ask.schema`; choose another"}


def _shard_faults(recipe: "Recipe") -> dict[Place, str]:
    each = recipe.samples_per_prompt
    if (shard := recipe.prompts_per_shard * each) <= MAX_SAMPLES_PER_SHARD:
        return {}
    words = f"expected at most {MAX_SAMPLES_PER_SHARD:,} samples in a shard, got {shard:,} ({each:,} per prompt)"
    return {("dataset", "prompts_per_shard"): f"{words}; make it smaller"}


def _score_faults(recipe: "Recipe") -> dict[Place, str]:
    """For each field that can't go together with `ask.score`, the message."""
    found: dict[Place, str] = {}
    if (score := recipe.ask.score) is None:
        return found
    for number, teacher in enumerate(recipe.teachers):
        if teacher.api not in SCORING_APIS:
            found["teachers", number, "api"] = (
                f"`ask.score` takes {' or '.join(f'`{api}`' for api in SCORING_APIS)}, got `{teacher.api}`"
            )
        for name in sorted(recipe.ask.of(teacher).given()):
            place = ("teachers", number, "ask", name) if name in teacher.ask.written() else ("ask", name)
            found[place] = "`ask.score` asks for no answer, and takes no parameters for one: leave it out"
    sections = (("ask", recipe.ask, ("system", "template")), ("source", recipe.source, ("prompt", "messages")))
    for section, holder, names in sections:
        for name in names:
            if getattr(holder, name) is not None:
                found[section, name] = "`ask.score` sends the row's token ids and no text: leave it out"
    if recipe.ask.samples > 1:
        found["ask", "samples"] = f"`ask.score` gives the same scores each time: expected 1, got {recipe.ask.samples}"
    if recipe.dataset.messages:
        found["dataset", "messages"] = "`ask.score` makes records without messages: leave it out"
    if score.prompt_ids == score.completion_ids:
        found["ask", "score", "completion_ids"] = "expected a different column from that of `prompt_ids`"
    return found


def _misfits(recipe: "Recipe") -> dict[Place, str]:
    """For each field that can't go together with `select`, the message."""
    if recipe.select is None:
        return {}
    names, ask = [check.name for check in recipe.all_checks], recipe.ask
    misfit = recipe.select.misfit(checks=names, samples=ask.most_samples, accept=ask.accept)
    return {} if misfit is None else {("select", *misfit[0].split(".")): misfit[1]}


def _unbounded(recipe: "Recipe") -> dict[Place, str]:
    """The limits of the budget that can't be kept, because an answer may have any length."""
    unbounded = [teacher.name for teacher in recipe.teachers if recipe.ask.of(teacher).max_tokens is None]
    if recipe.budget is None or recipe.ask.score is not None or not unbounded:
        return {}
    words = (
        f"needs `max_tokens` for every teacher, which bounds the cost of an answer: {', '.join(unbounded)} has "
        "none; add it to `ask`"
    )
    stated = [name for name in ("usd", "output_tokens") if getattr(recipe.budget, name) is not None]
    return {("budget", name): words for name in stated}


def _refused_parameters(recipe: "Recipe") -> dict[Place, str]:
    """For each parameter that a teacher's API or model refuses, what to do."""
    found: dict[Place, str] = {}
    for number, teacher in enumerate(recipe.teachers):
        ask = recipe.ask.of(teacher)
        hosts = hosts_of(teacher.urls)
        schema = ask.schema_document
        offers = teacher.role == "answer" and (recipe.ask.tools or recipe.source.tools)
        extra = ask.extra | ({"tools": True} if offers else {})
        for name, why in refusals(teacher.api, teacher.model_name, ask.given(), extra, hosts=hosts, schema=schema):
            place: Place = ("teachers", number)
            if name in teacher.ask.written():
                place = ("teachers", number, "ask", name)
            elif name in ask.given() and teacher.role == "answer":
                place = ("ask", name)
            words = f"teacher {teacher.name}: {why}"
            found[place] = f"{found[place]}\n{words}" if place in found else words
    return found
