"""Large replies are read outside the event loop."""

import threading
from pathlib import Path

import pytest
from builders import questions, recipe_of, write_source
from harness import run_in_process

from stillhouse.gen.checks.judge import Judged, Rubric
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.outcome import Outcome
from stillhouse.gen.teachers.reply_threads import LARGE_BYTES
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker import earlier_answers, long_values, verdict_frames
from stillhouse.schemas.prompt import Prompt

HERE = threading.current_thread()


@pytest.mark.parametrize(("tokens", "is_large"), [(5, False), (600, True)])
async def test_only_large_replies_are_read_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: int, is_large: bool
) -> None:
    """For a small one, the switch to a thread costs more than it saves."""
    read: list[tuple[bool, bool]] = []
    of_interpreter = Interpreter.read_folded

    def watched(interpreter: Interpreter, reply: Reply) -> Outcome:
        read.append((len(reply.body) >= LARGE_BYTES, threading.current_thread() is not HERE))
        return of_interpreter(interpreter, reply)

    monkeypatch.setattr(Interpreter, "read_folded", watched)
    write_source(tmp_path, questions(2))
    teacher = {"name": "sim", "api": "simulator", "simulator": {"output_tokens": (tokens, tokens)}}
    ask = {"top_logprobs": 20, "max_tokens": 1000}
    summary = await run_in_process(recipe_of(tmp_path, teachers=[teacher], ask=ask))
    assert summary.records == 2
    assert set(read) == {(is_large, is_large)}


async def test_a_checked_answer_is_read_when_it_comes_and_when_it_is_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checks run on the event loop, and need no more than its texts, which are remembered."""
    monkeypatch.setattr("stillhouse.gen.worker.answers.REMEMBERED_BYTES", 2**16)
    read: list[int] = []
    of_interpreter = Interpreter.read_folded

    def watched(interpreter: Interpreter, reply: Reply) -> Outcome:
        read.append(len(reply.body))
        return of_interpreter(interpreter, reply)

    monkeypatch.setattr(Interpreter, "read_folded", watched)
    write_source(tmp_path, questions(2))
    teacher = {"name": "sim", "api": "simulator", "simulator": {"output_tokens": (100, 100)}}
    ask, checks = {"top_logprobs": 20, "max_tokens": 1000}, [{"length": {"min": 1, "unit": "chars"}}]
    summary = await run_in_process(recipe_of(tmp_path, teachers=[teacher], ask=ask, checks=checks))
    assert summary.records == 2
    assert min(read) > 2**16
    assert len(read) == 2 * summary.records


async def test_a_large_answer_is_read_for_its_checks_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If there was no room to remember it."""
    monkeypatch.setattr("stillhouse.gen.worker.answers.REMEMBERED_BYTES", 0)
    monkeypatch.setattr("stillhouse.gen.worker.answers.LARGE_BYTES", 1)
    places: list[str] = []
    of_interpreter = Interpreter.read_folded

    def watched(interpreter: Interpreter, reply: Reply) -> Outcome:
        places.append(threading.current_thread().name.partition("_")[0])
        return of_interpreter(interpreter, reply)

    monkeypatch.setattr(Interpreter, "read_folded", watched)
    write_source(tmp_path, questions(1))
    checks = [{"length": {"min": 1, "unit": "chars"}}]
    summary = await run_in_process(recipe_of(tmp_path, checks=checks))
    assert summary.records == 1
    assert places[:2] == [HERE.name, "reading"]  # when it came, and for its check


async def test_a_large_answer_is_hashed_where_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For its checks, and to compare it with equal answers; to decide about it, nothing reads it again."""
    monkeypatch.setattr("stillhouse.gen.worker.answers.REMEMBERED_BYTES", 0)
    here: list[bool] = []
    of_interpreter, of_texts = Interpreter.read_folded, long_values.digest_of

    def read(interpreter: Interpreter, reply: Reply) -> Outcome:
        here.append(threading.current_thread() is HERE)
        return of_interpreter(interpreter, reply)

    def digest_of(*texts: str) -> bytes:
        here.append(threading.current_thread() is HERE)
        return of_texts(*texts)

    monkeypatch.setattr(Interpreter, "read_folded", read)
    monkeypatch.setattr(verdict_frames, "digest_of", digest_of)
    monkeypatch.setattr(earlier_answers, "digest_of", digest_of)
    write_source(tmp_path, questions(2))
    teacher = {"name": "sim", "api": "simulator", "simulator": {"output_tokens": (600, 600)}}
    ask = {"top_logprobs": 20, "max_tokens": 1000, "accept": 2, "at_most": 3}
    checks = [{"length": {"min": 1, "unit": "chars"}}]
    summary = await run_in_process(recipe_of(tmp_path, teachers=[teacher], ask=ask, checks=checks))
    assert summary.records == 4
    assert len(here) >= 4 * summary.records  # read, and hashed for both; and read again for the checks
    assert not any(here)


@pytest.mark.parametrize("mode", ["online", "batch"])
async def test_a_judge_s_question_about_a_large_answer_is_made_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """If its text was not remembered: when the judge is chosen, when it is asked, and when its verdict comes."""
    monkeypatch.setattr("stillhouse.gen.worker.answers.REMEMBERED_BYTES", 0)
    monkeypatch.setattr("stillhouse.gen.worker.questions._MAX_KEPT_CHARS", 0)
    here: list[bool] = []
    of_interpreter, of_rubric = Interpreter.read_folded, Rubric.question

    def read(interpreter: Interpreter, reply: Reply) -> Outcome:
        if len(reply.body) >= LARGE_BYTES:
            here.append(threading.current_thread() is HERE)
        return of_interpreter(interpreter, reply)

    def question(rubric: Rubric, judged: Judged) -> Prompt:
        here.append(threading.current_thread() is HERE)
        return of_rubric(rubric, judged)

    monkeypatch.setattr(Interpreter, "read_folded", read)
    monkeypatch.setattr(Rubric, "question", question)
    write_source(tmp_path, questions(3))
    judge = {"name": "j", "api": "simulator", "role": "judge", "mode": mode, "ask": {"max_tokens": 100}}
    teachers = [
        {"name": "sim", "api": "simulator", "simulator": {"output_tokens": (600, 600)}},
        judge | {"simulator": {"batches": {"latency_s": 0.0}}},
    ]
    ask = {"top_logprobs": 20, "max_tokens": 1000}
    checks = [{"judge": {"teacher": "j", "template": "Score it.\n", "accept_if": ">= 0"}}]
    summary = await run_in_process(recipe_of(tmp_path, teachers=teachers, ask=ask, checks=checks))
    assert summary.records == 3
    assert len(here) >= 4 * summary.records  # each is read when it comes, and again to choose, to ask and to seal
    assert not any(here)


async def test_large_results_of_a_batch_are_read_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As online; the line around them, too."""
    read: list[bool] = []
    of_interpreter = Interpreter.read_folded

    def watched(interpreter: Interpreter, reply: Reply) -> Outcome:
        read.append(len(reply.body) >= LARGE_BYTES and threading.current_thread() is not HERE)
        return of_interpreter(interpreter, reply)

    monkeypatch.setattr(Interpreter, "read_folded", watched)
    write_source(tmp_path, questions(2))
    simulator = {"output_tokens": (600, 600), "batches": {"latency_s": 0.0}}
    teacher = {"name": "sim", "api": "simulator", "mode": "batch", "simulator": simulator}
    ask = {"top_logprobs": 20, "max_tokens": 1000}
    summary = await run_in_process(recipe_of(tmp_path, teachers=[teacher], ask=ask))
    assert summary.records == 2
    assert all(read)
