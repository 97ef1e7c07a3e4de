"""The run's metrics for Prometheus, by `ray.util.metrics`. Only the driver exports them, from the stats that it polls.

Workers export none, so a thousand workers cost no more CPU and series than one, and no last counts are lost when one
dies. `ray.shutdown()` exports what is not exported yet, so counters are right once the driver has ended.

Histograms are counters with an `le` label, as Prometheus itself stores them: Ray's own take values one by one, and
rebuild them from the middles of their buckets.
"""

import time
from collections.abc import Sequence
from itertools import accumulate

from ray.util import metrics

from stillhouse.cluster.progress.pace import Pace
from stillhouse.cluster.progress.stats import QueueStats
from stillhouse.gen.coordination.counters import LATENCY_BOUNDS_S, SPEED_BOUNDS, Tally
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.schemas.recipe import Recipe

_DEFERRED = {"rate", "ramp", "overload", "loading", "no_connection"}
"""Troubles that mean `later`: the request was not served, and it does not count as one of the sample's attempts."""


def _label(text: str) -> str:
    """A label's value in ASCII, which Ray requires."""
    return text.encode("ascii", "backslashreplace").decode()


class _Rising:
    """A Ray counter that receives totals; a total that falls comes from an actor that has just restarted."""

    def __init__(self, name: str, description: str, *, labels: tuple[str, ...] = (), dataset: str) -> None:
        self._counter = metrics.Counter(f"stillhouse_{name}", description, tag_keys=("dataset", *labels))
        self._counter.set_default_tags({"dataset": dataset})
        self._labels = labels
        self._told: dict[tuple[str, ...], float] = {}

    def to(self, total: float, *values: str) -> None:
        """Set the total for these values of the labels."""
        if (more := total - self._told.get(values, 0)) > 0:
            self._counter.inc(more, tags=dict(zip(self._labels, map(_label, values), strict=True)))
            self._told[values] = total

    def to_buckets(self, counts: Sequence[int], bounds: Sequence[float], *values: str) -> None:
        """Set a histogram's counts, one per bucket; the last bucket has no bound."""
        for bound, total in zip([*map(str, bounds), "+Inf"], accumulate(counts), strict=True):
            self.to(total, *values, bound)


class RunMetrics:
    """The metrics of one generation; Prometheus adds `ray_` before the names, and `_total` after counters."""

    def __init__(self, recipe: Recipe) -> None:
        dataset = _label(recipe.dataset.path)
        self._recipe = recipe
        self._batched = {each.name for each in recipe.teachers if each.mode != "online"}
        self._pace = Pace(recipe)
        self._last: QueueStats | None = None
        self._counts, self._shards = ShardCounts(), 0
        """Sealed samples that the queues before the current one reported."""

        def rising(name: str, description: str, *labels: str) -> _Rising:
            return _Rising(name, description, labels=labels, dataset=dataset)

        def gauge(name: str, description: str, *labels: str) -> metrics.Gauge:
            made = metrics.Gauge(f"stillhouse_{name}", description, tag_keys=("dataset", *labels))
            made.set_default_tags({"dataset": dataset})
            return made

        self._requests = rising("requests", "Requests sent.", "teacher")
        self._retries = rising("retries", "Requests for a sample that was asked before.", "teacher")
        self._outcomes = rising("outcomes", "Finished requests, by outcome.", "teacher", "outcome", "kind")
        self._tokens = rising("tokens", "Tokens of answers, as billed.", "teacher", "direction")
        self._dollars = rising("dollars", "USD, at the recipe's prices.", "teacher")
        self._waited = rising("limit_wait_seconds", "Seconds that requests waited for limits.", "teacher")
        self._latency = rising("latency_seconds_bucket", "Answers, by seconds.", "teacher", "le")
        self._speed = rising("tokens_per_second_bucket", "Answers, by output tokens per second.", "teacher", "le")
        self._batches = rising("batches", "Batches, by outcome.", "teacher", "state")
        self._records = rising("records", "Records sealed.")
        self._rejected = rising("rejected", "Samples sealed as rejected.", "reason")
        self._failures = rising("failures", "Samples sealed as failed.", "kind")
        self._sealed = rising("shards", "Shards sealed.")
        self._lease_waits = rising("lease_waits", "Times that a worker had to wait for a chunk.")
        self._in_flight = gauge("in_flight", "Requests in flight.", "teacher")
        self._used = gauge("limit_used", "Share of an account's limit in use.", "account", "limit")
        self._workers = gauge("workers", "Workers running or starting.")
        self._open = gauge("open_chunks", "Chunks held by workers.")
        self._lag = gauge("journal_lag_bytes", "Journalled answers that are not in the store yet.")
        self._parked = gauge("chunks_parked", "Chunks that wait for batches at a provider, and that no worker holds.")
        self._batches_open = gauge("batches_open", "Batches that may be at the provider.", "teacher")
        self._left = gauge("chunks_left", "Known chunks that are not sealed.")
        self._time_left = gauge("time_left_seconds", "Seconds left at the current pace.")

    def update(self, stats: QueueStats, *, workers: int) -> None:
        """Update the metrics with the run's stats."""
        if self._last is not None and stats.shards < self._last.shards:  # a restarted queue counts from zero
            self._counts, self._shards = self._counts + self._last.counts, self._shards + self._last.shards
        self._last = stats
        for teacher, tally in stats.teachers.items():
            self._count(teacher, tally)
        self._count_sealed(self._counts + stats.counts, shards=self._shards + stats.shards)
        self._lease_waits.to(stats.lease_waits)
        self._pace.add(stats, now=time.monotonic())
        for (account, limit), share in self._pace.limits_used(stats).items():
            self._used.set(share if workers else 0.0, tags={"account": _label(account), "limit": limit})
        self._workers.set(workers)
        self._open.set(stats.open_chunks)
        self._lag.set(stats.journal_lag_bytes)
        self._left.set(stats.chunks - stats.sealed)
        self._parked.set(stats.parked)
        for teacher in self._batched:
            self._batches_open.set(stats.open_batches.get(teacher, 0), tags={"teacher": _label(teacher)})
        self._time_left.set(self._pace.time_left_s(stats))

    def _count(self, teacher: str, tally: Tally) -> None:
        self._requests.to(tally.requests, teacher)
        self._retries.to(tally.retries, teacher)
        self._outcomes.to(tally.answers, teacher, "answered", "")
        for kind, count in tally.troubles.items():
            self._outcomes.to(count, teacher, "deferred" if kind in _DEFERRED else "failed", kind)
        self._tokens.to(tally.input_tokens, teacher, "input")
        self._tokens.to(tally.output_tokens, teacher, "output")
        self._dollars.to(tally.usd, teacher)
        self._waited.to(tally.lease_wait_s, teacher)
        self._latency.to_buckets(tally.latencies, LATENCY_BOUNDS_S, teacher)
        self._speed.to_buckets(tally.speeds, SPEED_BOUNDS, teacher)
        if teacher in self._batched:
            self._batches.to(tally.batches, teacher, "created")
            self._batches.to(tally.batches_ended - tally.batches_expired, teacher, "ended")
            self._batches.to(tally.batches_expired, teacher, "expired")
        self._in_flight.set(tally.in_flight, tags={"teacher": _label(teacher)})

    def _count_sealed(self, counts: ShardCounts, *, shards: int) -> None:
        self._records.to(counts.records)
        self._sealed.to(shards)
        for reason, count in counts.rejected.items():
            self._rejected.to(count, reason)
        for kind, count in counts.failed.items():
            self._failures.to(count, kind)
