"""Answers and their checks: verdicts are kept before anything acts on them, outlive a crash, and are never repeated."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from builders import FIRST, answer, body_of, index, open_chunk, questions, recipe_of, sealed, teachers_of, write_source

from stillhouse.gen.checks.base import CheckResult, Unchecked, Verdict
from stillhouse.gen.dataset.chunk import ChunkReader
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import Paused, StillhouseError
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.frames import Frame, Kind, frames
from stillhouse.gen.worker.check_guard import BROKEN_AFTER, USELESS_AFTER, CheckGuard
from stillhouse.gen.worker.open_chunk import OpenChunk
from stillhouse.schemas.recipe import Recipe

CHECKS = [{"length": {"min": 1}}, {"regex": {"pattern": "right", "name": "right"}}]
YES, NO = CheckResult(True, 1.0, "yes"), CheckResult(False, 0.0, "no")
BROKEN = Unchecked("it broke")


def begun(tmp_path: Path, **ask: int) -> tuple[Recipe, OpenChunk]:
    """An open chunk of one prompt under two checks."""
    write_source(tmp_path, questions(1))
    recipe = recipe_of(tmp_path, ask=ask or {"accept": 1, "at_most": 3}, checks=CHECKS)
    index(recipe)
    return recipe, open_chunk(recipe)


def recovered(recipe: Recipe, held: OpenChunk, name: str, *, reverse: bool = False) -> OpenChunk:
    """The next owner's chunk."""
    held.journal.sync()
    with held.journal.path.open("rb") as file:
        found = list(frames(file, origin="here"))
    if reverse:
        found.sort(key=lambda frame: frame.kind != Kind.VERDICT)
    read = ChunkReader(open_dataset(recipe), recipe).read(FIRST)
    journal = JournalFile.create(held.journal.path.parent / f"{name}.journal")
    again = OpenChunk(read, journal, samples=read.samples, teacher_of=teachers_of(recipe))
    again.recover(found, died=False)
    held.journal.close()
    return again


def in_journal(held: OpenChunk) -> list[Frame]:
    """What its journal holds."""
    held.journal.sync()
    with held.journal.path.open("rb") as file:
        return list(frames(file, origin="here"))


def test_a_journalled_verdict_decides(tmp_path: Path) -> None:
    """A rejected answer has the next sample asked, and nothing before its verdict does."""
    recipe, held = begun(tmp_path)
    assert list(held.take()) == [0]
    answer(held, 0, body_of("wrong"))
    assert held.is_due
    assert (held.state.verdicts.take(), list(held.take()), held.left) == ([0], [], 3)
    assert held.answer_to_judge(0).text == "wrong"
    held.judged(0, (YES, NO), at=5.0)
    assert [(frame.kind, frame.stage) for frame in in_journal(held)][-2:] == [(Kind.VERDICT, 1), (Kind.VERDICT, 2)]
    assert list(held.take()) == [1]
    answer(held, 1, body_of("right"))
    held.judged(1, (YES, YES), at=6.0)
    assert held.left == 0
    meta, files = sealed(recipe, held)
    verdict = {"accepted": True, "score": 1.0, "detail": "yes"}
    assert files["data"][0]["checks"] == {"length": verdict, "right": verdict}
    (row,) = files["rejected"]
    assert (row["reject_reason"], row["checks"]["length"]) == ("check:right", verdict)
    assert row["checks"]["right"] == {"accepted": False, "score": 0.0, "detail": "no"}
    (right,) = meta.counts.checks["right"].values()
    assert (right.accepted, right.rejected, meta.counts.not_needed) == (1, 1, 1)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_recovered_chunk_knows_its_verdicts(tmp_path: Path, reverse: bool) -> None:
    """In any order of the frames; an answer without a verdict is judged before anything else is asked."""
    recipe, held = begun(tmp_path, accept=2, at_most=4)
    for ordinal in held.take():
        answer(held, ordinal, body_of(f"wrong {ordinal}"))
    held.judged(0, (YES, NO), at=5.0)
    again = recovered(recipe, held, "w1", reverse=reverse)
    assert again.state.verdicts.said == {0: (YES, NO)}
    assert (again.state.verdicts.take(), list(again.take())) == ([1], [2])
    again.judged(1, (NO,), at=7.0)
    assert list(again.take()) == [3]
    third = recovered(recipe, again, "w2", reverse=reverse)
    assert (third.state.verdicts.said, third.state.verdicts.take()) == ({0: (YES, NO), 1: (NO,)}, [])
    assert list(third.take()) == [2, 3]


