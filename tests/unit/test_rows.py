"""The rows of what is stored: every sample is in one file, once, with everything known about it."""

import datetime
import decimal
import json
import typing
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import (
    FIRST,
    answer,
    body_of,
    chunk_of,
    index,
    left_by_others,
    open_chunk,
    questions,
    recipe_of,
    sealed,
    waiting,
)

from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.shard_meta import ShardCounts, ShardMeta
from stillhouse.gen.errors import UsageError
from stillhouse.gen.journal.frames import Frame, Kind
from stillhouse.gen.teachers.expense import Expense
from stillhouse.gen.teachers.outcome import Ambiguous, NoConnection
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.rows import Form
from stillhouse.schemas.arrow import FAILED, RECORD, REJECTED, columns_of
from stillhouse.schemas.columns import MESSAGES_WITH_CALLS, RECORD_COLUMNS, SCORES
from stillhouse.schemas.identity import wants_scores
from stillhouse.schemas.record import Record, RejectReason
from stillhouse.schemas.version import SCHEMA_VERSION

PRICE = {"input": 1.0, "output": 2.0}


def seal_answers(tmp_path: Path, *bodies: bytes, **changes: Any) -> tuple[ShardMeta, dict[str, list[dict[str, Any]]]]:
    """One prompt a body, sealed."""
    recipe, held = chunk_of(tmp_path, questions(len(bodies)), **changes)
    for ordinal, body in enumerate(bodies):
        answer(held, ordinal, body)
    return sealed(recipe, held)


def test_one_table_declares_the_columns() -> None:
    """The Arrow schemas and the model of a row follow it, in order and nullability; each column has a meaning."""
    plain = [column for column in RECORD_COLUMNS if column.always]
    assert RECORD.names == [column.name for column in plain] == list(Record.model_fields)
    for column in plain:
        described = Record.model_fields[column.name]
        assert (
            RECORD.field(column.name).nullable == column.null == (type(None) in typing.get_args(described.annotation))
        )
        assert described.description == column.meaning
        assert column.meaning.endswith(".")
    assert REJECTED.names == [*RECORD.names, "reject_reason", "duplicate_of"]
    assert [field.type for field in REJECTED][:-2] == [field.type for field in RECORD]


def test_a_dataset_has_the_optional_columns_that_its_recipe_asks_for() -> None:
    """In the table's order; with tools, each conversation of the assistant has their calls."""
    details = {"messages": True, "provider_details": True}
    vote = {"majority": {"answer": "exact"}}
    source: dict[str, object] = {"images": ["image"], "tools": "t"}
    soft = {"top_logprobs": 0}
    identity = recipe_of(Path("/data"), source=source, ask=soft, dataset=details, select=vote).identity()
    columns = columns_of(SCHEMA_VERSION, identity)
    others = {"logprobs", "prompt_ids", "completion_ids"}
    assert columns.data.names == [column.name for column in RECORD_COLUMNS if column.name not in others]
    both = [name for name in columns.data.names if name != "messages"]
    assert columns.rejected.names == [*both, "reject_reason", "duplicate_of"]
    assert columns_of(SCHEMA_VERSION, {}).data == RECORD
    assert set(RECORD.names) | {"logprobs"} == set(columns_of(1, identity).data.names)
    assert set(columns.data.names) ^ set(columns_of(3, identity).data.names) == {*SCORES, "logprobs"}
    offers: tuple[dict[str, Any], ...] = (
        {"ask": {"extra": {"tools": [{}]}}},
        {"teachers": [{"extra": {"toolConfig": {"tools": [{}]}}}]},
    )
    for offer in offers:
        assert columns_of(SCHEMA_VERSION, identity | offer).calls == "inside"
    tools = columns_of(SCHEMA_VERSION, identity | {"ask": {"extra": {"tools": [{}]}}})
    assert [field.name for field in tools.data if field.type == MESSAGES_WITH_CALLS] == ["completion", "messages"]


