"""Summarises a dataset from storage alone: the plans, the index's counts and the shards' footers."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic import BaseModel

from stillhouse.gen.counted import counted
from stillhouse.gen.dataset.batch_intents import collect_by, count_batches, day_of
from stillhouse.gen.dataset.budget_file import read_budget
from stillhouse.gen.dataset.budget_words import Use, uses_of
from stillhouse.gen.dataset.generations import Generation
from stillhouse.gen.dataset.index import PartInfo
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.plans import NOT_NEEDED, SourcePlan
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.dataset.series import Series
from stillhouse.gen.dataset.shard_meta import CountsByCheck, ShardCounts, ShardMeta
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.journal.unsealed import unsealed_answers
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.gen.teachers.distillation import ADVICE, is_alarming
from stillhouse.gen.teachers.expense import NOTHING
from stillhouse.gen.views.shortfall import Shortfall, shortfall_in
from stillhouse.gen.views.summary_text import in_brackets, render
from stillhouse.schemas.recipe_file import RecipeError


class Summary(BaseModel):
    """The last line of `run --json`, and the output of `status`. Null: not known yet."""

    state: str
    why: str | None = None
    """Why the run ended early; null if it did not."""
    dataset: str
    prompts: int | None = None
    """Source rows."""
    duplicates: int | None = None
    bad: int | None = None
    records: int = 0
    """This field and the following ones count samples."""
    rejected: int = 0
    failed: int = 0
    """Failures, without those that a later generation asked again."""
    not_needed: int = 0
    """Samples that were not asked, because enough answers to their prompts are accepted."""
    short: int = 0
    """Prompts with fewer than `accept` accepted answers for which no more answers are requested now."""
    short_by_reason: dict[str, int] = {}
    """Short prompts by the outcome of their last sample that was not accepted: a `reject_reason` or a kind of
    Failure."""
    remaining: int | None = None
    """Samples that are not in a shard yet."""
    unsealed: int | None = 0
    """Remaining samples with an answer in a journal; null: too many to count. On S3, only shipped journals count."""
    requests: int = 0
    """Requests of this call; so are `retries` and `seconds`."""
    retries: int = 0
    maybe_billed: int = 0
    input_tokens: int = 0
    """Of answers in shards; so are all other tokens and costs."""
    output_tokens: int = 0
    usd: float | None = None
    """Cost of answers: kept, rejected or not judged."""
    checks_usd: float | None = None
    """Cost of judges' verdicts on these answers."""
    wasted_usd: float | None = None
    """Cost of unusable replies, by the usage that they report."""
    maybe_usd: float | None = None
    """Upper bound on the cost of attempts whose cost was never reported."""
    budget: dict[str, Use] = {}
    """The used part of the budget of the last run's recipe, by the names of its fields."""
    collect_by: str | None = None
    """Day (UTC) until which all results of open batches are kept; null if none is open, or none is ever deleted."""
    batches: dict[str, int] = {}
    """Batches: `open` at a provider, `ended`, and among the ended ones those with `expired` requests."""
    seconds: float = 0.0
    new_records: int = 0
    """Records sealed by this call; so are `new_rejected` and `new_failed`."""
    new_rejected: int = 0
    new_failed: int = 0
    pilot: bool = False
    """True if a `limit` kept source rows from being planned."""
    rejected_by_reason: dict[str, int] = {}
    failed_by_kind: dict[str, int] = {}
    unpaid: int = 0
    """Failures of the kind `budget` whose prompts still need them: the next run that has money asks them again."""
    finish_words: dict[str, int] = {}
    late: int = 0
    """Failures, also those asked again since, whose answers took longer than `timeout_s`."""
    awaited: int = 0
    """Records, rejected samples and Failures, also those asked again since."""
    wasted_input_tokens: int = 0
    wasted_output_tokens: int = 0
    tool_calls: int = 0
    """Records whose message lacks the tool calls."""
    no_logprobs: int = 0
    distillation_refusals: int = 0
    """Refusals because the provider considers the request distillation of its model."""
    accept: int = 0
    """Accepted answers wanted per prompt; 0 if all samples are asked."""
    at_most: int = 0
    """Maximum number of answers asked for a prompt, under `accept`."""
    prompts_by_accepted: dict[int, int] = {}
    """Prompts by how many of their answers were accepted."""
    checks: CountsByCheck = {}
    """Verdicts by check and teacher."""
    select: str = ""
    """How records are selected among accepted answers: `majority`, `best_of`, or empty if all are kept."""

    def as_line(self) -> str:
        """The last line of `run --json`."""
        return self.model_dump_json()

    def as_text(self) -> str:
        """The summary as text."""
        return render(self)

    @property
    def to_be_asked(self) -> int | None:
        """Samples that the next run asks by itself: the remaining ones, and those that the budget could not cover."""
        return None if self.remaining is None else self.remaining + self.unpaid

    @property
    def batches_words(self) -> str:
        """How many batches are in which state; empty if there are none."""
        if not self.batches:
            return ""
        expired = f" ({self.batches['expired']:,} with expired requests)" if self.batches["expired"] else ""
        by = f"; collect by {self.collect_by}" if self.collect_by else ""
        return f"{self.batches['open']:,} open, {self.batches['ended']:,} ended{expired}{by}"

    @property
    def late_words(self) -> str:
        """The share of answers that took too long; empty if none did."""
        if not self.late:
            return ""
        return f"{self.late:,} of {counted(self.awaited, 'answer')} took longer than timeout_s"

    @property
    def is_idle(self) -> bool:
        """True if this call asked nothing and sealed nothing."""
        return not (self.requests or self.new_records or self.new_rejected or self.new_failed)

    def warnings(self) -> list[str]:
        """What anyone who trains on the records should know."""
        found = []
        if is_alarming(self.distillation_refusals, answers=self.records + self.rejected):
            found.append(
                f"{counted(self.distillation_refusals, 'prompt was', 'prompts were')} refused as distillation of the "
                f"teacher's model (rejected/ has them, by refusal_category): {ADVICE}"
            )
        if self.no_logprobs:
            found.append(
                f"{counted(self.no_logprobs, 'record lacks', 'records lack')} the log-probabilities that were "
                "requested (ask.top_logprobs)"
            )
        if self.tool_calls:
            found.append(
                f"{counted(self.tool_calls, 'record holds', 'records hold')} tool calls that are only in the column "
                "tool_calls: to train on completion alone, leave them out"
            )
        return found

    def why_useless(self) -> str | None:
        """A message for a finished dataset that has no record although something was asked; else None."""
        if self.state != "done" or self.records or not self.rejected + self.failed:
            return None
        why = f"{self.rejected:,} rejected{in_brackets(self.rejected_by_reason)}, {self.failed:,} failed"
        return (
            f"everything is settled, but there are no records: {why}{in_brackets(self.failed_by_kind)}. `stillhouse "
            f"report {self.dataset}` shows some of them; Failures can be asked again with `stillhouse retry`"
        )


