"""Rows of the stored files as tuples in their schemas' order."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from stillhouse.gen.dataset.chunk import BadRow, Duplicate
from stillhouse.gen.journal.frames import Frame
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.outcome import Policy
from stillhouse.gen.teachers.retry import GiveUp, Tries
from stillhouse.gen.worker.tool_calls import ToolCall, tool_calls_in
from stillhouse.schemas.arrow import Columns
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.failure import BODY_HEAD_CHARS, WHAT_TO_DO
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.record import RejectReason

Row: TypeAlias = tuple[Any, ...]

_MOST = 2**15 - 1
"""The columns of attempts are int16; what waits for limits for days may have more."""

AnswerMessage: TypeAlias = tuple[str, str, tuple[ToolCall, ...] | None]
"""(role, content, tool calls); None: it calls none, or its dataset does not keep calls inside messages."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a dataset writes its answers."""

    columns: Columns
    inline: bool
    """True if the reasoning stands at the head of the text."""

    def message(self, completion: Completion) -> AnswerMessage | None:
        """The assistant's message; None if there is neither text nor a call."""
        text = completion.text
        if self.inline and completion.reasoning is not None:
            text = f"<think>\n{completion.reasoning}\n</think>\n\n{text or ''}"
        if text is None and not completion.tool_calls:
            return None
        calls = tool_calls_in(completion.tool_calls) if self.columns.calls == "inside" else None
        return "assistant", text or "", calls or None


class SampleRows:
    """Makes the rows of one sample."""

    def __init__(self, prompt: Prompt, sample: int, teacher: Interpreter, tries: Tries) -> None:
        self._prompt = prompt
        self._teacher = teacher
        self._attempts = min(tries.attempts, _MOST)
        self._maybe_billed = min(tries.maybe_billed, _MOST)
        self.record_id = teacher.ids.of(prompt.key, sample)
        self._head = (self.record_id, prompt.id, prompt.key.hex(), sample, prompt.messages)

    def record(self, frame: Frame, completion: Completion, form: Form) -> Row:
        """The row of data/."""
        message = form.message(completion)
        answer = self._answer(frame, completion, message, form)
        if form.columns.has_messages:
            conversation = None if message is None else (*self._prompt.messages, message)
            answer = (*answer[: _COMPLETION + 1], conversation, *answer[_COMPLETION + 1 :])
        return (*answer, *self._prompt.kept)

    def rejected(
        self, frame: Frame, outcome: Completion | Policy, reason: RejectReason, form: Form, *, of: str | None = None
    ) -> Row:
        """The row of rejected/; a refusal by error has no completion."""
        if isinstance(outcome, Policy):
            outcome = Completion(None, "refused", None, refusal=outcome.message)
        return (*self._answer(frame, outcome, form.message(outcome), form), reason, of, *self._prompt.kept)

    def _answer(self, frame: Frame, completion: Completion, message: AnswerMessage | None, form: Form) -> Row:
        usage = completion.usage
        return (
            *self._head,
            None if message is None else (message,),
            None if form.inline else completion.reasoning,
            completion.reasoning_source,
            completion.finish_reason,
            completion.finish_reason_raw,
            completion.tool_calls,
            completion.refusal,
            completion.logprobs,
            self._teacher.teacher.name,
            completion.model,
            frame.endpoint,
            completion.response_id,
            usage.input_tokens,
            usage.cached_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
            self._teacher.cost_usd(completion),
            int(frame.at * 1e6),
            frame.latency_s,
            self._attempts,
        )

    def failed(self, frame: Frame | None, reason: GiveUp) -> Row:
        """The row of failed/."""
        body = frame.body[: 4 * BODY_HEAD_CHARS].decode("utf-8", "replace")[:BODY_HEAD_CHARS] if frame else None
        return (
            *self._head,
            self._teacher.teacher.name,
            frame.endpoint if frame else None,
            reason.kind,
            reason.status,
            f"{_sentence(reason.message)} {WHAT_TO_DO[reason.kind]}",
            self._teacher.redact(body) if body is not None else None,
            self._attempts,
            self._maybe_billed,
            datetime.fromtimestamp(frame.at, UTC) if frame else None,
            None,
            None,
            *self._prompt.kept,
        )

    def raw(self, frame: Frame) -> Row:
        """The row of raw/."""
        received = int((frame.at + frame.latency_s) * 1e6)
        return (self.record_id, self._attempts, frame.status, frame.endpoint, received, frame.body)


def _sentence(message: str) -> str:
    said = message.rstrip()
    return said if said.endswith((".", "!", "?")) else f"{said}."


_COMPLETION = 5
"""Place of the column `completion`."""

_NO_ANSWER = (None,) * 20
"""The columns of a record from `completion` on."""


def duplicate_prompt(duplicate: Duplicate) -> Row:
    """The row in rejected/ of a source row whose prompt is asked under another id."""
    prompt = duplicate.prompt
    head = (None, prompt.id, prompt.key.hex(), None, prompt.messages)
    return (*head, *_NO_ANSWER, "duplicate_prompt", duplicate.duplicate_of, *prompt.kept)


def bad_row(bad: BadRow, *, kept: int) -> Row:
    """The row in failed/ of a source row that is no prompt."""
    place = (None, bad.file, bad.line)
    return (None, bad.prompt_id, *(None,) * 5, "bad_row", None, bad.message, None, 0, 0, *place, *(None,) * kept)