def test_a_record_holds_the_question_and_the_answer(tmp_path: Path) -> None:
    """Every column, and the row is a Record."""
    body = body_of("Four.", reasoning_content="Two and two.")
    recipe, held = chunk_of(
        tmp_path,
        questions(1),
        ask={"system": "Be brief.", "temperature": 0.5},
        teachers=[{"name": "sim", "api": "simulator", "price": PRICE}],
    )
    answer(held, 0, b"", status=500, at=1_700_000_000.0)
    answer(held, 0, body, at=1_700_000_001.25)
    meta, files = sealed(recipe, held)
    (row,) = files["data"]
    Record.model_validate(row)
    assert row == {
        "record_id": held.samples.teacher(0).ids.of(held.samples.prompt(0).key, 0),
        "prompt_id": "q0",
        "prompt_key": held.samples.prompt(0).key.hex(),
        "sample": 0,
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "what is 0 + 1?"}],
        "completion": [{"role": "assistant", "content": "Four."}],
        "reasoning": "Two and two.",
        "reasoning_source": "reasoning_content",
        "finish_reason": "stop",
        "finish_reason_raw": "stop",
        "tool_calls": None,
        "refusal": None,
        "teacher": "sim",
        "model": "simulator",
        "endpoint": "127.0.0.1:9",
        "response_id": "chatcmpl-1",
        "input_tokens": 5,
        "cached_tokens": None,
        "output_tokens": 7,
        "reasoning_tokens": None,
        "cost_usd": 19e-6,
        "asked_at": datetime.datetime(2023, 11, 14, 22, 13, 21, 250_000, tzinfo=datetime.UTC),
        "latency_s": 0.5,
        "attempts": 2,
    }
    assert meta.counts == ShardCounts(
        records=1,
        input_tokens=5,
        output_tokens=7,
        usd=19e-6,
        wasted_usd=0.0,
        maybe_usd=0.0,
        spent=Expense(2, 7, 19_000),
    )
    (raw,) = files["raw"]
    assert (raw["record_id"], raw["attempt"], raw["status"], raw["body"]) == (row["record_id"], 2, 200, body)
    assert raw["received_at"] - row["asked_at"] == datetime.timedelta(seconds=0.5)


CALL = {"id": "c1", "type": "function", "function": {"name": "get_time", "arguments": '{"zone": "utc"}'}}
TOOLS = {"extra": {"tools": [{"type": "function", "function": {"name": "get_time"}}]}}

LONG = " ".join(["word"] * 1500)


REJECTS: list[tuple[RejectReason, bytes, int]] = [
    ("length", body_of("half an ans", finish="length"), 200),
    ("content_filter", body_of(None, finish="content_filter"), 200),
    ("refused", body_of(None, refusal="I can't."), 200),
    ("refused", b'{"error": {"message": "flagged", "code": "content_policy_violation"}}', 400),
    ("empty", body_of(" \n"), 200),
    ("only_reasoning", body_of("", reasoning="Six sevens make 42."), 200),
    ("only_reasoning", body_of("<think>\nSix sevens make 42.\n</think>\n"), 200),
    ("markup", body_of("42<|im_end|>"), 200),
    ("unknown_finish", body_of("weird", finish="weird"), 200),
    ("prompt_truncated", body_of("short memory"), 200),
    ("unasked_tool_call", body_of("Let me look.", finish="tool_calls", tool_calls=[CALL]), 200),
    ("invalid_tool_call", body_of(None, finish="tool_calls", tool_calls=[{"function": {"arguments": "{}"}}]), 200),
]


@pytest.mark.parametrize(("reason", "body", "status"), REJECTS, ids=lambda value: value if type(value) is str else "")
def test_unusable_answers_are_rejected_with_their_reason(
    tmp_path: Path, reason: RejectReason, body: bytes, status: int
) -> None:
    """With everything known about it, and the raw body."""
    rows = [{"id": "a", "question": LONG if reason == "prompt_truncated" else "why?"}]
    recipe, held = chunk_of(tmp_path, rows, ask=TOOLS if reason == "invalid_tool_call" else {})
    answer(held, 0, body, status=status)
    meta, files = sealed(recipe, held)
    assert files["data"] == []
    (row,) = files["rejected"]
    assert (row["reject_reason"], row["prompt_id"], row["sample"], row["duplicate_of"]) == (reason, "a", 0, None)
    assert row["record_id"] == held.samples.teacher(0).ids.of(held.samples.prompt(0).key, 0)
    # Streams can't tell an empty text from none, so beside reasoning it is none in both; a tag leaves an empty one.
    is_none = reason in ("content_filter", "refused") or (reason == "only_reasoning" and b"<think>" not in body)
    assert (row["completion"] is None) == is_none
    assert row["refusal"] == {"flagged": "flagged"}.get(row["refusal"], row["refusal"])
    assert meta.counts.rejected == {reason: 1}
    assert [raw["body"] for raw in files["raw"]] == [body]