def summarise(store: ReadableStore, *, state: str | None = None) -> Summary:
    """The counts of the dataset at the store's root; `state`: the name of its state, if known.

    Raises:
        DatasetError: there is no dataset, or it is damaged.
    """
    return summary_of(DatasetReader(store), state=state)


def summary_of(
    dataset: DatasetReader,
    *,
    state: str | None = None,
    visit: Callable[[ChunkId, ShardMeta], None] = lambda chunk, meta: None,
) -> Summary:
    """The dataset's counts; `visit` receives each shard's metadata, in order.

    Raises:
        DatasetError: there is no dataset, or it is damaged.
    """
    teachers = Series.of(dataset.bound.identity).per_prompt
    generations = dataset.generations
    sources = [each for each in generations if isinstance(each.plan, SourcePlan)]
    accept = _accept(generations)
    counts = ShardCounts()
    lacking: list[tuple[ChunkId, ShardMeta]] = []
    """Shards with prompts that were short when they were sealed, and all that asked such prompts again."""
    for chunk, meta in dataset.metas():
        visit(chunk, meta)
        counts += meta.counts
        asks_again = not isinstance(generations[chunk.generation].plan, SourcePlan)
        if asks_again or any(count < accept for count in meta.counts.prompts_by_accepted):
            lacking.append((chunk, meta))
    short = sum(prompts for count, prompts in counts.prompts_by_accepted.items() if count < accept)
    failed = dict(Counter(counts.failed) - Counter(counts.retried))
    planned = bool(sources) and all(each.is_indexed for each in sources)
    rows, duplicates, bad = _rows(part for each in sources for part in each.parts)
    passed_over = sum(part.passed_over for each in generations for part in each.parts)
    not_needed = counts.not_needed - counts.retried.get(NOT_NEEDED, 0) + passed_over
    settled = counts.records + sum(counts.rejected.values()) + sum(failed.values()) + not_needed
    remaining = (rows - duplicates - bad) * dataset.bound.samples * teachers - settled if planned else None
    shortfall = shortfall_in(dataset.store, lacking, accept=accept, is_each=teachers > 1) if short else Shortfall({}, 0)
    unpaid = shortfall.unpaid if accept else failed.get("budget", 0)
    done = remaining == 0 and all(each.is_sealed for each in generations) and not unpaid
    batches = count_batches(dataset.store)
    return Summary(
        state=state or ("done" if done else "unfinished"),
        dataset=dataset.url,
        prompts=rows if planned else None,
        duplicates=duplicates if planned else None,
        bad=bad if planned else None,
        failed=sum(failed.values()),
        not_needed=not_needed,
        short=short,
        short_by_reason=shortfall.by_reason,
        remaining=remaining,
        unsealed=0 if done else unsealed_answers(dataset.store, sealed={str(chunk) for chunk in dataset.shards}),
        budget=_budget(dataset),
        batches=batches._asdict() if any(batches) else {},
        collect_by=day_of(collect_by(dataset.store)) if batches.open else None,
        pilot=_is_pilot(sources),
        failed_by_kind=failed,
        unpaid=unpaid,
        tool_calls=counts.tool_calls if dataset.bound.columns.calls == "beside" else 0,
        accept=dataset.bound.accept,
        at_most=dataset.bound.samples if dataset.bound.accept else 0,
        select=next(iter(dataset.bound.identity.get("select", ())), ""),
        **_of_shards(counts),
    )


