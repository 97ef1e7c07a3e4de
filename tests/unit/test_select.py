"""`select:` in a recipe: read or refused, decided once, at the seal, and the same for every worker that seals."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow.dataset as ds
import pytest
from builders import answer, body_of, chunk_of, questions, recipe_of, sealed, write_source
from harness import run_in_process
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gen.checks.base import Answer, CheckResult, Row, Unchecked, Verdict
from stillhouse.gen.checks.equality import OTHER
from stillhouse.gen.checks.link import Duty
from stillhouse.gen.checks.pool import CheckPool
from stillhouse.gen.checks.selection import by_score, by_vote
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.simulator import serve
from stillhouse.gen.views.checked import check
from stillhouse.gen.views.summary import Summary
from stillhouse.gen.views.verify import verify
from stillhouse.gen.worker.voting import classes_of
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.failure import RETRYABLE
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.recipe_file import RecipeError, load_recipe
from stillhouse.schemas.simulator import SimulatorSettings

HEAD = """\
name: selected
source: {path: prompts.jsonl, prompt: question}
teachers: [{name: sim, api: simulator}]
dataset: {path: out}
checks: [length: {max: 3}]
"""
PROMPTS = 24
TEACHER = {"name": "sim", "api": "simulator", "max_attempts": 1, "limits": {"in_flight": 16}}
LENGTH = [{"length": {"min": 1}}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "select: {}",
            "select: expected one of `majority: {answer: math}` and `best_of: {by: <check>.score, keep: 1}`",
        ),
        ("select: {majority: {answer: math}, best_of: {by: length.score}}", "select: expected one of .*, got both"),
        ("select: {majority: {answer: maths}}", "select.majority.answer: .* did you mean math?"),
        ("select: {best_of: {by: length}}", "select.best_of.by: expected the score of a check, such as `length.score`"),
        (
            "select: {best_of: {by: quality.score}}",
            "select.best_of.by: expected one of length.score, got quality.score",
        ),
        (
            "select: {best_of: {by: length.score, keep: 2}}",
            "select.best_of.keep: expected at most ask.samples, 1, got 2",
        ),
        (
            "ask: {accept: 2, at_most: 9}\nselect: {best_of: {by: length.score, keep: 3}}",
            "select.best_of.keep: expected at most ask.accept, 2, got 3",
        ),
        ("ask: {accept: 1, at_most: 9}\nselect: {majority: {answer: exact}}", "select.majority: .* use `ask.samples`"),
        ("select: {best_of: {by: length.score, keep: 0}}", "select.best_of.keep: "),
    ],
)
def test_settings_that_contradict_each_other_are_refused(text: str, message: str) -> None:
    """With its line, and what to write."""
    with pytest.raises(
        RecipeError, match=message.replace("(", r"\(").replace("{", r"\{").replace("?", r"\?")
    ) as caught:
        load_recipe(f"{HEAD}{text}\n", origin="r.yaml")
    assert str(caught.value).startswith(f"r.yaml:{6 + text.count(chr(10))}: ")


def test_a_selection_is_part_of_the_identity_without_its_defaults() -> None:
    """And absent from that of a recipe without one, so that stored ones stay as they are."""
    plain = load_recipe(HEAD, origin="r.yaml")
    assert "select" not in plain.identity()
    best = load_recipe(f"{HEAD}select: {{best_of: {{by: length.score, keep: 1}}}}\n", origin="r.yaml")
    assert best.identity() == plain.identity() | {"select": {"best_of": {"by": "length.score"}}}


SCORES = st.dictionaries(st.integers(0, 20), st.none() | st.floats(), max_size=12)


@given(SCORES, st.integers(0, 13))
def test_the_best_are_kept(scores: dict[int, float | None], places: int) -> None:
    """No answer that is dropped scores better than one that is kept, whatever the scores are."""
    kept = by_score(scores, places=places).kept
    assert len(kept) == min(places, len(scores))
    known = {ordinal: score for ordinal, score in scores.items() if score is not None and score == score}
    worst = min((known.get(ordinal, float("-inf")) for ordinal in kept), default=float("inf"))
    assert all(known.get(ordinal, float("-inf")) <= worst for ordinal in scores.keys() - kept)


@given(st.dictionaries(st.integers(0, 20), st.sampled_from("abc")))
def test_the_largest_class_is_kept_whole(classes: dict[int, str]) -> None:
    """Of equally large classes, the one with the lowest sample; shares are of all answered samples."""
    selected = by_vote(classes, answered=30)
    votes = Counter(classes.values())
    won = {classes[ordinal] for ordinal in selected.kept}
    assert len(won) == bool(classes)
    for name in won:
        assert selected.kept == {ordinal for ordinal, each in classes.items() if each == name}
        first = min(ordinal for ordinal in classes if votes[classes[ordinal]] == max(votes.values()))
        assert classes[first] == name
    assert selected.shares == {ordinal: votes[name] / 30 for ordinal, name in classes.items()}


def reasons(files: dict[str, list[dict[str, Any]]]) -> dict[int, str]:
    """By sample: why it is not a record."""
    return {row["sample"]: row["reject_reason"] for row in files.get("rejected", [])}


def judged(tmp_path: Path, texts: Sequence[str], *, keep: int, **changes: Any) -> tuple[Any, dict[str, Any]]:
    """A sealed prompt whose answers score by their length."""
    select = {"best_of": {"by": "length.score", "keep": keep}}
    changes = {"ask": {"samples": len(texts)}} | changes
    recipe, held = chunk_of(tmp_path, questions(1), checks=LENGTH, select=select, **changes)
    for ordinal in held.take():
        answer(held, ordinal, body_of(texts[ordinal]))
        held.judged(ordinal, (CheckResult(True, float(len(texts[ordinal])), "so long"),), at=5.0)
    assert held.left == 0
    meta, files = sealed(recipe, held)
    assert {finding.kind for finding in verify(open_dataset(recipe)).findings} <= {"leftover"}
    return meta, files


def test_the_answers_with_the_best_scores_are_kept(tmp_path: Path) -> None:
    """Of equal scores the lower sample; equal answers take places, and are then kept once."""
    _, files = judged(tmp_path / "a", ["ab", "abcd", "abc", "xyz", "a"], keep=2)
    assert [row["sample"] for row in files["data"]] == [1, 2]
    assert reasons(files) == {0: "not_selected", 3: "not_selected", 4: "not_selected"}
    assert "vote_share" not in files["data"][0]
    _, files = judged(tmp_path / "b", ["abcd", "abcd", "ab", "ab"], keep=2)
    assert [row["sample"] for row in files["data"]] == [0]
    assert reasons(files) == {1: "duplicate_answer", 2: "not_selected", 3: "not_selected"}
    _, files = judged(tmp_path / "c", ["abcd", "abcd", "ab"], keep=2, dedup={"answers": False})
    assert [row["sample"] for row in files["data"]] == [0, 1]


def test_accepted_answers_that_are_not_selected_count_towards_accept(tmp_path: Path) -> None:
    """Equal answers count once, selected or not, and the rows say so."""
    meta, files = judged(tmp_path, ["a", "a", "abc"], keep=1, ask={"accept": 3, "at_most": 3})
    assert [row["sample"] for row in files["data"]] == [2]
    assert reasons(files) == {0: "not_selected", 1: "duplicate_answer"}
    assert meta.counts.prompts_by_accepted == {2: 1}


STATED = {
    "math": [
        ("so it is \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("5 + 3 = 8. She has 8 apples.", "8"),
        ("The answer is 72 clips in April and May.", "72"),
        ("x^2 + 1", "x^2+1"),
        ("Paris", "Paris"),
        ("words " * 30, None),
        ("", None),
        (f"\\boxed{{{'x+' * 1001}}}", None),
    ],
    "choice": [("The answer is (b).", "B"), ("**C**", "C"), ("A or B", None), ("I can't say", None)],
}


@pytest.mark.parametrize("equality", ["math", "choice"])
async def test_answers_are_stated_and_compared_in_children(equality: Any) -> None:
    """What can't be stated casts no vote; statements are compared as mathematics, and never take forever."""
    async with CheckPool([], equality=equality, size=1, timeout_s=2.0) as pool:
        for text, wanted in STATED[equality]:
            (found,) = await pool.judge(Answer(text), {}, duty="state")
            stated = found.detail if isinstance(found, CheckResult) and found.accepted else None
            assert stated == wanted, text
        if equality == "math":
            for one, other, is_same in (("0.5", "\\frac12", True), ("x(x+1)", "x^2+x", True), ("8", "9", False)):
                (found,) = await pool.judge(Answer(one), {OTHER: other}, duty="compare")
                assert isinstance(found, CheckResult)
                assert found.accepted == is_same


