"""What the simulated teacher says."""

import os
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stillhouse.gen.errors import UsageError
from stillhouse.gen.simulator.answers import Answer, Answers
from stillhouse.gen.simulator.known import KnownAnswers, arithmetic
from stillhouse.gen.simulator.texts import count_tokens
from stillhouse.schemas.carried_file import carried
from stillhouse.schemas.simulator import SimulatorSettings


def ask(answers: Answers, message: str, *, serial: int = 0, max_tokens: int | None = None) -> Answer:
    """One answer to one message."""
    prompt = message.encode().ljust(16, b".")
    return answers.give(message, prompt=prompt, serial=serial, index=0, max_tokens=max_tokens)


@pytest.mark.parametrize(
    ("message", "value"),
    [
        ("What is 12 + 30?", "42"),
        ("-3 + 5", "2"),
        ("7 - -2 * 3", "13"),
        ("84 ÷ 7", "12"),
        ("First 1 + 1, then 2 × 4.", "8"),
        ("85 / 7", None),
        ("1 / 0", None),
        ("3.5 + 2", None),
        ("2 + 1.5", None),
        ("no numbers", None),
    ],
)
def test_arithmetic_is_answered(message: str, value: str | None) -> None:
    """The last expression of whole numbers counts, with precedence; one without a whole value is ignored."""
    assert arithmetic(message) == value


@given(st.integers(-(10**9), 10**9), st.sampled_from("+-*"), st.integers(0, 10**9))
def test_arithmetic_agrees_with_python(left: int, operator: str, right: int) -> None:
    """Any two numbers."""
    expected = {"+": left + right, "-": left - right, "*": left * right}[operator]
    assert arithmetic(f"Compute {left} {operator} {right} now") == str(expected)


def test_known_prompts_are_found_inside_templates() -> None:
    """Whole, wrapped on one line, over several lines; the longest known prompt wins."""
    known = KnownAnswers([("What is up?", "sky"), ("What is up? And down?", "earth"), ("What is up? And", "x")])
    assert known.find("What  is\nup?") == "sky"
    assert known.find("Answer briefly: What is up? Give it after ####.") == "sky"
    assert known.find("Q:\nWhat is up?\nAnd down?\nThink.") == "earth"
    assert known.find("Whatever is up?") is None


def test_a_wrong_answers_file_is_named(tmp_path: Path) -> None:
    """The line that is not a pair, and a file that isn't there."""
    path = tmp_path / "answers.jsonl"
    path.write_text('{"prompt": "p", "answer": 3}\n\n{"prompt": "q"}\n')
    with pytest.raises(UsageError, match=r"line 3: expected"):
        KnownAnswers.read(str(path))
    with pytest.raises(UsageError, match="can't be read"):
        KnownAnswers.read(str(tmp_path / "none"))


def test_the_right_answer_stands_after_the_hashes(tmp_path: Path) -> None:
    """From the file of answers, or else by arithmetic."""
    path = tmp_path / "answers.jsonl"
    path.write_bytes(orjson.dumps({"prompt": "Who is it?", "answer": "Ada"}))
    answers = Answers(SimulatorSettings(answers=str(path)))
    assert ask(answers, "Say: Who is it?").content.endswith("\n#### Ada")
    assert ask(answers, "What is 6 * 7?").content.endswith("\n#### 42")
    assert "####" not in ask(answers, "Hello").content


def test_accuracy_is_the_share_of_right_answers() -> None:
    """Over 2,000 serials, within four standard deviations."""
    answers = Answers(SimulatorSettings(accuracy=0.7))
    right = sum(ask(answers, "6 * 7", serial=serial).content.endswith("#### 42") for serial in range(2000))
    assert 1318 <= right <= 1482


