"""A summary for people: plain text."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stillhouse.gen.counted import counted
from stillhouse.gen.dataset.budget_words import used_words
from stillhouse.gen.inert import inert
from stillhouse.schemas.failure import RETRYABLE
from stillhouse.schemas.record import NOT_SELECTED

if TYPE_CHECKING:
    from stillhouse.gen.views.summary import Summary


def render(summary: "Summary") -> str:
    """A summary for people."""
    lines = [
        f"{summary.state}: {summary.dataset}",
        f"  prompts    {_prompts(summary)}",
        f"  records    {summary.records:,}",
        f"  rejected   {summary.rejected:,}{in_brackets(summary.rejected_by_reason)}",
        f"  failed     {summary.failed:,}{in_brackets(summary.failed_by_kind)}",
        *_bad_rows(summary),
        *_until_accepted(summary),
        *_checked(summary),
        *_selected(summary),
        f"  remaining  {_number(summary.remaining)}{_unsealed(summary)}",
        f"  tokens     {_tokens(summary)}",
    ]
    if summary.usd is not None:
        lines.append(f"  spend      ${summary.usd:,.4f}")
    if summary.checks_usd is not None:
        lines.append(f"  judging    ${summary.checks_usd:,.4f}")
    if summary.budget:
        lines.append(f"  budget     {used_words(summary.budget)}")
    if summary.batches:
        lines.append(f"  batches    {summary.batches_words}")
    if summary.maybe_billed:
        lines.append(f"  maybe billed without an answer: {summary.maybe_billed:,}{_up_to(summary.maybe_usd)}")
    if summary.wasted_input_tokens or summary.wasted_output_tokens:
        used = f"{summary.wasted_input_tokens:,} tokens in, {summary.wasted_output_tokens:,} out"
        lines.append(f"  billed for unusable replies: {used}{_usd(summary.wasted_usd)}")
    if summary.late:
        lines.append(f"  {summary.late_words}: raise it, or ask for shorter answers")
    if summary.finish_words:
        words = in_brackets({inert(word): count for word, count in summary.finish_words.items()})
        lines.append(f"  unknown finish reasons{words}: map them in the teacher's `finish_reasons`")
    lines += [f"  {word}" for word in summary.warnings()]
    if not summary.is_idle:
        lost = f"{summary.new_rejected:,} rejected, {summary.new_failed:,} failed"
        retries = counted(summary.retries, "retry", "retries")
        asked = f"{counted(summary.requests, 'request')} ({retries}) in {summary.seconds:,.1f} s"
        lines.append(f"  this call  {counted(summary.new_records, 'record')} ({lost}); {asked}")
    return "\n".join(lines)


def in_brackets(counts: dict[str, int]) -> str:
    """For example ` (length 3, refusal 1)`; empty if there are none."""
    return f" ({', '.join(f'{name} {count:,}' for name, count in sorted(counts.items()))})" if counts else ""


def _bad_rows(summary: "Summary") -> Iterator[str]:
    if summary.bad:
        make = counted(summary.bad, "row makes", "rows make")
        yield f"  bad        {make} no prompt (failed/ says where and why): correct them in a new source file"


def _until_accepted(summary: "Summary") -> Iterator[str]:
    if summary.accept:
        yield f"  not needed {summary.not_needed:,}: their prompts already have enough accepted answers"
        yield f"  short      {counted(summary.short, 'prompt')} with {_too_few(summary)}"


def _too_few(summary: "Summary") -> str:
    """How many accepted answers short prompts have, and why no more are asked for."""
    if not summary.short:
        return f"fewer than {summary.accept:,} accepted answers"
    if summary.accept == 1:
        few = "no accepted answer"
    else:
        found = [(n, prompts) for n, prompts in summary.prompts_by_accepted.items() if n < summary.accept]
        have = ", ".join(f"{prompts:,} {'has' if prompts == 1 else 'have'} {n or 'none'}" for n, prompts in found)
        few = f"fewer than {summary.accept:,} accepted answers ({have})"
    asked = f"{few} among at most {summary.at_most:,} asked{in_brackets(summary.short_by_reason)}"
    return f"{asked}; {_ways_out(summary)} asks more" if summary.short_by_reason else asked


def _ways_out(summary: "Summary") -> str:
    reasons = summary.short_by_reason.keys()
    ways = {
        "a larger budget": "budget" in reasons,
        "`stillhouse retry`": bool(reasons & set(RETRYABLE) - {"budget"}),
        "a higher ask.at_most": bool(reasons - set(RETRYABLE)),
    }
    return " or ".join(way for way, helps in ways.items() if helps)


def _checked(summary: "Summary") -> Iterator[str]:
    for check, by_teacher in summary.checks.items():
        for teacher, counts in sorted(by_teacher.items()):
            of = f" of {inert(teacher)}" if len(by_teacher) > 1 else ""
            unchecked = f", can't judge {counts.unchecked:,}" if counts.unchecked else ""
            judged = counts.accepted + counts.rejected
            share = f" ({counts.accepted / judged:.1%})" if judged else ""
            accepts = f"{counts.accepted:,} of {counted(judged, 'answer')}{of}"
            yield f"  check      {check} accepts {accepts}{share}{unchecked}"


def _selected(summary: "Summary") -> Iterator[str]:
    if summary.select:
        rule = summary.select.replace("_", " ")
        left = summary.rejected_by_reason.get(NOT_SELECTED, 0)
        others = counted(left, "other accepted answer is", "other accepted answers are")
        yield f"  selected   {summary.records:,} by {rule}; {others} in rejected/"


def _unsealed(summary: "Summary") -> str:
    if summary.unsealed is None:
        return " (journals hold answers to many of them)"
    return f" ({summary.unsealed:,} of them answered: the next run seals these)" if summary.unsealed else ""


def _tokens(summary: "Summary") -> str:
    """Tokens, and so the cost, are counted when a chunk is sealed."""
    if summary.unsealed == 0:
        return f"{summary.input_tokens:,} in, {summary.output_tokens:,} out"
    if summary.awaited == 0:
        return "none sealed yet: tokens and cost are counted when answers are sealed"
    return f"{summary.input_tokens:,} in, {summary.output_tokens:,} out, without answers that are not sealed yet"


def _prompts(summary: "Summary") -> str:
    if summary.prompts is None:
        return "not known yet"
    told = f"{summary.prompts:,} ({summary.duplicates or 0:,} duplicate, {summary.bad or 0:,} bad)"
    return f"{told}, a pilot: `run` without --limit asks the rest" if summary.pilot else told


def _usd(usd: float | None) -> str:
    return f", ${usd:,.4f}" if usd else ""


def _up_to(usd: float | None) -> str:
    return f", up to ${usd:,.4f}" if usd else ""


def _number(value: int | None) -> str:
    return "not known yet" if value is None else f"{value:,}"