class Compared:
    """Compares statements that are digits, of which equal remainders of three are equal; letters take forever."""

    def __init__(self) -> None:
        self.hopeless = self.count = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def judge(self, answer: Answer, row: Row, *, duty: Duty = "check") -> "asyncio.Future[tuple[Verdict, ...]]":
        """See `Judging`."""
        one, other = answer.text, str(row[OTHER])
        verdict: Verdict = Unchecked("took more than 5 s of CPU time")
        if (one + other).isdigit():
            is_same = int(one) % 3 == int(other) % 3
            verdict = CheckResult(is_same, None, "")
        self.count += 1
        self.hopeless += isinstance(verdict, Unchecked)
        judged: asyncio.Future[tuple[Verdict, ...]] = asyncio.get_running_loop().create_future()
        judged.set_result((verdict,))
        return judged


async def test_incomparable_statements_are_given_up_soon() -> None:
    """Each costs one comparison and forms a class of its own; the others are compared as usual."""
    compared = Compared()
    numbers = [str(number) for number in range(30)]
    classes = await classes_of(compared, ["0", "a", "b", *numbers[1:10], "c", *numbers[10:]], most=32)
    assert {each: classes[each] for each in "abc"} == {"a": "a", "b": "b", "c": "c"}
    assert [classes[each] for each in numbers] == [str(number % 3) for number in range(30)]
    assert compared.hopeless == 3