def _of_shards(counts: ShardCounts) -> dict[str, Any]:
    """The fields that the shards alone decide."""
    return {
        "records": counts.records,
        "rejected": sum(counts.rejected.values()),
        "rejected_by_reason": counts.rejected,
        "maybe_billed": counts.maybe_billed,
        "input_tokens": counts.input_tokens + counts.unchecked_input_tokens,
        "output_tokens": counts.output_tokens + counts.unchecked_output_tokens,
        "usd": counts.paid_usd,
        "checks_usd": counts.checks_usd,
        "wasted_usd": counts.wasted_usd,
        "maybe_usd": counts.maybe_usd,
        "checks": counts.checks,
        "finish_words": counts.finish_words,
        "wasted_input_tokens": counts.wasted_input_tokens,
        "wasted_output_tokens": counts.wasted_output_tokens,
        "late": counts.late,
        "awaited": counts.records + sum(counts.rejected.values()) + sum(counts.failed.values()),
        "no_logprobs": counts.no_logprobs,
        "distillation_refusals": counts.distillation_refusals,
        "prompts_by_accepted": dict(sorted(counts.prompts_by_accepted.items())),
    }


def _budget(dataset: DatasetReader) -> dict[str, Use]:
    try:
        budget = dataset.last_run().budget
    except (DatasetError, RecipeError):  # a dataset that was not run yet
        return {}
    if budget is None:
        return {}
    document = read_budget(dataset.store)
    return uses_of(budget, NOTHING if document is None else document.spent)


def _accept(generations: Sequence[Generation]) -> int:
    """Accepted answers wanted per prompt, judged by what is asked to the end."""
    return max((each.plan.accept for each in generations if each.is_sealed), default=0) or max(
        (each.plan.accept for each in generations), default=0
    )


def _is_pilot(sources: Sequence[Generation]) -> bool:
    """True if the last plan was limited to this many rows, and its files were not read to their ends."""
    match sources:
        case [*_, Generation(plan=SourcePlan(limit=int()), is_indexed=True) as last]:
            return any(end is not None for end in last.parts[-1].ends)
    return False


def _rows(parts: Iterable[PartInfo]) -> tuple[int, int, int]:
    rows = duplicates = bad = 0
    for part in parts:
        rows, duplicates, bad = rows + part.rows, duplicates + part.duplicates, bad + part.bad
    return rows, duplicates, bad
