"""A judge's verdicts that come in batches: to whom they belong, and what a later owner of the chunk makes of them."""

from pathlib import Path

import orjson
import pytest
from builders import FIRST, answer, body_of, index, questions, recipe_of, teachers_of, write_source

from stillhouse.gen.checks.base import CheckResult, Unchecked, Verdict
from stillhouse.gen.dataset.chunk import ChunkReader
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.frames import Frame, Kind, frames
from stillhouse.gen.teachers.retry import SETTLED, Again, GiveUp
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.hearing import Hearing
from stillhouse.gen.worker.judge_of import judges_of
from stillhouse.gen.worker.open_chunk import OpenChunk
from stillhouse.schemas.recipe import Recipe

JUDGE = {"name": "j", "api": "simulator", "role": "judge", "price": {"input": 1.0, "output": 1.0}}
CHECK = {"judge": {"teacher": "j", "template": "Score it.\n", "accept_if": ">= 3"}}
GOOD = body_of(orjson.dumps({"reason": "it is", "score": 4}).decode())
AT = 50.0
"""When the batch was decided on."""


def begun(tmp_path: Path, texts: list[str]) -> tuple[Recipe, OpenChunk, Hearing]:
    """A chunk of one prompt with these answers, and its judge's hearing."""
    write_source(tmp_path, questions(1))
    teachers = [{"name": "sim", "api": "simulator"}, JUDGE]
    recipe = recipe_of(tmp_path, ask={"samples": len(texts)}, teachers=teachers, checks=[CHECK])
    index(recipe)
    held = opened(recipe, "w0")
    for ordinal, text in zip(held.take(), texts, strict=True):
        answer(held, ordinal, body_of(text), at=float(ordinal))
    return recipe, held, held.hearings[1]


def opened(recipe: Recipe, name: str, found: list[Frame] | None = None) -> OpenChunk:
    """The chunk, with what an earlier owner left of it."""
    read = ChunkReader(open_dataset(recipe), recipe).read(FIRST)
    journal = JournalFile.create(Path(recipe.dataset.path).parent / "journal" / f"{name}.journal")
    held = OpenChunk(
        read, journal, samples=read.samples, teacher_of=teachers_of(recipe), equal_once=False, judges=judges_of(recipe)
    )
    if found is not None:
        held.recover(found, died=False)
    return held


def in_journal(held: OpenChunk) -> list[Frame]:
    """What its journal holds."""
    held.journal.sync()
    with held.journal.path.open("rb") as file:
        return list(frames(file, origin="here"))


async def delivered(hearing: Hearing, ordinal: int, body: bytes, *, mark: str, at: float = AT) -> object:
    """What follows from a batch's reply to the question with this mark."""
    _, decision = await hearing.delivered(
        ordinal, Reply(200, {}, body), mark=mark, at=at, latency_s=1.0, endpoint="host", place=1
    )
    return decision


def asked(hearing: Hearing, ordinal: int) -> tuple[bool, list[Verdict]]:
    """Whether the judge must be asked about the answer, and the verdicts that are known by then."""
    said: list[Verdict] = []
    return hearing.ask(ordinal, said.append), said


async def test_a_verdict_read_before_its_answer_counts(tmp_path: Path) -> None:
    """As after a crash, when a batch is collected while other checks still judge the answer; for equal answers too."""
    recipe, held, hearing = begun(tmp_path, ["right", "right", "other"])
    _, mark = hearing.entry(0)
    assert not hearing.is_settled(0)
    assert await delivered(hearing, 0, GOOD, mark=mark) == SETTLED
    assert hearing.is_settled(0)
    good = CheckResult(True, 4.0, "it is")
    assert [asked(hearing, ordinal) for ordinal in (0, 1)] == [(False, [good])] * 2
    assert asked(hearing, 2) == (True, [])
    found = in_journal(held)
    assert [(frame.kind, frame.at) for frame in found if frame.stage] == [(Kind.SENT, AT), (Kind.ANSWERED, AT)]
    again = opened(recipe, "w1", found).hearings[1]
    assert (again.was_read(0, AT), again.was_read(2, AT)) == (True, False)
    assert [asked(again, ordinal) for ordinal in (1, 0)] == [(False, [good])] * 2
    assert asked(again, 2) == (True, [])


