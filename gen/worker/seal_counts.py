"""Counts what a seal writes, sample by sample, so that the shard's metadata shows it without its rows."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from stillhouse.gen.checks.base import CheckResult, Verdict
from stillhouse.gen.dataset.chunk import Chunk
from stillhouse.gen.dataset.shard_meta import MOST_MODELS, CheckCounts, ShardCounts
from stillhouse.gen.teachers.distillation import is_distillation
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.retry import GiveUp, Tries
from stillhouse.gen.teachers.transport import LATE
from stillhouse.gen.worker.spending import Spending
from stillhouse.schemas.completion import Completion

MOST_WORDS = 50
"""Maximum number of unknown finish reasons counted separately in a shard; an answer may name any."""
MOST_WORD_CHARS = 60


class SealCounts:
    """Counts samples; `total` gives the result."""

    def __init__(self, chunk: Chunk, spending: Spending) -> None:
        self.models: dict[str, set[str]] = {}
        """Models by teacher, as its answers name them."""
        self.not_needed = 0
        self._chunk = chunk
        self._spending = spending
        self.rejected: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._maybe_billed = self._input = self._output = self._wasted_input = self._wasted_output = 0
        self._usd: float | None = None
        self._unchecked_input = self._unchecked_output = 0
        self._unchecked_usd = 0.0
        self._finish_words: Counter[str] = Counter()
        self._tool_calls = self._unlabelled = self._distillation_refusals = self._late = 0
        self._by_accepted: Counter[int] = Counter()
        self._checks: Counter[tuple[str, str, Literal["accepted", "rejected", "unchecked"]]] = Counter()

    def sample(self, tries: Tries) -> None:
        """A sample, whatever its outcome."""
        self._maybe_billed += tries.maybe_billed
        self._wasted_input += tries.wasted_input
        self._wasted_output += tries.wasted_output

    def failure(self, reason: GiveUp) -> None:
        """A sample given up on."""
        self.failed[reason.kind] += 1
        self._late += reason.message.startswith(LATE)

    def answer(self, teacher: Interpreter, completion: Completion, reason: str | None) -> None:
        """An answer and its cost, kept or rejected for this reason."""
        self._input += completion.usage.input_tokens or 0
        self._output += completion.usage.output_tokens or 0
        if (usd := teacher.cost_usd(completion)) is not None:
            self._usd = (self._usd or 0.0) + usd
        known = self.models.setdefault(teacher.teacher.name, set())
        if completion.model is not None and len(known) < MOST_MODELS:
            known.add(completion.model)
        self._distillation_refusals += is_distillation(completion)
        if reason is None:
            self._tool_calls += completion.tool_calls is not None
            self._unlabelled += not teacher.wants_logprobs and completion.scores is None
        elif reason == "unknown_finish" and len(self._finish_words) < MOST_WORDS:
            self._finish_words[(completion.finish_reason_raw or "none")[:MOST_WORD_CHARS]] += 1

    def unchecked(self, teacher: Interpreter, completion: Completion, *, sign: Literal[1, -1] = 1) -> None:
        """Count an answer that no check could judge; with -1, take out one that an earlier shard counted so."""
        self._unchecked_input += sign * (completion.usage.input_tokens or 0)
        self._unchecked_output += sign * (completion.usage.output_tokens or 0)
        self._unchecked_usd += sign * (teacher.cost_usd(completion) or 0.0)

    def verdicts(self, teacher: str, verdicts: Sequence[Verdict]) -> None:
        """The checks' verdicts on one of the teacher's answers."""
        for check, verdict in zip(self._chunk.columns.checks, verdicts, strict=False):
            if isinstance(verdict, CheckResult):
                self._checks[check, teacher, "accepted" if verdict.accepted else "rejected"] += 1
            else:
                self._checks[check, teacher, "unchecked"] += 1

    def series(self, number: int, *, need: int, accepted: int) -> None:
        """Under `ask.accept`: a series that lacked `need` accepted answers, and that has this many in this chunk."""
        before = self._chunk.accept - need
        if number in self._chunk.retried:
            self._by_accepted[before] -= 1
        self._by_accepted[before + accepted] += 1

    def total(self, *, records: int, no_logprobs: int) -> ShardCounts:
        """The sum of all counts. `no_logprobs`: records without log-probabilities, requested or not. Those in a reply
        are parsed when they become columns, so only then is it known if they can be read."""
        kinds = (kind for retried in self._chunk.retried.values() for kind in retried.kinds.values())
        return ShardCounts(
            records=records,
            rejected=dict(self.rejected),
            failed=dict(self.failed),
            retried=dict(Counter(kind for kind in kinds if kind is not None)),
            not_needed=self.not_needed,
            prompts_by_accepted={count: prompts for count, prompts in sorted(self._by_accepted.items()) if prompts},
            checks=self._by_check(),
            maybe_billed=self._maybe_billed,
            input_tokens=self._input,
            output_tokens=self._output,
            usd=self._usd,
            unchecked_input_tokens=self._unchecked_input,
            unchecked_output_tokens=self._unchecked_output,
            unchecked_usd=self._unchecked_usd,
            wasted_input_tokens=self._wasted_input,
            wasted_output_tokens=self._wasted_output,
            finish_words=dict(self._finish_words),
            tool_calls=self._tool_calls,
            late=self._late,
            no_logprobs=max(0, no_logprobs - self._unlabelled),
            distillation_refusals=self._distillation_refusals,
            checks_usd=self._spending.checks_usd,
            wasted_usd=self._spending.wasted_usd,
            maybe_usd=self._spending.maybe_usd,
            spent=self._spending.total,
        )

    def _by_check(self) -> dict[str, dict[str, CheckCounts]]:
        found: dict[str, dict[str, CheckCounts]] = {check: {} for check in self._chunk.columns.checks}
        for (check, teacher, what), count in self._checks.items():
            known = found[check].get(teacher, CheckCounts())
            found[check][teacher] = known + CheckCounts(**{what: count})
        return found