async def test_comparisons_are_bounded() -> None:
    """The rest are each alone: the number of comparisons does not grow with its square."""
    compared = Compared()
    statements = [str(number) for number in range(9)]
    classes = await classes_of(compared, statements, most=2)
    assert [classes[each] for each in statements] == ["0", "1", "2", "0", "1", "5", "0", "1", "8"]
    assert compared.count == 9 + 8 + 5


def voted_recipe(tmp_path: Path, *, samples: int = 5, answer: str = "math", **changes: Any) -> Recipe:
    """Sums in chunks of nine, most of whose answers agree; the known answers are kept with them, but not used."""
    rows = [row | {"answer": str(number + 1)} for number, row in enumerate(questions(PROMPTS))]
    write_source(tmp_path, rows)
    return recipe_of(
        tmp_path,
        source={"keep": ["answer"]},
        ask={"samples": samples},
        teachers=[TEACHER],
        dataset={"prompts_per_shard": 9},
        select={"majority": {"answer": answer}},
        **changes,
    )


async def asked(recipe: Recipe, *faults: dict[str, Any], accuracy: float = 0.7, serial: int = 0, **how: Any) -> Summary:
    """A run or a retry against a teacher with these faults; what is stored is sound and adds up."""
    settings = SimulatorSettings.model_validate({"faults": faults, "accuracy": accuracy, "first_serial": serial})
    async with await serve(settings) as server:
        teachers = tuple(each.model_copy(update={"endpoints": (server.url,)}) for each in recipe.teachers)
        summary = await run_in_process(recipe.model_copy(update={"teachers": teachers}), **how)
    assert [finding.message for finding in verify(open_dataset(recipe)).findings] == []
    settled = summary.records + summary.rejected + summary.failed + summary.not_needed
    assert (settled, summary.remaining) == (PROMPTS * recipe.ask.most_samples, 0)
    return summary


