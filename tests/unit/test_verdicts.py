"""Rules on the reply itself: which one rejects an answer that breaks several."""

import pytest

from stillhouse.gen.teachers.outcome import Policy
from stillhouse.gen.worker.verdicts import RULES, rejected_by_rules
from stillhouse.schemas.arrow import Calls
from stillhouse.schemas.completion import Completion, Usage
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.record import RejectReason

LONG = Prompt("a", b"", (("user", "word " * 2000),), ())
BROKEN = Completion(" ", "length", "length", tool_calls="[{}]", markup=True, usage=Usage(input_tokens=5))
"""It breaks every rule but the one of emptiness, for it calls a tool."""


def test_the_first_rule_that_rejects_gives_the_reason() -> None:
    """In the order of the table: how it ends says more than that it is empty."""
    assert [rule(BROKEN, LONG, "inside") for rule in RULES] == [
        "length",
        "prompt_truncated",
        None,
        "markup",
        "invalid_tool_call",
    ]
    assert rejected_by_rules(BROKEN, LONG, calls="beside") == "length"


@pytest.mark.parametrize(
    ("text", "reasoning", "calls", "reason"),
    [
        ("four", None, None, None),
        (None, None, "[{}]", None),
        (" \n", "hm", "[{}]", None),
        (" \n", "hm", None, "only_reasoning"),
        (None, None, None, "empty"),
    ],
)
def test_an_answer_needs_text_or_a_call(
    text: str | None, reasoning: str | None, calls: str | None, reason: RejectReason | None
) -> None:
    """White space is not text, and reasoning is not an answer."""
    completion = Completion(text, "stop", "stop", reasoning=reasoning, tool_calls=calls)
    assert rejected_by_rules(completion, LONG, calls="beside") == reason


def test_a_low_token_count_means_that_a_long_prompt_was_cut() -> None:
    """A teacher that reports no usage is believed."""
    whole = Completion("four", "stop", "stop", usage=Usage(input_tokens=1000))
    assert rejected_by_rules(whole, LONG, calls="beside") is None
    assert rejected_by_rules(whole._replace(usage=Usage(input_tokens=999)), LONG, calls="beside") == "prompt_truncated"
    assert rejected_by_rules(whole._replace(usage=Usage()), LONG, calls="beside") is None


def test_a_refusal_by_an_error_counts_as_refused() -> None:
    """Like one that came as an answer."""
    assert rejected_by_rules(Policy("no", 400), LONG, calls="beside") == "refused"


@pytest.mark.parametrize(
    ("sent", "calls", "reason"),
    [
        ('[{"function": {"name": "f"}}]', "inside", None),
        ('[{"function": {"name": "f"}}]', "nowhere", "unasked_tool_call"),
        ("[{}]", "inside", "invalid_tool_call"),
        ("[{}]", "beside", None),
        (None, "inside", None),
    ],
)
def test_a_call_needs_a_column_for_it(sent: str | None, calls: Calls, reason: RejectReason | None) -> None:
    """Also if there is text too; datasets of the first two schema versions keep calls as they came."""
    assert rejected_by_rules(Completion("Let me look.", "stop", "stop", tool_calls=sent), LONG, calls=calls) == reason