async def test_a_verdict_on_a_different_text_only_counts_as_cost(tmp_path: Path) -> None:
    """The answer is read differently now: its judge is asked again."""
    recipe, held, hearing = begun(tmp_path, ["right"])
    before = held.state.spending.total
    assert await delivered(hearing, 0, GOOD, mark="00" * 8) == Again(0.0)
    assert held.state.spending.total.requests == before.requests + 1
    assert held.state.spending.checks_usd
    assert not hearing.is_settled(0)
    assert asked(hearing, 0) == (True, [])
    again = opened(recipe, "w1", in_journal(held)).hearings[1]
    assert asked(again, 0) == (True, [])


async def test_a_half_written_verdict_is_read_again(tmp_path: Path) -> None:
    """A process that ends between the two frames leaves a question without its reply."""
    recipe, held, hearing = begun(tmp_path, ["right"])
    _, mark = hearing.entry(0)
    await delivered(hearing, 0, GOOD, mark=mark)
    half = [frame for frame in in_journal(held) if not (frame.stage and frame.kind is Kind.ANSWERED)]
    second = opened(recipe, "w1", half)
    hearing = second.hearings[1]
    assert not hearing.was_read(0, AT)
    assert await delivered(hearing, 0, GOOD, mark=mark) == SETTLED
    third = opened(recipe, "w2", in_journal(second)).hearings[1]
    assert asked(third, 0) == (False, [CheckResult(True, 4.0, "it is")])


async def test_nonsense_verdicts_are_counted_across_owners(tmp_path: Path) -> None:
    """Each of them is asked once more than the one before; given up on, it would be asked three more times."""
    recipe, held, hearing = begun(tmp_path, ["right"])
    found: list[Frame] = []
    decisions = []
    for number in range(3):
        must_ask, said = asked(hearing, 0)
        assert must_ask
        _, mark = hearing.entry(0)
        decisions.append(await delivered(hearing, 0, body_of(f"Four {number}!"), mark=mark, at=AT + number))
        found = in_journal(held)
        if number < 2:
            held = opened(recipe, f"w{number + 1}", found)
            hearing = held.hearings[1]
    assert [type(each) for each in decisions] == [Again, Again, GiveUp]
    assert isinstance(said[0], Unchecked)
    assert hearing.is_settled(0)
    later = opened(recipe, "later", found).hearings[1]
    assert asked(later, 0) == (True, [])
    _, mark = later.entry(0)
    assert isinstance(await delivered(later, 0, body_of("Four again!"), mark=mark, at=AT + 9), Again)


async def test_a_judge_is_not_asked_about_more_than_it_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is left unchecked, in words; so is one whose question was prepared."""
    monkeypatch.setattr("stillhouse.gen.worker.questions.MAX_JUDGED_CHARS", 5)
    _, _, hearing = begun(tmp_path, ["right", "far too long"])
    assert asked(hearing, 0)[0]
    words = Unchecked("expected at most 5 characters to judge, got 12")
    assert asked(hearing, 1) == (False, [words])
    await hearing.prepare(1)
    assert asked(hearing, 1) == (False, [words])


async def test_a_prepared_question_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it was asked about."""
    monkeypatch.setattr("stillhouse.gen.worker.answers.REMEMBERED_BYTES", 0)
    monkeypatch.setattr("stillhouse.gen.worker.answers.LARGE_BYTES", 1)
    _, held, hearing = begun(tmp_path, ["right"])
    assert hearing.is_slow(0)
    await hearing.prepare(0)
    assert not hearing.is_slow(0)
    held.journal.close()  # nothing reads the answer any more
    assert asked(hearing, 0) == (True, [])
    assert hearing.prompt(0).messages[0][1].endswith("right")
