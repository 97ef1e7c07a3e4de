"""The metadata in a shard's footer: its counts, and the files beside it."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import orjson
from pydantic import BaseModel, ConfigDict

from stillhouse.gen.dataset.damage import reporting_damage
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.sums import added
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.gen.teachers.expense import NOTHING, Expense, nano_usd
from stillhouse.schemas.version import META_KEY, SCHEMA_VERSION

SIDES = ("rejected", "failed", "raw")
"""The files beside a shard, in the order they are written."""


MOST_MODELS = 20
"""Maximum number of models listed for a teacher's answers: a server may name any model."""


class SideFile(BaseModel):
    """A file beside a shard."""

    model_config = ConfigDict(frozen=True)

    key: str
    rows: int
    sha256: str


class CheckCounts(BaseModel):
    """One check's verdicts on one teacher's answers, counted."""

    model_config = ConfigDict(frozen=True)

    accepted: int = 0
    rejected: int = 0
    unchecked: int = 0

    def __add__(self, other: "CheckCounts") -> "CheckCounts":
        return CheckCounts(**{name: added(value, getattr(other, name)) for name, value in self})


CountsByCheck: TypeAlias = dict[str, dict[str, CheckCounts]]
"""Counts of verdicts, by the names of check and teacher."""


class ShardCounts(BaseModel):
    """Contents of a shard and its side files, in samples; duplicate prompts and bad rows are counted by the index."""

    model_config = ConfigDict(frozen=True)

    records: int = 0
    rejected: dict[str, int] = {}
    failed: dict[str, int] = {}
    retried: dict[str, int] = {}
    """In a later generation: what its samples were, a kind of Failure or `not_needed`; earlier shards count them as
    such."""
    not_needed: int = 0
    """Under `ask.accept`: samples not asked, because enough answers to their prompts are accepted."""
    prompts_by_accepted: dict[int, int] = {}
    """Under `ask.accept`: number of prompts by their number of accepted answers. In a later generation, the change:
    prompts are subtracted under their earlier number, so that the sum over all shards is right."""
    checks: CountsByCheck = {}
    """Verdicts by check and teacher."""
    maybe_billed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = None
    unchecked_input_tokens: int = 0
    """Tokens of answers that a check could not judge, like the next two; negative if a later generation judges them."""
    unchecked_output_tokens: int = 0
    unchecked_usd: float = 0.0
    wasted_input_tokens: int = 0
    """Tokens of unusable replies that reported usage, like the next."""
    wasted_output_tokens: int = 0
    finish_words: dict[str, int] = {}
    """Unknown finish reasons, by the number of answers rejected for them."""
    tool_calls: int = 0
    """Records with tool calls."""
    late: int = 0
    """Failures whose answers took longer than `timeout_s`."""
    no_logprobs: int = 0
    """Records without the log-probabilities that were requested."""
    distillation_refusals: int = 0
    """Answers that refuse because the provider considers the request distillation of its model."""
    checks_usd: float | None = None
    """Cost of judges' verdicts; null if no judge has a price."""
    wasted_usd: float | None = None
    """Cost of unusable replies, by the usage that they reported; null if no price is known."""
    maybe_usd: float | None = None
    """The most that attempts without a reported cost can have cost; null if there is no bound."""
    spent: Expense = NOTHING
    """Everything asked for the chunk, as a budget counts it; empty in shards of earlier versions."""

    @property
    def cost(self) -> Expense:
        """`spent`; for shards of earlier versions, what they say about it."""
        answers = self.records + sum(self.rejected.values()) + sum(self.failed.values())
        if self.spent != NOTHING or not answers:
            return self.spent
        output = self.output_tokens + self.unchecked_output_tokens + self.wasted_output_tokens
        return Expense(answers + self.maybe_billed, max(0, output), nano_usd(max(0.0, self.paid_usd or 0.0)))

    @property
    def paid_usd(self) -> float | None:
        """Cost of all answers, judged or not; None if no price is known."""
        if self.usd is None and not self.unchecked_usd:
            return None
        return (self.usd or 0.0) + self.unchecked_usd

    def __add__(self, other: "ShardCounts") -> "ShardCounts":
        return ShardCounts(**{name: added(value, getattr(other, name)) for name, value in self})


class ShardMeta(BaseModel):
    """Metadata of a data shard."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    stillhouse: str
    """Stillhouse's version."""
    seal: str
    generation: int
    chunk: int
    identity: dict[str, Any]
    teachers: list[dict[str, Any]]
    """Name, model and terms of each teacher."""
    answered_as: dict[str, list[str]] = {}
    """By teacher, the models that its answers named; there may be more than `MOST_MODELS`."""
    asked_online: tuple[str, ...] = ()
    """Record ids of answers that no check could judge, and that were asked online because no batch had answered
    (`mode: batch-then-online`): should they be judged later, they cost what is asked online."""
    side: dict[str, SideFile]
    """The files rejected, failed and raw, if they exist."""
    counts: ShardCounts


_READERS = 16


def read_metas(store: ReadableStore, chunks: Iterable[ChunkId]) -> Iterator[tuple[ChunkId, ShardMeta]]:
    """The metadata of each chunk's shard.

    Raises:
        DatasetError: a shard is damaged.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(lambda chunk: (chunk, read_meta(store, chunk)), chunks)


def read_meta(store: ReadableStore, chunk: ChunkId) -> ShardMeta:
    """The metadata of a chunk's shard.

    Raises:
        DatasetError: the shard is missing or damaged.
    """
    import pyarrow.parquet as pq  # takes a while, and counts are imported where no shard is read

    with reporting_damage(store, chunk.data_key):
        with store.open(chunk.data_key) as file:
            metadata = pq.read_metadata(file).metadata or {}
        return ShardMeta.model_validate(orjson.loads(metadata[META_KEY.encode()]))