def test_only_a_different_text_is_judged_again(tmp_path: Path) -> None:
    """A verdict of half of the checks is incomplete; one on another text does not count."""
    recipe, held = begun(tmp_path)
    list(held.take())
    answer(held, 0, body_of("right"))
    held.judged(0, (YES, YES), at=5.0)
    found = in_journal(held)
    half = [frame for frame in found if frame.stage != 2]
    other = [
        frame._replace(body=frame.body.replace(b'"text":"', b'"text":"00')[:-4] + b'"}') if frame.stage else frame
        for frame in found
    ]
    for number, left in enumerate([half, other]):
        read = ChunkReader(open_dataset(recipe), recipe).read(FIRST)
        journal = JournalFile.create(tmp_path / f"{number}.journal")
        again = OpenChunk(read, journal, samples=read.samples, teacher_of=teachers_of(recipe))
        again.recover(left, died=False)
        assert again.state.verdicts.take() == [0]
        assert list(again.take()) == []


def test_answers_that_a_check_cannot_judge_count_as_failures(tmp_path: Path) -> None:
    """Its answer stays in raw/, whatever the recipe keeps; and its cost is counted apart from rows."""
    recipe, held = begun(tmp_path, accept=1, at_most=2)
    list(held.take())
    answer(held, 0, body_of("who knows"))
    held.judged(0, (YES, BROKEN), at=5.0)
    again = recovered(recipe, held, "w1")
    assert again.state.given_up[0].kind == "unchecked"
    assert list(again.take()) == [1]
    answer(again, 1, body_of("right"), at=2000.0)
    again.judged(1, (YES, YES), at=6.0)
    keeps_none = recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"keep_raw": False})})
    meta, files = sealed(keeps_none, again)
    (failed,) = files["failed"]
    assert (failed["kind"], failed["sample"]) == ("unchecked", 0)
    assert failed["message"].startswith("right: it broke. ")
    assert [b"who knows" in row["body"] for row in files["raw"]] == [True]
    assert (meta.counts.unchecked_output_tokens, meta.counts.output_tokens) == (7, 7)
    (right,) = meta.counts.checks["right"].values()
    assert (right.accepted, right.unchecked) == (1, 1)


def test_answers_are_judged_again_after_a_check_was_fixed(tmp_path: Path) -> None:
    """If the run stopped because of the check: no other answers are asked in their place."""
    recipe, held = begun(tmp_path)
    list(held.take())
    answer(held, 0, body_of("right"))
    held.judged(0, (YES, BROKEN), at=5.0)
    held.judge_again(at=9.0)
    again = recovered(recipe, held, "w1")
    assert (again.state.verdicts.take(), list(again.take()), again.state.given_up) == ([0], [], {})
    again.judged(0, (YES, YES), at=10.0)
    third = recovered(recipe, again, "w2")
    assert (third.left, third.state.verdicts.said) == (0, {0: (YES, YES)})


def noted(guard: CheckGuard, verdicts: Sequence[tuple[Verdict, ...]]) -> StillhouseError | None:
    """The first reason to stop."""
    return next((why for each in verdicts if (why := guard.note(each)) is not None), None)


def test_a_check_that_breaks_on_every_answer_stops_the_run() -> None:
    """With exit code 1 and the check's message; but not if it judges some answers."""
    names = ["length", "right"]
    why = noted(CheckGuard(names, keep_going=False), [(YES, BROKEN)] * BROKEN_AFTER)
    assert why is not None
    assert why.exit_code == 1
    assert "right could not judge the last 50 answers: it broke" in str(why)
    often = [(YES, BROKEN)] * (BROKEN_AFTER - 1)
    assert noted(CheckGuard(names, keep_going=False), [*often, (YES, NO), *often]) is None


def test_a_check_that_accepts_nothing_pauses_the_run() -> None:
    """With exit code 3, unless that is meant."""
    never: list[tuple[Verdict, ...]] = [(YES, NO)] * USELESS_AFTER
    why = noted(CheckGuard(["length", "right"], keep_going=False), never)
    assert isinstance(why, Paused)
    assert "right rejected all of the first 500 answers, the last one with: no" in str(why)
    assert "--keep-going" in str(why)
    assert noted(CheckGuard(["length", "right"], keep_going=True), never) is None
    assert noted(CheckGuard(["length", "right"], keep_going=False), [(YES, YES), *never]) is None