def test_every_reject_reason_is_tried(tmp_path: Path) -> None:
    """Here or in the tests of duplicates, of `ask.accept` and of tools."""
    tried = {reason for reason, _, _ in REJECTS} | {"duplicate_prompt", "duplicate_answer", "not_selected"}
    tried |= {"unknown_tool", "invalid_arguments"}
    assert tried == set(typing.get_args(RejectReason))


CALLS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (CALL, CALL),
    ({"function": {"name": "f", "arguments": {"a": [1, None]}}}, {"name": "f", "arguments": '{"a":[1,null]}'}),
    ({"id": 7, "type": "function", "function": {"name": "f", "arguments": ""}}, {"name": "f", "arguments": "{}"}),
    ({"type": "function", "function": {"name": "f"}}, {"name": "f", "arguments": "{}"}),
]
"""(as servers send it, as it is stored)."""


def test_tool_calls_are_inside_the_answers_message(tmp_path: Path) -> None:
    """With or without text; what the server sent is kept unchanged."""
    bodies = [body_of(None, finish="tool_calls", tool_calls=[sent]) for sent, _ in CALLS]
    bodies += [body_of("Both.", tool_calls=[CALL, CALL]), body_of("It is noon.", tool_calls=[])]
    _, files = seal_answers(tmp_path, *bodies, ask=TOOLS)
    rows = files["data"]
    for row, (sent, stored) in zip(rows, CALLS, strict=False):
        assert json.loads(row["tool_calls"]) == [sent]
        function = stored.get("function", stored)
        call = {"id": stored.get("id"), "type": "function", "function": function}
        assert row["completion"] == [{"role": "assistant", "content": "", "tool_calls": [call]}]
        assert row["finish_reason"] == "tool_calls"
    assert rows[-2]["completion"] == [{"role": "assistant", "content": "Both.", "tool_calls": [CALL, CALL]}]
    assert rows[-1]["completion"] == [{"role": "assistant", "content": "It is noon.", "tool_calls": None}]


def test_the_older_function_call_is_a_tool_call(tmp_path: Path) -> None:
    """The function alone, without a list or an id."""
    body = body_of(None, finish="function_call", function_call={"name": "f", "arguments": "{}"})
    _, files = seal_answers(tmp_path, body, ask={"extra": {"functions": [{"name": "f"}]}})
    (message,) = files["data"][0]["completion"]
    function = {"name": "f", "arguments": "{}"}
    assert message["tool_calls"] == [{"id": None, "type": "function", "function": function}]


@pytest.mark.parametrize("arguments", ["{", "[1]", '"a"', 7, [1]])
def test_arguments_unreadable_for_chat_templates_are_rejected(tmp_path: Path, arguments: Any) -> None:
    """They must be a JSON object; the answer stays in rejected/."""
    call = {"function": {"name": "f", "arguments": arguments}}
    _, files = seal_answers(tmp_path, body_of("See:", tool_calls=[call]), ask=TOOLS)
    (row,) = files["rejected"]
    assert (row["reject_reason"], row["completion"][0]["content"]) == ("invalid_tool_call", "See:")
    assert json.loads(row["tool_calls"]) == [call]


def test_equal_tool_calls_with_different_ids_are_equal_answers(tmp_path: Path) -> None:
    """Servers give each call a new id."""
    recipe, held = chunk_of(tmp_path, questions(1), ask=TOOLS | {"samples": 3})
    for ordinal, (call_id, name) in enumerate([("c1", "f"), ("c2", "f"), ("c3", "g")]):
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}
        answer(held, ordinal, body_of(None, finish="tool_calls", tool_calls=[call]))
    meta, files = sealed(recipe, held)
    assert len(files["data"]) == 2
    assert meta.counts.rejected == {"duplicate_answer": 1}


