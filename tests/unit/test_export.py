"""`stillhouse export` writes what trainers load, the same each time, with its terms beside it."""

import asyncio
import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from builders import answer, body_of, chunk_of, sealed
from click.testing import CliRunner
from harness import run_in_process

from stillhouse.cluster.cli import main
from stillhouse.cluster.commands.options import read
from stillhouse.cluster.commands.output import written
from stillhouse.gen.errors import UsageError
from stillhouse.gen.views.export.answer import Answer
from stillhouse.gen.views.export.pairs import pairs
from stillhouse.schemas.tool_call import ToolCall

CALL = ToolCall("x", "function", "add", "{}")
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty prompts of the quickstart, four answers each, of which a check rejects about half."""
    out = tmp_path_factory.mktemp("export") / "ds"
    settings = ("ask={samples: 4}", "teachers.0.simulator.accuracy=0.5")
    more = ("checks=[{contains: {column: answer}}]", "teachers.0.simulator.reasoning=reasoning")
    recipe = read("quickstart", (f"dataset.path={out}", "teachers.0.simulator.latency_s=0", *settings, *more))
    asyncio.run(run_in_process(recipe, limit=20))
    return out


def export(dataset: Path, format: str, *args: str, code: int = 0) -> str:
    """What the command says, on stdout and stderr; it replaces what an earlier one wrote."""
    done = CliRunner().invoke(main, ["export", str(dataset), "--format", format, "--overwrite", *args])
    assert done.exit_code == code, done.output
    return done.output


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def stored(dataset: Path, kind: str) -> list[dict[str, Any]]:
    """The rows of data/ or rejected/."""
    rows = datasets.load_dataset("parquet", data_files=f"{dataset}/{kind}/*.parquet", split="train")
    return list(rows)


@pytest.mark.parametrize("format", ["trl-sft", "messages-jsonl", "sharegpt"])
def test_every_record_becomes_a_line(dataset: Path, tmp_path: Path, format: str) -> None:
    """With its prompt and its text, and the same bytes each time."""
    out, again = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    export(dataset, format, "--out", str(out))
    export(dataset, format, "--out", str(again))
    assert out.read_bytes() == again.read_bytes()
    found = [
        [(turn.get("role") or turn["from"], turn.get("content") or turn["value"]) for turn in turns]
        for row in lines(out)
        for turns in [row.get("conversations") or row.get("messages") or row["prompt"] + row["completion"]]
    ]
    names = ("human", "gpt") if format == "sharegpt" else ("user", "assistant")
    expected = [
        list(zip(names, (row["prompt"][0]["content"], row["completion"][0]["content"]), strict=True))
        for row in stored(dataset, "data")
    ]
    assert found == expected


def test_pairs_hold_a_record_and_a_rejected_answer(dataset: Path, tmp_path: Path) -> None:
    """Of one prompt each; as many as the scarcer side has, and no answer twice."""
    out = tmp_path / "dpo.jsonl"
    said = export(dataset, "trl-dpo", "--out", str(out))
    sides: dict[str, tuple[set[str], set[str]]] = {}
    for place, kind in enumerate(("data", "rejected")):
        for row in stored(dataset, kind):
            if row["completion"]:
                side = sides.setdefault(row["prompt"][0]["content"], (set(), set()))
                side[place].add(row["completion"][0]["content"])
    rows = lines(out)
    assert len(rows) == sum(min(map(len, side)) for side in sides.values()) > 10
    assert f"{len(rows)} rows" in said
    for row in rows:
        chosen, rejected = sides[row["prompt"][0]["content"]]
        chosen.remove(row["chosen"][0]["content"])
        rejected.remove(row["rejected"][0]["content"])


def test_reasoning_is_placed_as_requested(dataset: Path, tmp_path: Path) -> None:
    """It is left out with a note, is part of the text, or has a separate field."""
    out = tmp_path / "sft.jsonl"
    record = stored(dataset, "data")[0]
    assert "--reasoning inline" in export(dataset, "trl-sft", "--out", str(out))
    assert lines(out)[0]["completion"][0]["content"] == record["completion"][0]["content"]
    assert "note:" not in export(dataset, "trl-sft", "--out", str(out), "--reasoning", "field").replace("finished", "")
    assert lines(out)[0]["completion"][0]["reasoning_content"] == record["reasoning"]
    export(dataset, "sharegpt", "--out", str(out), "--reasoning", "inline")
    assert lines(out)[0]["conversations"][-1]["value"].startswith(f"<think>\n{record['reasoning']}")
    assert "no field for it" in export(dataset, "sharegpt", "--reasoning", "field", code=2)


def test_nothing_is_left_half_written(dataset: Path, tmp_path: Path) -> None:
    """If a shard is damaged, or there is nothing to write, an earlier file stays."""
    out = tmp_path / "old.jsonl"
    out.write_text("old")
    export(dataset, "trl-dpo", "--out", str(out), "--by", "nobody", code=2)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["old.jsonl"]
    assert "outside the dataset" in export(dataset, "trl-sft", "--out", str(dataset / "x.jsonl"), code=2)


def test_pairs_need_checks(tmp_path: Path) -> None:
    """A dataset without any says what to add, and one whose answers all pass says so."""
    recipe, held = chunk_of(tmp_path, [{"id": "a", "question": "Why?"}])
    answer(held, 0, body_of("Because."))
    sealed(recipe, held)
    said = export(tmp_path / "out", "trl-dpo", "--out", str(tmp_path / "x.jsonl"), code=2)
    assert "add `checks` to the recipe" in said
    assert not (tmp_path / "x.jsonl").exists()


def test_tool_calls_are_separate_turns(tmp_path: Path) -> None:
    """Inside the message as chat templates read them, and in ShareGPT a turn, which can't hold text as well."""
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    rows = [{"id": f"q{n}", "question": f"{n}?"} for n in range(2)]
    recipe, held = chunk_of(tmp_path, rows, ask={"extra": {"tools": [TOOL]}})
    answer(held, 0, body_of(None, finish="tool_calls", tool_calls=[call]))
    answer(held, 1, body_of("I add.", finish="tool_calls", tool_calls=[call]))
    sealed(recipe, held)
    out = tmp_path / "x.jsonl"
    export(tmp_path / "out", "trl-sft", "--out", str(out))
    first, second = lines(out)
    assert first["tools"] == [TOOL]
    assert first["completion"][0]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert second["completion"][0]["content"] == "I add."
    said = export(tmp_path / "out", "sharegpt", "--out", str(out))
    assert "1 left out" in said
    (row,) = lines(out)
    assert row["conversations"][-1] == {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'}
    assert json.loads(row["tools"]) == [TOOL]


def test_terms_are_written_beside_the_export(tmp_path: Path) -> None:
    """With each obligation, which the command repeats."""
    llama = {"name": "l", "api": "openai-chat", "base_url": "http://localhost:1/v1", "model": "meta-llama/Llama-4-x"}
    write = [{"id": "a", "question": "Why?"}]
    recipe, held = chunk_of(tmp_path, write, teachers=[llama])
    answer(held, 0, body_of("Because."))
    sealed(recipe, held)
    out = tmp_path / "x.jsonl"
    said = export(tmp_path / "out", "messages-jsonl", "--out", str(out))
    terms = yaml.safe_load((tmp_path / "x.jsonl.terms.yaml").read_text())
    assert terms["teachers"][0]["terms"]["training_use"] == "permitted-with-obligations"
    assert terms["obligations"]
    assert all(f"obligation: {each}" in said for each in terms["obligations"])


def made(sample: int, score: float | None, *, text: str = "", rejected_as: str | None = None) -> Answer:
    """An answer to the one prompt."""
    scores = {"judge": score}
    return Answer(
        f"r{sample}",
        "p",
        sample,
        ({"role": "user", "content": "?"},),
        text or f"text {sample}",
        None,
        (),
        scores,
        rejected_as,
    )


def test_the_best_is_paired_with_the_worst() -> None:
    """By score, then by sample; equal answers make no pair, and what was not selected only with a better one."""
    accepted = [made(0, 0.5), made(1, 0.9), made(2, 0.9, text="same")]
    rejected = [
        made(3, 0.2, rejected_as="check:judge"),
        made(4, None, rejected_as="check:length"),
        made(5, 0.1, text=" same ", rejected_as="check:judge"),
        made(6, None, rejected_as="refused"),
    ]
    found = [(chosen.sample, other.sample) for chosen, other in pairs(rejected, accepted, by="judge")]
    assert found == [(1, 4), (2, 3), (0, 5)]
    unselected = [made(3, 0.9, rejected_as="not_selected"), made(4, 0.4, rejected_as="not_selected")]
    assert [(a.sample, b.sample) for a, b in pairs(unselected, accepted, by="judge")] == [(1, 4)]
    calling = replace(made(7, None, text="text 0", rejected_as="check:judge"), calls=(CALL,))
    assert len(list(pairs([calling], accepted[:1], by="judge"))) == 1, "calls count as text does"


def test_prompts_keep_their_calls_and_rows_their_tools(tmp_path: Path) -> None:
    """A conversation keeps its calls and results, and each row the tools that it offers."""
    asked = [{"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}, "id": "c1"}]
    messages = [
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": "", "tool_calls": asked},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
    ]
    source = {"prompt": None, "id": None, "messages": "messages", "tools": "tools"}
    recipe, held = chunk_of(tmp_path, [{"messages": messages, "tools": [TOOL]}], source=source)
    answer(held, 0, body_of("It is 2."))
    sealed(recipe, held)
    out = tmp_path / "x.jsonl"
    export(tmp_path / "out", "messages-jsonl", "--out", str(out))
    (row,) = lines(out)
    assert row["messages"][1]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert row["messages"][2] == {"role": "tool", "content": "2", "tool_call_id": "c1"}
    assert row["tools"] == [TOOL]
    export(tmp_path / "out", "sharegpt", "--out", str(out))
    (row,) = lines(out)
    assert [turn["from"] for turn in row["conversations"]] == ["human", "function_call", "observation", "gpt"]
    assert json.loads(row["tools"]) == [TOOL]


def test_sharegpt_holds_only_what_its_loaders_keep(tmp_path: Path) -> None:
    """LLaMA-Factory drops conversations whose turns do not alternate, so they are left out here, and counted."""
    calls = [
        {"type": "function", "function": {"name": "add", "arguments": f'{{"a": {n}}}'}, "id": f"c{n}"} for n in (1, 2)
    ]
    results = [{"role": "tool", "content": str(n), "tool_call_id": f"c{n}"} for n in (1, 2)]
    asked = {"role": "user", "content": "Add."}
    conversations = [
        [{"role": "system", "content": "Be brief."}, asked],
        [asked, {"role": "assistant", "content": "", "tool_calls": calls}, *results],
        [asked, {"role": "user", "content": "Please."}],
    ]
    source = {"prompt": None, "id": None, "messages": "messages", "tools": "tools"}
    rows = [{"messages": messages, "tools": [TOOL]} for messages in conversations]
    recipe, held = chunk_of(tmp_path, rows, source=source)
    for number in range(3):
        answer(held, number, body_of("It is 3."))
    sealed(recipe, held)
    out = tmp_path / "x.jsonl"
    said = export(tmp_path / "out", "sharegpt", "--out", str(out))
    assert (
        "1 left out: sharegpt has no place for the results of several tool calls in a row (messages-jsonl has)" in said
    )
    assert "1 left out: sharegpt has no place for turns that do not alternate (messages-jsonl has)" in said
    assert [[turn["from"] for turn in row["conversations"]] for row in lines(out)] == [["system", "human", "gpt"]]
    export(tmp_path / "out", "messages-jsonl", "--out", str(out))
    assert len(lines(out)) == 3


def test_an_export_is_complete_or_absent(dataset: Path, tmp_path: Path) -> None:
    """A link keeps its name, a disk that fills up leaves the old file; what can't be a file is refused."""
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    real.write_text("old")
    link.symlink_to(real)

    def half() -> None:
        with written(link, option="-o") as file:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UsageError, match=r"link.jsonl: can't be written \(No space left"):
        half()
    assert real.read_text() == "old"
    before = {path.name for path in tmp_path.iterdir()}
    export(dataset, "trl-sft", "--out", str(link))
    assert link.is_symlink()
    assert real.read_text().startswith("{")
    assert {path.name for path in tmp_path.iterdir()} - before == {"link.jsonl.terms.yaml"}
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for out in ("x" * 300, str(tmp_path / "loop" / "x"), "~nobody-has-this-name/x", str(real / "x")):
        assert "--out" in export(dataset, "trl-sft", "--out", out, code=2)


def test_a_file_is_replaced_only_on_request(dataset: Path, tmp_path: Path) -> None:
    """Neither the rows nor the terms beside them; a second export to another place is fine."""
    out = tmp_path / "out.jsonl"
    for there in (out, out.with_name("out.jsonl.terms.yaml")):
        there.write_text("mine")
        command = ["export", str(dataset), "--format", "trl-sft", "--out", str(out)]
        done = CliRunner().invoke(main, command)
        assert (done.exit_code, there.read_text()) == (2, "mine")
        assert f"{there} exists and is not overwritten; give another --out FILE, or --overwrite" in done.output
        there.unlink()
    assert CliRunner().invoke(main, command).exit_code == 0
    rows = out.read_bytes()
    assert CliRunner().invoke(main, [*command, "--overwrite"]).exit_code == 0
    assert out.read_bytes() == rows


def test_an_export_can_be_piped(dataset: Path, tmp_path: Path) -> None:
    """No file replaces it: its reader gets the rows. The terms file can't go beside it."""
    out = tmp_path / "pipe"
    os.mkfifo(out)
    with ThreadPoolExecutor() as pool:
        read = pool.submit(out.read_bytes)
        export(dataset, "trl-sft", "--out", str(out))
        assert all(json.loads(line)["completion"] for line in read.result().splitlines())
    assert out.is_fifo()
    assert not out.with_name("pipe.terms.yaml").exists()
