"""Rows of the stored files, by column name; a file's schema picks from them, so only the schema decides the order."""

from collections.abc import Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, TypeAlias

from stillhouse.gen.checks.base import CheckResult, Verdict
from stillhouse.gen.dataset.chunk import BadRow, Duplicate
from stillhouse.gen.journal.frames import Frame
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.outcome import Policy
from stillhouse.gen.teachers.retry import GiveUp, Tries
from stillhouse.gen.teachers.tool_calls import tool_calls_in
from stillhouse.schemas.arrow import Columns
from stillhouse.schemas.columns import LOGPROBS, SCORES
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.failure import BODY_HEAD_CHARS, WHAT_TO_DO
from stillhouse.schemas.inline_reasoning import with_reasoning
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.tool_call import ToolCall

Row: TypeAlias = tuple[Any, ...]

_MOST = 2**15 - 1
"""The columns of attempts are int16; a sample that waits for limits for days may have more."""

ImageCell: TypeAlias = dict[str, Any]
"""{bytes, path}, the form in which `datasets` stores an image."""

AnswerMessage: TypeAlias = tuple[str, str, tuple[ToolCall, ...] | None]
"""(role, content, tool calls); None: it calls none, or its dataset does not keep calls inside messages."""


class Form:
    """How a dataset writes its rows: which columns it has, in which order, and the form of its messages."""

    def __init__(self, columns: Columns, *, inline: bool) -> None:
        """`columns`: without the kept ones. `inline`: the reasoning is at the start of the text."""
        self.columns = columns
        self.inline = inline
        names = columns.data.names
        self.labels = next((name for name in ("token_logprobs", LOGPROBS) if name in names), None)
        """The column of log-probabilities, if there is one."""
        self.data = itemgetter(*names)
        """Picks the values of a row from those of all columns."""
        self.rejected = itemgetter(*columns.rejected.names)
        self.failed = itemgetter(*columns.failed.names)
        self.raw = itemgetter(*columns.raw.names)

    def message(self, completion: Completion) -> AnswerMessage | None:
        """The assistant's message; None if there is neither text nor a call."""
        text = completion.text
        if self.inline and completion.reasoning is not None:
            text = with_reasoning(completion.reasoning, text or "")
        if text is None and not completion.tool_calls:
            return None
        calls = tool_calls_in(completion.tool_calls) if self.columns.calls == "inside" else None
        return "assistant", text or "", calls or None

    def scores(self, completion: Completion) -> dict[str, Any]:
        """The values of the columns with log-probabilities; those of new datasets are built from many answers at
        once."""
        if self.labels == LOGPROBS:
            return {LOGPROBS: completion.logprobs}
        return {} if self.labels is None else dict.fromkeys(SCORES, completion.scores)

    def verdicts(self, verdicts: Sequence[Verdict]) -> dict[str, dict[str, Any] | None]:
        """The value of the column `checks`."""
        found: dict[str, dict[str, Any] | None] = dict.fromkeys(self.columns.checks)
        for name, verdict in zip(self.columns.checks, verdicts, strict=False):
            if isinstance(verdict, CheckResult):
                detail = verdict.detail.encode("utf-8", "replace").decode()
                own = verdict.own or {}
                found[name] = {"accepted": verdict.accepted, "score": verdict.score, "detail": detail, **own}
        return found

    def duplicate_prompt(self, duplicate: Duplicate) -> Row:
        """The row in rejected/ of a source row whose prompt is asked under another id."""
        prompt = duplicate.prompt
        values = dict.fromkeys(self.columns.rejected.names) | {
            "prompt_id": prompt.id,
            "prompt_key": prompt.key.hex(),
            "prompt": prompt.messages,
            "prompt_ids": None if prompt.scored is None else prompt.scored.prompt,
            "completion_ids": None if prompt.scored is None else prompt.scored.completion,
            "reject_reason": "duplicate_prompt",
            "duplicate_of": duplicate.duplicate_of,
        }
        return (*self.rejected(values), *prompt.kept)

    def bad_row(self, bad: BadRow, *, kept: int) -> Row:
        """The row in failed/ of a source row that doesn't make a prompt."""
        values = dict.fromkeys(self.columns.failed.names) | {
            "prompt_id": bad.prompt_id,
            "kind": "bad_row",
            "message": bad.message,
            "attempts": 0,
            "maybe_billed": 0,
            "file": bad.file,
            "line": bad.line,
        }
        return (*self.failed(values), *(None,) * kept)