def stored(recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """By prompt id: its rows of data/ and rejected/."""
    found = defaultdict(list)
    for kind in ("data", "rejected"):
        for row in ds.dataset(f"{recipe.dataset.path}/{kind}").to_table().to_pylist():
            found[row["prompt_id"]].append(row)
    return dict(found)


def said(row: dict[str, Any]) -> str:
    """The number that an answer ends in."""
    text: str = row["completion"][0]["content"]
    return text.rpartition("####")[2].strip()


async def test_the_majority_is_kept_and_never_recounted(tmp_path: Path) -> None:
    """Failures that are retried, and samples that are added, join the class that won or are left out."""
    recipe = voted_recipe(tmp_path)
    first = await asked(recipe, {"kind": "status", "status": 400, "share": 0.15}, accuracy=0.6)
    assert first.failed > 0
    known = recipe_of(tmp_path, checks=[{"math": {"answer": "answer"}}], source={"keep": ["answer"]})
    measured = await asyncio.to_thread(check, known, DatasetReader(open_dataset(recipe)), sample=first.records)
    assert measured.accepted / measured.sampled > 0.8  # though the vote knows no answer, and the teacher 60 % of them
    won: dict[str, tuple[str, float]] = {}
    for prompt, rows in stored(recipe).items():
        votes = Counter(said(row) for row in rows)
        records = [row for row in rows if row.get("reject_reason") is None]
        (kept,) = {said(row) for row in records}
        assert votes[kept] == max(votes.values())
        lowest = min(row["sample"] for row in rows if votes[said(row)] == votes[kept])
        assert kept == next(said(row) for row in rows if row["sample"] == lowest)
        for row in rows:
            assert row["vote_share"] == pytest.approx(votes[said(row)] / len(rows))
            assert row.get("reject_reason") in ((None, "duplicate_answer") if said(row) == kept else ("not_selected",))
        won[prompt] = kept, records[0]["vote_share"]
    await asked(recipe, retry=RETRYABLE, accuracy=0.0, serial=10_000)
    grown = recipe.model_copy(update={"ask": Ask(samples=9)})
    last = await asked(grown, accuracy=0.2, serial=20_000)
    assert last.failed == 0
    for prompt, rows in stored(recipe).items():
        assert len(rows) == 9
        records = [row for row in rows if row.get("reject_reason") is None]
        if prompt in won:
            assert {(said(row), row["vote_share"]) for row in records} == {won[prompt]}
            assert all(said(row) != won[prompt][0] for row in rows if row.get("reject_reason") == "not_selected")


async def test_best_of_works_with_accept(tmp_path: Path) -> None:
    """What is accepted and not selected counts: nothing is asked in its place, now or when more are wanted."""
    write_source(tmp_path, questions(PROMPTS))
    select = {"best_of": {"by": "length.score", "keep": 1}}
    ask = {"accept": 2, "at_most": 4}
    recipe = recipe_of(tmp_path, ask=ask, teachers=[TEACHER], checks=LENGTH, select=select)
    first = await asked(recipe)
    assert (first.records, first.rejected_by_reason, first.short) == (PROMPTS, {"not_selected": PROMPTS}, 0)
    assert first.requests == 2 * PROMPTS
    more = await asked(recipe.model_copy(update={"ask": Ask(accept=3, at_most=5)}), serial=10_000)
    assert (more.requests, more.records, more.short) == (PROMPTS, PROMPTS, 0)
    assert more.rejected_by_reason == {"not_selected": 2 * PROMPTS}
