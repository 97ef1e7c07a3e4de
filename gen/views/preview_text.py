"""A preview for people: plain text, in which nothing from the source can act on a terminal."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, assert_never

from stillhouse.gen.counted import counted
from stillhouse.gen.inert import inert
from stillhouse.gen.source.survey import passed_over_note
from stillhouse.gen.teachers.image_tokens import CHARS_PER_TOKEN
from stillhouse.gen.views.batch_plan import ModePlan
from stillhouse.gen.views.projection import Range
from stillhouse.gen.views.workload import TeacherShare
from stillhouse.schemas.select import BestOf, Majority

if TYPE_CHECKING:
    from stillhouse.gen.views.preview import Preview


def render(preview: "Preview") -> str:
    """A preview for people: plain text, in which nothing from the source can act on a terminal."""
    size = sum(file.bytes for file in preview.files)
    lines = [f"source: {counted(len(preview.files), 'file')}, {counted(size, 'byte')}"]
    lines += [f"  {inert(file.url)}  {file.bytes:,}" for file in preview.files[:10]]
    if (more := len(preview.files) - 10) > 0:
        lines.append(f"  and {more:,} more")
    if note := passed_over_note(preview.passed_over):
        lines.append(f"  {inert(note)}")
    lines += [
        f"prompts       {preview.prompts:,} ({preview.duplicates:,} duplicate, {preview.bad:,} bad)",
        *(f"  bad: {inert(row)}" for row in preview.bad_rows),
        f"to ask        {_to_ask(preview)}{_besides(preview)}",
        *_kept(preview),
        f"input tokens  about {preview.input_tokens:,} (characters / {CHARS_PER_TOKEN})",
        *(line for line in _bounds(preview) if preview.projection is None or " unknown" not in line),
        *_modes(preview),
        *_projected(preview),
        f"shards        {preview.shards:,} of at most {preview.prompts_per_shard:,} prompts, {_workers(preview)}",
        *(f"judge         {name}" for name in preview.judges),
        *(f"teacher       {t.name}: {t.model}, {_part(preview, t)}" for t in preview.teachers),
        f"dataset       {inert(preview.dataset)} ({counted(preview.sealed, 'chunk')} sealed already)",
    ]
    for number, example in enumerate(preview.examples, 1):
        with_images = f" with {counted(example.images, 'image')}" if example.images else ""
        lines.append(f"example {number}: {inert(example.prompt_id)}{with_images}")
        for role, content in example.messages:
            lines += [f"  [{inert(role)}]", *(f"    {inert(line)}" for line in content.split("\n"))]
    lines += [f"warning: {inert(warning)}" for warning in preview.warnings]
    return "\n".join(lines)


def _to_ask(preview: "Preview") -> str:
    of = "prompt and teacher" if preview.route == "each" else "prompt"
    if preview.accept is None:
        return f"{counted(preview.to_ask, 'sample')}, {preview.samples:,} per {of}"
    most = f"at most {counted(preview.to_ask, 'sample')}"
    return f"{most}: up to {preview.samples:,} per {of}, until {preview.accept:,} are accepted"


def _part(preview: "Preview", teacher: TeacherShare) -> str:
    match preview.route:
        case "weighted" | "each":
            return f"{teacher.share:.1%} of the samples"
        case "fallback":
            usd = preview.usd_at[teacher.name]
            cost = "the cost is unknown" if usd is None else f"at most ${usd:,.2f}"
            return f"{'asked first' if teacher.share else 'next in the chain'}; if it answers everything: {cost}"
        case _:
            assert_never(preview.route)


def _kept(preview: "Preview") -> Iterator[str]:
    if preview.select is None:
        return
    match preview.select.rule:
        case Majority(answer=answer):
            yield f"to keep       for each prompt the largest group of answers that are equal by {answer}"
        case BestOf(by=by, keep=keep):
            yield f"to keep       at most {keep:,} per prompt, by the highest {by}"


def _besides(preview: "Preview") -> str:
    return f" (besides {preview.settled:,} that are sealed)" if preview.settled else ""


def _at_most(count: int | None, why: str) -> str:
    return f"unknown: {why}" if count is None else f"at most {count:,}"


def _cost(preview: "Preview") -> str:
    if preview.usd is None:
        return f"unknown without {' and '.join(preview.unpriced)}"
    least = None if preview.batches is None else preview.batches.usd_if_answered
    if least is None or least >= preview.usd:
        return f"at most ${preview.usd:,.2f}"
    return f"at most ${preview.usd:,.2f}, or ${least:,.2f} if batches answer everything that they are asked"


def _time(preview: "Preview") -> str:
    if preview.seconds is None:
        return f"unknown: {preview.bound_by}"
    if preview.batches is not None:
        return f"{_hours(preview.batches)} (by {preview.bound_by})"
    return f"about {_duration(preview.seconds)} at the limits (by {preview.bound_by})"


def _modes(preview: "Preview") -> Iterator[str]:
    """One line per mode: its cost, at whose price, and how long it takes."""
    for mode, plan in preview.modes.items():
        usd = "cost unknown" if plan.usd is None else f"at most ${plan.usd:,.2f}"
        prices = ", ".join(dict.fromkeys(plan.prices.values()))
        time = "time unknown" if plan.hours is None else _hours(plan)
        yield f"  if {mode:<10} {usd}{f' ({inert(prices)})' if prices else ''}; {time}"


def _hours(plan: ModePlan) -> str:
    """How long it takes in words, with the batches if there are any."""
    if plan.hours is None or not plan.batches:
        return f"about {plan.hours:,.1f} h"
    each = f" in each of at most {plan.rounds:,} rounds" if plan.rounds > 1 else ""
    days = math.ceil(plan.hours / 24)
    batches = counted(plan.batches, "batch", "batches")
    return f"{batches}, {plan.at_once:,} at a time{each}, at most {counted(days, 'day')}"


def _duration(value: float) -> str:
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min {seconds:02d} s"


def _bounds(preview: "Preview") -> Iterator[str]:
    yield f"output tokens {_at_most(preview.output_tokens, 'ask.max_tokens is not set')}"
    yield f"cost          {_cost(preview)}"
    if preview.judges:
        without = "unknown without the `price` of each judge and `max_tokens` of all teachers"
        yield f"judging       {without if preview.checks_usd is None else f'at most ${preview.checks_usd:,.2f}'}"
    yield f"time          {_time(preview)}"


def _projected(preview: "Preview") -> Iterator[str]:
    shown = preview.projection
    if shown is None:
        if preview.to_ask:
            why = f"{preview.no_projection}; " if preview.no_projection else ""
            yield f"projection    {why}`plan --sample 100` asks 100 rows first, and projects from their answers"
        return
    rests_on = f"{counted(shown.answers, 'answer')} to {counted(shown.prompts, 'prompt')}"
    yield f"projection    of what is left, from {rests_on}, if it is like them (in brackets: the 90 % range)"
    yield f"  input tokens  {_range(shown.input_tokens, _figures)}"
    yield f"  output tokens {_range(shown.output_tokens, _figures)}"
    if shown.usd is not None and shown.whole_usd is not None:
        yield f"  cost          {_range(shown.usd, _dollars)}; the whole dataset {_range(shown.whole_usd, _dollars)}"
    else:
        lacks = [name for name in preview.unpriced if name.endswith(".price")]
        yield f"  cost          unknown without {' and '.join(lacks)}"
    if shown.checks_usd is not None:
        yield f"  judging       about {_dollars(shown.checks_usd)}"
    if shown.seconds is None:
        yield f"  time          unknown: {inert(shown.bound_by)}"
    else:
        yield f"  time          {_range(shown.seconds, _span)}, by {inert(shown.bound_by)}"


def _range(value: Range, shown: Callable[[float], str]) -> str:
    low, likely, high = shown(value.low), shown(value.likely), shown(value.high)
    return f"about {likely}" if low == high else f"about {likely} ({low} to {high})"


def _figures(value: float) -> str:
    """Rounded to three figures, because more are not known."""
    return f"{round(value, 2 - math.floor(math.log10(value))):,.0f}" if value >= 1000 else f"{value:,.0f}"


def _span(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 60:
        return f"{seconds:,.0f} s"
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min"


def _dollars(value: float) -> str:
    return f"${value:,.2f}" if value >= 0.1 else f"${value:,.4f}"


def _workers(preview: "Preview") -> str:
    if preview.workers is None:
        return "workers: auto"
    return f"{preview.shards_per_worker:g} for each of {counted(preview.workers, 'worker')}"