@pytest.mark.parametrize("tools", [False, True])
def test_messages_are_the_whole_conversation(tmp_path: Path, tools: bool) -> None:
    """`dataset.messages`: prompt and completion in one column, in data/ alone."""
    bodies = [body_of("Four.", reasoning="Two and two."), body_of("cut", finish="length")]
    bodies += [body_of(None, finish="tool_calls", tool_calls=[CALL])] if tools else []
    _, files = seal_answers(
        tmp_path, *bodies, ask={"system": "Be brief."} | (TOOLS if tools else {}), dataset={"messages": True}
    )
    for row in files["data"]:
        prompt = [message | ({"tool_calls": None} if tools else {}) for message in row["prompt"]]
        assert row["messages"] == prompt + row["completion"]
    assert [row["messages"][-1]["content"] for row in files["data"]] == ["Four.", ""][: 1 + tools]
    names = list(files["data"][0])
    assert names.index("messages") == names.index("completion") + 1
    assert "messages" not in files["rejected"][0]


def test_a_kept_column_may_be_called_messages_if_the_dataset_has_none(tmp_path: Path) -> None:
    """Also one of exactly the type that ours has; with `dataset.messages` it needs another name."""
    table = pa.table({"question": ["why?"], "messages": [[{"role": "user", "content": "old"}]]})
    (tmp_path / "source").mkdir()
    pq.write_table(table, tmp_path / "source" / "a.parquet")
    changes = {"source": {"id": None, "keep": ["messages"]}}
    recipe = recipe_of(tmp_path, **changes)
    index(recipe)
    held = open_chunk(recipe)
    answer(held, 0, body_of())
    _, files = sealed(recipe, held)
    assert files["data"][0]["messages"] == [{"role": "user", "content": "old"}]
    with pytest.raises(UsageError, match="source_messages"):
        index(recipe_of(tmp_path, **changes, dataset={"path": str(tmp_path / "b"), "messages": True}))


def test_a_policy_errors_message_is_the_refusal(tmp_path: Path) -> None:
    """The teacher's message in place of an answer."""
    recipe, held = chunk_of(tmp_path, questions(1))
    held.sent(0, at=1.0)
    reply = Reply(400, {}, b'{"error": {"message": "not this", "code": "content_filter"}}')
    held.answered(held.received(0, reply, at=1.0, latency_s=0.1, endpoint="host"))
    _, files = sealed(recipe, held)
    (row,) = files["rejected"]
    assert (row["refusal"], row["finish_reason"], row["completion"], row["input_tokens"]) == (
        "not this",
        "refused",
        None,
        None,
    )


def test_duplicate_prompts_are_rejected_unasked(tmp_path: Path) -> None:
    """With their own id and kept columns, and the id of the row that is asked; they are not samples."""
    rows = [
        {"id": "a", "question": "why?", "x": 1},
        {"id": "b", "question": "why?", "x": 2},
        {"id": "c", "question": "how?", "x": None},
    ]
    recipe, held = chunk_of(tmp_path, rows, source={"keep": [{"x": "int64"}]})
    assert waiting(held) == [0, 1]
    answer(held, 0, body_of())
    answer(held, 1, body_of())
    meta, files = sealed(recipe, held)
    assert [(row["prompt_id"], row["x"]) for row in files["data"]] == [("a", 1), ("c", None)]
    (row,) = files["rejected"]
    assert (row["prompt_id"], row["x"], row["reject_reason"], row["duplicate_of"]) == ("b", 2, "duplicate_prompt", "a")
    assert row["prompt"] == [{"role": "user", "content": "why?"}]
    assert {name for name, value in row.items() if value is not None} == {
        "prompt_id", "prompt_key", "prompt", "x", "reject_reason", "duplicate_of",
    }  # fmt: skip
    assert meta.counts.rejected == {}


