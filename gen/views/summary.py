"""What a dataset holds, from storage alone: the plans, the index's counts and the shards' footers."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from pydantic import BaseModel

from stillhouse.gen.dataset.binding import read_identity
from stillhouse.gen.dataset.index import PartInfo, read_parts
from stillhouse.gen.dataset.layout import RECIPE_KEY, ChunkId, sealed_chunks
from stillhouse.gen.dataset.plans import Plan, read_plans
from stillhouse.gen.dataset.shard_meta import ShardCounts, ShardMeta, read_metas
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.readable import ReadableStore


class Summary(BaseModel):
    """The last line of `run --json`, and what `status` prints. Null: not known yet."""

    state: str
    dataset: str
    prompts: int | None = None
    """Source rows."""
    duplicates: int | None = None
    bad: int | None = None
    records: int = 0
    """Samples from here on."""
    rejected: int = 0
    failed: int = 0
    """Less those that a later generation asked again."""
    remaining: int | None = None
    requests: int = 0
    """Of this call, like `retries` and `seconds`."""
    retries: int = 0
    maybe_billed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = None
    seconds: float = 0.0
    pilot: bool = False
    """Whether source rows are left that a `limit` kept from being planned."""
    rejected_by_reason: dict[str, int] = {}
    failed_by_kind: dict[str, int] = {}

    def as_line(self) -> str:
        """The last line of `run --json`."""
        return self.model_dump_json(exclude={"pilot", "rejected_by_reason", "failed_by_kind"})

    def as_text(self) -> str:
        """For people."""
        lines = [
            f"{self.state}: {self.dataset}",
            f"  prompts    {self._prompts()}",
            f"  records    {self.records:,}",
            f"  rejected   {self.rejected:,}{_kinds(self.rejected_by_reason)}",
            f"  failed     {self.failed:,}{_kinds(self.failed_by_kind)}",
            f"  remaining  {_number(self.remaining)}",
            f"  tokens     {self.input_tokens:,} in, {self.output_tokens:,} out",
        ]
        if self.usd is not None:
            lines.append(f"  spend      ${self.usd:,.4f}")
        if self.maybe_billed:
            lines.append(f"  maybe billed without an answer: {self.maybe_billed:,}")
        if self.requests:
            lines.append(f"  this call  {self.requests:,} requests ({self.retries:,} retries) in {self.seconds:,.1f} s")
        return "\n".join(lines)

    def _prompts(self) -> str:
        if self.prompts is None:
            return "not known yet"
        told = f"{self.prompts:,} ({self.duplicates or 0:,} duplicate, {self.bad or 0:,} bad)"
        return f"{told}, a pilot: `run` without --limit asks the rest" if self.pilot else told


def _number(value: int | None) -> str:
    return "not known yet" if value is None else f"{value:,}"


def _kinds(counts: dict[str, int]) -> str:
    return f" ({', '.join(f'{name} {count:,}' for name, count in sorted(counts.items()))})" if counts else ""


def summarise(
    store: ReadableStore,
    *,
    state: str | None = None,
    visit: Callable[[ChunkId, ShardMeta], None] = lambda chunk, meta: None,
) -> Summary:
    """The dataset's counts; `visit` is shown what each shard says of itself, in order.

    Raises:
        DatasetError: there is no dataset at the store's root, or it is damaged.
    """
    stored = store.get(RECIPE_KEY)
    if stored is None:
        raise DatasetError(f"{store.url}: is no Stillhouse dataset (it holds no {RECIPE_KEY}); check the path")
    identity = read_identity(stored, origin=f"{store.url}/{RECIPE_KEY}")
    samples = int(identity["ask"]["samples"])
    plans = read_plans(store)
    parts = {plan.generation: read_parts(store, plan) for plan in plans}
    sealed = list(sealed_chunks(store))
    counts = ShardCounts()
    for chunk, meta in read_metas(store, sealed):
        visit(chunk, meta)
        counts += meta.counts
    failed = dict(Counter(counts.failed) - Counter(counts.retried))
    planned = bool(plans) and all(_is_whole(parts[plan.generation]) for plan in plans if plan.retry is None)
    rows, duplicates, bad = _rows(part for each in parts.values() for part in each)
    settled = counts.records + sum(counts.rejected.values()) + sum(failed.values())
    remaining = (rows - duplicates - bad) * samples - settled if planned else None
    chunks = sum(len(part.asks) for each in parts.values() for part in each)
    done = remaining == 0 and all(map(_is_whole, parts.values())) and chunks <= len(sealed)
    return Summary(
        state=state or ("done" if done else "unfinished"),
        dataset=store.url,
        prompts=rows if planned else None,
        duplicates=duplicates if planned else None,
        bad=bad if planned else None,
        records=counts.records,
        rejected=sum(counts.rejected.values()),
        failed=sum(failed.values()),
        remaining=remaining,
        maybe_billed=counts.maybe_billed,
        input_tokens=counts.input_tokens,
        output_tokens=counts.output_tokens,
        usd=counts.usd,
        pilot=_is_pilot(plans, parts),
        rejected_by_reason=counts.rejected,
        failed_by_kind=failed,
    )


def _is_whole(parts: Sequence[PartInfo]) -> bool:
    """Whether a generation is indexed to its end."""
    return bool(parts) and parts[-1].last


def _is_pilot(plans: Sequence[Plan], parts: Mapping[int, Sequence[PartInfo]]) -> bool:
    """Whether the last rows planned were so many by a limit, and their files were not read to their ends."""
    last = next((plan for plan in reversed(plans) if plan.retry is None), None)
    if last is None or last.limit is None or not _is_whole(parts[last.generation]):
        return False
    return any(end is not None for end in parts[last.generation][-1].ends)


def _rows(parts: Iterable[PartInfo]) -> tuple[int, int, int]:
    rows = duplicates = bad = 0
    for part in parts:
        rows, duplicates, bad = rows + part.rows, duplicates + part.duplicates, bad + part.bad
    return rows, duplicates, bad
