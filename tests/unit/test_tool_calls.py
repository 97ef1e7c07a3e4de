"""Tool calls: whatever shape they come in, a record holds what was called, or its answer is rejected."""

import json
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.columns import column
from stillhouse.gen.worker.rows import Form
from stillhouse.gen.worker.verdicts import rejected_by_rules
from stillhouse.schemas.arrow import columns_of
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.teacher import Teacher
from stillhouse.schemas.version import SCHEMA_VERSION

READER = Interpreter(Teacher.model_validate({"name": "t", "api": "simulator"}), Ask())
COLUMNS = columns_of(SCHEMA_VERSION, {"ask": {"extra": {"tools": [{}]}}})
PROMPT = Prompt("a", b"", (("user", "hi"),), ())

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(TEXTS, VALUES, max_size=3)


def stored(message: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The calls in the column `completion` of a record whose answer is this message; None if it is rejected."""
    body = json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]}).encode()
    outcome = READER.read(Reply(200, {}, body))
    if not isinstance(outcome, Completion) or rejected_by_rules(outcome, PROMPT, calls="inside") is not None:
        return None
    said = Form(COLUMNS, inline=False).message(outcome)
    cells = column([None if said is None else (said,), None], COLUMNS.data.field("completion"))
    cells.validate(full=True)
    pa.table({"completion": cells})
    return cells.to_pylist()[0][0]["tool_calls"]  # type: ignore[no-any-return]


def in_wire_form(data: st.DataObject, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The call as one server or another sends it."""
    function = {"name": name, "arguments": arguments if data.draw(st.booleans()) else json.dumps(arguments)}
    return {"function": function} | data.draw(st.sampled_from([{}, {"id": "c1", "type": "function"}, {"index": 0}]))


@given(data=st.data(), calls=st.lists(st.tuples(TEXTS.filter(bool), ARGUMENTS), min_size=1, max_size=3))
def test_a_call_is_stored_verbatim(data: st.DataObject, calls: list[tuple[str, dict[str, Any]]]) -> None:
    """Arguments as text or as an object, with or without an id or text, and in the older form."""
    wire = [in_wire_form(data, name, arguments) for name, arguments in calls]
    message = {"content": data.draw(st.sampled_from([None, "", "Let me look."])), "tool_calls": wire}
    if len(wire) == 1 and data.draw(st.booleans()):
        message = {"content": None, "function_call": wire[0]["function"]}
    found = stored(message)
    assert found is not None
    assert [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in found] == calls


NO_CALLS = VALUES | st.fixed_dictionaries({"function": VALUES | st.fixed_dictionaries({"name": VALUES})})


@given(calls=st.lists(NO_CALLS, max_size=3))
def test_odd_calls_are_stored_or_rejected(calls: list[Any]) -> None:
    """Nothing raises; what is stored is as many calls as there were."""
    found = stored({"content": "See:", "tool_calls": calls})
    assert len(found or ()) in (0, len(calls))


def test_large_numbers_in_a_text_are_unchanged() -> None:
    """The arguments' text is the teacher's, digit for digit."""
    text = '{"n": 123456789012345678901234567890, "x": 1.10}'
    found = stored({"content": None, "tool_calls": [{"function": {"name": "f", "arguments": text}}]})
    assert found is not None
    assert found[0]["function"]["arguments"] == text