@pytest.mark.parametrize("dedup", [True, False])
def test_equal_answers_to_one_prompt_are_kept_once(tmp_path: Path, dedup: bool) -> None:
    """Ignoring their reasoning; a rejected answer is not one that others could repeat, and other prompts may have the
    same.
    """
    recipe, held = chunk_of(
        tmp_path,
        questions(2),
        ask={"samples": 4},
        dedup={"answers": dedup},
        teachers=[{"name": "a", "api": "simulator"}, {"name": "b", "api": "simulator"}],
    )
    bodies = [
        body_of("one", finish="length"),
        body_of("one", reasoning="hm"),
        body_of("two"),
        body_of("one", reasoning="ah"),
    ]
    for ordinal in range(8):
        answer(held, ordinal, bodies[ordinal % 4])
    meta, files = sealed(recipe, held)
    kept = [1, 2] if dedup else [1, 2, 3]
    assert [(row["prompt_id"], row["sample"]) for row in files["data"]] == [(q, s) for q in ("q0", "q1") for s in kept]
    assert meta.counts.rejected == ({"length": 2, "duplicate_answer": 2} if dedup else {"length": 2})
    for row in files["rejected"]:
        if row["reject_reason"] == "duplicate_answer":
            (same,) = (each for each in files["data"] if each["record_id"] == row["duplicate_of"])
            assert (same["prompt_id"], same["sample"]) == (row["prompt_id"], 1)
    assert len({row["record_id"] for kind in ("data", "rejected") for row in files[kind]}) == 8


def test_failures_are_rows_too(tmp_path: Path) -> None:
    """What was tried, what came last, what may have been billed; bad rows by file and line."""
    teacher = {"name": "sim", "api": "simulator", "max_attempts": 2}
    rows = [*({**row, "answer": None} for row in questions(4)), "{bad"]
    recipe, held = chunk_of(tmp_path, rows, teachers=[teacher], source={"keep": ["answer"]})
    answer(held, 0, b'{"error": {"message": "what?"}}', status=400, at=5.0)
    for at in (1.0, 2.0):
        answer(held, 1, b"no \xff JSON", at=at)
    for at in (1.0, 2.0):
        held.sent(2, at=at)
        held.unanswered(2, Kind.LOST, Ambiguous("cut off"), at=at)
    held.recover([Frame(Kind.DIED, 3, float(at)) for at in range(3)], died=False)
    meta, files = sealed(recipe, held)
    assert files["data"] == []
    bad, *failed = files["failed"]
    names = [field.name for field in FAILED]
    assert list(bad) == [*names, "answer"]
    assert {name: value for name, value in bad.items() if value is not None} == {
        "kind": "bad_row", "message": bad["message"], "attempts": 0, "maybe_billed": 0,
        "file": str(tmp_path / "source" / "a.jsonl"), "line": 5,
    }  # fmt: skip
    told = [(row["kind"], row["status"], row["attempts"], row["maybe_billed"], row["body_head"]) for row in failed]
    assert told == [
        ("bad_request", 400, 1, 0, '{"error": {"message": "what?"}}'),
        ("malformed", 200, 2, 2, "no � JSON"),
        ("ambiguous", None, 2, 2, None),
        ("poison", None, 3, 3, None),
    ]
    assert failed[0]["failed_at"] == datetime.datetime(1970, 1, 1, 0, 0, 5, tzinfo=datetime.UTC)
    assert [row["message"].partition(" Run ")[0].partition(" Correct ")[0] for row in failed][0::2] == [
        "what?",
        "cut off (2 failed attempts, the teacher's max_attempts).",
    ]
    assert all("`stillhouse retry DATASET --kind " in row["message"] for row in failed)
    assert meta.counts == ShardCounts(
        failed={"bad_request": 1, "malformed": 1, "ambiguous": 1, "poison": 1}, maybe_billed=7, spent=Expense(8)
    )
    assert "raw" not in files


def test_recovered_failures_give_the_same_rows(tmp_path: Path) -> None:
    """Whether or not their owner lived to seal them."""
    teacher = {"name": "sim", "api": "simulator", "max_attempts": 1}
    recipe, held = chunk_of(tmp_path, questions(2), teachers=[teacher])
    held.sent(0, at=1.0)
    held.unanswered(0, Kind.LOST, Ambiguous("no whole reply"), at=1.0)
    held.sent(1, at=2.0)
    held.unanswered(1, Kind.NOT_SENT, NoConnection("no connection"), at=2.0)
    answer(held, 1, b"<html>", status=500, at=3.0)
    held.journal.close()
    again = open_chunk(recipe, worker="w1")
    store = open_dataset(recipe)
    again.recover(left_by_others(store, again), died=False)
    _, files = sealed(recipe, again)
    told = [(row["kind"], row["attempts"], row["endpoint"], row["body_head"]) for row in files["failed"]]
    assert told == [("ambiguous", 1, None, None), ("overload", 2, "127.0.0.1:9", "<html>")]