def test_answers_differ_by_serial_and_repeat_by_seed() -> None:
    """No two of 20,000 are equal; the same settings repeat them, and another seed does not."""
    settings = SimulatorSettings(output_tokens=(16, 24))
    answers = Answers(settings)
    texts = [ask(answers, "hello", serial=serial).content for serial in range(20_000)]
    assert len(set(texts)) == len(texts)
    assert ask(Answers(settings), "hello", serial=7).content == texts[7]
    assert ask(Answers(SimulatorSettings(seed=1)), "hello", serial=7).content != texts[7]


def test_distinct_bounds_the_answers_of_a_prompt() -> None:
    """Three for each prompt, and different ones for different prompts."""
    answers = Answers(SimulatorSettings(distinct=3))
    first = {ask(answers, "first", serial=serial).content for serial in range(100)}
    second = {ask(answers, "second", serial=serial).content for serial in range(100)}
    assert len(first) == len(second) == 3
    assert not first & second


@given(least=st.integers(1, 300), extra=st.integers(0, 300), serial=st.integers(0, 2**40))
def test_lengths_are_drawn_within_bounds(least: int, extra: int, serial: int) -> None:
    """An unknown prompt's answer has least .. most tokens, and its count is that of its text."""
    answers = Answers(SimulatorSettings(output_tokens=(least, least + extra)))
    answer = ask(answers, "hello", serial=serial)
    assert least <= answer.completion_tokens <= least + extra
    assert answer.completion_tokens == count_tokens(answer.content)
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize("reasoning", [None, "reasoning", "reasoning_content", "think"])
@pytest.mark.parametrize("max_tokens", [1, 10, 30, 49])
def test_max_tokens_cuts_reasoning_first(reasoning: str | None, max_tokens: int) -> None:
    """The cut text has exactly `max_tokens` tokens and says so."""
    answers = Answers(SimulatorSettings.model_validate({"output_tokens": [50, 60], "reasoning": reasoning}))
    whole, cut = ask(answers, "hello"), ask(answers, "hello", max_tokens=max_tokens)
    assert (cut.finish_reason, cut.completion_tokens) == ("length", max_tokens)
    assert count_tokens(cut.content) + count_tokens(cut.reasoning or "") == max_tokens
    assert whole.content.startswith(cut.content)


def test_think_tags_open_the_content() -> None:
    """The reasoning is part of the content if there is no field for it."""
    answer = ask(Answers(SimulatorSettings(reasoning="think")), "2 + 2")
    assert re.match(r"<think>\n.+\n</think>\n\n.+\n#### 4\Z", answer.content, re.DOTALL)
    assert answer.reasoning is None


def test_settings_survive_json_and_refuse_nonsense() -> None:
    """They cross to the simulator's process as JSON; a wrong range or an unknown key is refused."""
    settings = SimulatorSettings.model_validate(
        {"output_tokens": [1, 2], "faults": [{"kind": "reset", "when": "body"}, {"kind": "status", "status": 503}]}
    )
    assert SimulatorSettings.model_validate_json(settings.model_dump_json()) == settings
    refused: list[dict[str, Any]] = [
        {"output_tokens": [2, 1]},
        {"fault": []},
        {"faults": [{"kind": "reset", "status": 500}]},
        {"faults": [{"kind": "hang", "start_s": 2.0, "stop_s": 1.0}]},
        {"faults": [{"kind": "hang", "start_request": 2, "stop_request": 2}]},
        {"faults": [{"kind": "status", "headers": {"a": "b\r\nc: d"}}]},
    ]
    for wrong in refused:
        with pytest.raises(ValidationError):
            SimulatorSettings.model_validate(wrong)


def test_an_endless_answers_file_is_refused(tmp_path: Path) -> None:
    """A pipe, a device and an impossible path: none is waited for, and none gives a traceback."""
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/zero", str(tmp_path), "a\0b", "~nobody-of-that-name/x"):
        assert carried(path) == path
        with pytest.raises(UsageError, match=r"the file of answers .* can't be read"):
            KnownAnswers.read(path)