class SampleRows:
    """Makes the rows of one sample."""

    def __init__(
        self,
        prompt: Prompt,
        sample: int,
        teacher: Interpreter,
        tries: Tries,
        form: Form,
        *,
        images: Sequence[ImageCell] | None = None,
    ) -> None:
        """`images`: the value of the column of that name, if the dataset has it."""
        self._prompt = prompt
        self._images = images
        self._tools = None if prompt.tools is None else [tool.text for tool in prompt.tools]
        self._sample = sample
        self._teacher = teacher
        self._form = form
        self._attempts = min(tries.attempts, _MOST)
        self._maybe_billed = min(tries.maybe_billed, _MOST)
        self.record_id = teacher.ids.of(prompt.key, sample)

    def record(
        self,
        frame: Frame,
        completion: Completion,
        verdicts: Sequence[Verdict] = (),
        *,
        vote_share: float | None = None,
    ) -> Row:
        """The row of data/."""
        values = self._answer(frame, completion)
        values["vote_share"] = vote_share
        if self._form.columns.checks:
            values["checks"] = self._form.verdicts(verdicts)
        if self._form.columns.has_messages:
            completed = values["completion"]
            values["messages"] = None if completed is None else (*self._prompt.messages, *completed)
        return (*self._form.data(values), *self._prompt.kept)

    def rejected(
        self,
        frame: Frame,
        outcome: Completion | Policy,
        reason: str,
        verdicts: Sequence[Verdict] = (),
        *,
        of: str | None = None,
        vote_share: float | None = None,
    ) -> Row:
        """The row of rejected/; a refusal by error has no completion. `of`: the equal answer that is kept."""
        if isinstance(outcome, Policy):
            outcome = Completion(None, "refused", None, refusal=outcome.message)
        values = self._answer(frame, outcome)
        values["reject_reason"], values["duplicate_of"], values["vote_share"] = reason, of, vote_share
        if self._form.columns.checks:
            values["checks"] = self._form.verdicts(verdicts) if verdicts else None
        return (*self._form.rejected(values), *self._prompt.kept)

    def _answer(self, frame: Frame, completion: Completion) -> dict[str, Any]:
        """The columns that records and rejected answers share."""
        usage = completion.usage
        message, scored = self._form.message(completion), self._prompt.scored
        return {
            "record_id": self.record_id,
            "prompt_id": self._prompt.id,
            "prompt_key": self._prompt.key.hex(),
            "sample": self._sample,
            "prompt": self._prompt.messages,
            "images": self._images,
            "tools": self._tools,
            "prompt_ids": None if scored is None else scored.prompt,
            "completion_ids": None if scored is None else scored.completion,
            "completion": None if message is None else (message,),
            "reasoning": None if self._form.inline else completion.reasoning,
            "reasoning_source": completion.reasoning_source,
            "reasoning_is_summary": completion.reasoning_is_summary,
            "reasoning_signatures": completion.reasoning_signatures,
            "finish_reason": completion.finish_reason,
            "finish_reason_raw": completion.finish_reason_raw,
            "tool_calls": completion.tool_calls,
            "refusal": completion.refusal,
            "refusal_category": completion.refusal_category,
            **self._form.scores(completion),
            "teacher": self._teacher.teacher.name,
            "model": completion.model,
            "endpoint": frame.endpoint,
            "response_id": completion.response_id,
            "input_tokens": usage.input_tokens,
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "output_tokens": usage.output_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
            "cost_usd": self._teacher.cost_usd(completion),
            "asked_at": int(frame.at * 1e6),
            "latency_s": frame.latency_s,
            "attempts": self._attempts,
        }

    def failed(self, frame: Frame | None, reason: GiveUp) -> Row:
        """The row of failed/."""
        body = frame.body[: 4 * BODY_HEAD_CHARS].decode("utf-8", "replace")[:BODY_HEAD_CHARS] if frame else None
        values = {
            "record_id": self.record_id,
            "prompt_id": self._prompt.id,
            "prompt_key": self._prompt.key.hex(),
            "sample": self._sample,
            "prompt": self._prompt.messages or None,
            "teacher": self._teacher.teacher.name,
            "endpoint": frame.endpoint if frame else None,
            "kind": reason.kind,
            "status": reason.status,
            "message": f"{_sentence(reason.message)} {WHAT_TO_DO[reason.kind]}",
            "body_head": self._teacher.redact(body) if body is not None else None,
            "attempts": self._attempts,
            "maybe_billed": self._maybe_billed,
            "failed_at": datetime.fromtimestamp(frame.at, UTC) if frame else None,
            "file": None,
            "line": None,
        }
        return (*self._form.failed(values), *self._prompt.kept)

    def raw(self, frame: Frame) -> Row:
        """The row of raw/."""
        values = {
            "record_id": self.record_id,
            "attempt": self._attempts,
            "status": frame.status,
            "endpoint": frame.endpoint,
            "received_at": int((frame.at + frame.latency_s) * 1e6),
            "body": frame.body,
        }
        return tuple(self._form.raw(values))


def _sentence(message: str) -> str:
    said = message.rstrip()
    return said if said.endswith((".", "!", "?")) else f"{said}."