def test_a_record_names_the_teacher_that_answered(tmp_path: Path) -> None:
    """Its id, its name and its price, where the journal names another teacher than the one assigned."""
    teachers = [
        {"name": name, "api": "simulator", "price": {"input": 0, "output": price}}
        for name, price in (("a", 1), ("b", 2))
    ]
    recipe, held = chunk_of(tmp_path, questions(6), teachers=teachers, ask={"max_tokens": 50})
    names = []
    for ordinal in range(6):
        place = 1 - [each.name for each in recipe.teachers].index(held.samples.teacher(ordinal).teacher.name)
        names.append(recipe.teachers[place].name)
        held.sent(ordinal, at=1.0, endpoint="host", place=place)
        reply = Reply(200, {}, body_of(f"answer {ordinal}"))
        held.answered(held.received(ordinal, reply, at=1.0, latency_s=0.1, endpoint="host", place=place))
    _, files = sealed(recipe, held)
    assert [row["teacher"] for row in files["data"]] == names
    assert set(names) == {"a", "b"}
    for ordinal, row in enumerate(files["data"]):
        place = ["a", "b"].index(names[ordinal])
        assert row["record_id"] == held.samples.teacher(ordinal, place).ids.of(held.samples.prompt(ordinal).key, 0)
        assert row["cost_usd"] == 7 * (place + 1) / 1e6


def test_inline_reasoning_opens_the_completion(tmp_path: Path) -> None:
    """For training on the chain; an answer without one stays as it is."""
    bodies = (body_of("four", reasoning="hm"), body_of("five"), body_of("half", reasoning="hm", finish="length"))
    _, files = seal_answers(tmp_path, *bodies, dataset={"reasoning": "inline"})
    assert [(row["completion"][0]["content"], row["reasoning"]) for row in files["data"]] == [
        ("<think>\nhm\n</think>\n\nfour", None),
        ("five", None),
    ]
    assert [row["reasoning_source"] for row in files["data"]] == ["reasoning", None]
    assert files["rejected"][0]["completion"][0]["content"].startswith("<think>")


@pytest.mark.parametrize(
    "asked",
    [
        {"ask": {"top_logprobs": 0}},
        {"ask": {"top_logprobs": 2}, "teachers": [{"ask": {"top_logprobs": None}}, {"ask": {}}]},
        {"teachers": [{}, {"ask": {"top_logprobs": 1}}]},
        {"ask": {"extra": {"logprobs": True}}, "teachers": [{}]},
        {"teachers": [{"extra": {"generationConfig": {"responseLogprobs": True}}}]},
    ],
)
def test_log_probability_columns_exist_if_a_teacher_is_asked_for_them(asked: dict[str, Any]) -> None:
    """However it is asked."""
    assert wants_scores({"teachers": [{}], **asked})
    assert {*SCORES} <= {*columns_of(SCHEMA_VERSION, {"teachers": [{}], **asked}).rejected.names}
    assert not wants_scores({"teachers": [{"ask": {"top_logprobs": None}}], "ask": {"top_logprobs": 2}})


def test_log_probabilities_are_tensors(tmp_path: Path) -> None:
    """A list for each answer, and one for each of its tokens; a dataset from before keeps its column."""
    body = orjson.loads(body_of("a b"))
    top = [{"token": "a", "logprob": -0.5}, {"token": "c", "logprob": -1.5}]
    body["choices"][0]["logprobs"] = {
        "content": [
            {"token": "a", "logprob": -0.5, "top_logprobs": top},
            {"token": " b", "logprob": -0.25, "top_logprobs": []},
        ]
    }
    body["choices"][0]["token_ids"] = [11, 12]
    recipe, held = chunk_of(tmp_path, questions(1), ask={"top_logprobs": 2})
    answer(held, 0, orjson.dumps(body))
    _, files = sealed(recipe, held)
    (row,) = files["data"]
    assert {name: row[name] for name in SCORES} == {
        "token_ids": [11, 12],
        "token_logprobs": [-0.5, -0.25],
        "top_ids": None,
        "top_logprobs": [[-0.5, -1.5], []],
        "tokens": None,
        "top_tokens": [[b"a", b"c"], []],
    }
    old = Form(columns_of(3, recipe.identity()), inline=False)
    assert old.scores(held.state.answers.completion(0)) == {
        "logprobs": [
            {
                "token": "a",
                "token_id": 11,
                "logprob": -0.5,
                "top": [
                    {"token": "a", "token_id": None, "logprob": -0.5},
                    {"token": "c", "token_id": None, "logprob": -1.5},
                ],
            },
            {"token": " b", "token_id": 12, "logprob": -0.25, "top": []},
        ]
    }


