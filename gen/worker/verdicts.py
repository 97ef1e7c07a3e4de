"""The verdict on an answer, in three stages, each only for what the one before let pass.

Rules come first, on the reply itself: how it ends, whether its prompt was cut, whether it is empty, has markup, or
calls tools that its record has no place for. They are pure and need no frame: every reader of the journal applies them
again, so that a recipe whose `finish_reasons` or `thinking` was corrected judges answers already paid for once more.

Checks are the recipe's own. Only their verdicts are VERDICT frames, written before anything acts on them.

Equality comes last: equal answers to one prompt are kept once, which is decided at the seal, where all are known.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from stillhouse.gen.teachers.apart import APART, is_apart
from stillhouse.gen.teachers.outcome import Policy
from stillhouse.gen.teachers.tool_calls import calls_in
from stillhouse.schemas.arrow import Calls
from stillhouse.schemas.completion import Completion, Usage
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.record import RejectReason
from stillhouse.schemas.tool import Tool

Rule: TypeAlias = Callable[[Completion, Prompt, Calls], RejectReason | None]
"""Why the answer to this prompt is not training data by itself, or None; Calls: where its dataset keeps them."""

TRUNCATION_WORDS = 1000
"""Shorter prompts are not checked for silent truncation."""

_REJECTED_FINISH: dict[str, RejectReason] = {
    "length": "length",
    "content_filter": "content_filter",
    "refused": "refused",
    "unknown": "unknown_finish",
}


def finish(completion: Completion, prompt: Prompt, calls: Calls) -> RejectReason | None:
    """Reject an answer that did not end by being complete."""
    return _REJECTED_FINISH.get(completion.finish_reason)


def truncation(completion: Completion, prompt: Prompt, calls: Calls) -> RejectReason | None:
    """The teacher read far less than it was sent (Ollama cuts long prompts silently).

    No tokenizer in use makes fewer tokens than half the words of a long text.
    """
    return "prompt_truncated" if _is_truncated(prompt, completion.usage) else None


def emptiness(completion: Completion, prompt: Prompt, calls: Calls) -> RejectReason | None:
    """There is neither text nor a tool call; scores have neither."""
    if prompt.scored is not None:
        return None
    if completion.tool_calls or (completion.text and not completion.text.isspace()):
        return None
    return "only_reasoning" if completion.reasoning else "empty"


def markup(completion: Completion, prompt: Prompt, calls: Calls) -> RejectReason | None:
    """Tags of reasoning or special tokens are left in its text."""
    return "markup" if completion.markup else None


def tool_calls(completion: Completion, prompt: Prompt, calls: Calls) -> RejectReason | None:
    """Its message would lack its calls, and a student would learn the rest of the answer, or nothing, in their
    place."""
    if completion.tool_calls is None or calls == "beside":
        return None
    if calls == "nowhere":
        return "unasked_tool_call"
    wire = completion.tool_calls
    return APART.call(_misfit, wire, prompt.tools) if is_apart(len(wire)) else _misfit(wire, prompt.tools)


def _misfit(wire: str, tools: Sequence[Tool] | None) -> RejectReason | None:
    """Why the calls are not training data. `tools`: those that were offered; None: any may be called."""
    if (calls := calls_in(wire)) is None:
        return "invalid_tool_call"
    by_name = {tool.name: tool for tool in tools or ()}
    for call in calls if tools is not None else ():
        if (tool := by_name.get(call.name)) is None:
            return "unknown_tool"
        if tool.fault_in(call.arguments) is not None:
            return "invalid_arguments"
    return None


RULES: tuple[Rule, ...] = (finish, truncation, emptiness, markup, tool_calls)
"""The rules in order: the first one that rejects gives the reason."""


def rejected_by_rules(outcome: Completion | Policy, prompt: Prompt, *, calls: Calls) -> RejectReason | None:
    """Why a settled answer is not training data by itself, or None; a refusal by error is refused like any other.

    `calls`: where its dataset keeps tool calls.
    """
    if isinstance(outcome, Policy):
        return "refused"
    for rule in RULES:
        if (reason := rule(outcome, prompt, calls)) is not None:
            return reason
    return None


def _is_truncated(prompt: Prompt, usage: Usage) -> bool:
    if usage.input_tokens is None or prompt.chars < 2 * TRUNCATION_WORDS:
        return False
    words = sum(len(message[1].split()) for message in prompt.messages)
    return words >= TRUNCATION_WORDS and usage.input_tokens < words / 2