KEPT = {
    "conversation": (
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}],
        pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
    ),
    "map": ([("a", 1), ("b", None)], pa.map_(pa.string(), pa.int32())),
    "struct": ({"a": {"b": [1, None]}}, pa.struct([("a", pa.struct([("b", pa.list_(pa.int8()))]))])),
    "decimal": (decimal.Decimal("12.50"), pa.decimal128(9, 2)),
    "date": (datetime.date(2026, 1, 2), pa.date32()),
    "time": (datetime.time(1, 2, 3, 4), pa.time64("us")),
    "timestamp": (datetime.datetime(2026, 1, 2, 3), pa.timestamp("ms")),
    "duration": (datetime.timedelta(seconds=5), pa.duration("us")),
    "binary": (b"\xff\x00", pa.binary()),
    "fixed binary": (b"1234", pa.binary(4)),
    "fixed list": ([1.5, 2.5], pa.list_(pa.float32(), 2)),
    "large list": (["a"], pa.large_list(pa.large_string())),
    "uint64": (2**64 - 1, pa.uint64()),
    "bool": (True, pa.bool_()),
    "null": (None, pa.null()),
    "list of names": (["a", "b"], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
}


@pytest.mark.parametrize("kind", KEPT)
def test_kept_columns_survive_a_round_trip(tmp_path: Path, kind: str) -> None:
    """Of any type that Parquet has: in records, duplicates and failures; nulls too."""
    value, column = KEPT[kind]
    (tmp_path / "source").mkdir()
    texts = ["why?", "why?", "how?", "who?"]
    values = pa.array([value, value, None, value], column)
    table = pa.table({"id": list("abcd"), "question": texts, "extra": values})
    pq.write_table(table, tmp_path / "source" / "a.parquet")
    recipe = recipe_of(tmp_path, source={"keep": ["extra"]})
    index(recipe)
    held = open_chunk(recipe)
    answer(held, 0, body_of())
    answer(held, 1, body_of())
    answer(held, 2, b"", status=400)
    _, files = sealed(recipe, held)
    assert [row["extra"] for row in files["data"]] == [value, None]
    assert [row["extra"] for row in files["rejected"]] == [value]
    assert [row["extra"] for row in files["failed"]] == [value]
    assert pq.read_schema(tmp_path / "out" / FIRST.data_key).field("extra").type == column


def test_attempts_beyond_the_columns_range_do_not_block_sealing(tmp_path: Path) -> None:
    """A sample that waited for its limits for days."""
    recipe, held = chunk_of(tmp_path, questions(1))
    held.recover([Frame(Kind.ANSWERED, 0, float(at), 0.5, 429, "host") for at in range(40_000)], died=False)
    answer(held, 0, body_of(), at=1e6)
    _, files = sealed(recipe, held)
    assert files["data"][0]["attempts"] == 2**15 - 1


def test_labels_that_cannot_be_read_are_missing(tmp_path: Path) -> None:
    """They are found to be unreadable when the answer is sealed."""
    recipe, held = chunk_of(tmp_path, questions(2), ask={"top_logprobs": 2})
    for ordinal, logprob in enumerate((-0.5, True)):
        entry = {"token": "a", "logprob": logprob, "bytes": [97], "top_logprobs": []}
        document = json.loads(body_of())
        document["choices"][0]["logprobs"] = {"content": [entry], "refusal": None}
        answer(held, ordinal, orjson.dumps(document))
    meta, files = sealed(recipe, held)
    assert meta.counts.no_logprobs == 1
    assert [row["token_logprobs"] for row in files["data"]] == [[-0.5], None]
