"""Arrivals: when a file of a followed source counts, and which of them are planned together."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from builders import questions, recipe_of, write_source

from stillhouse.gen.clock import ManualClock
from stillhouse.gen.dataset.binding import bind
from stillhouse.gen.dataset.indexer import Indexer
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.planners import SourcePlanner
from stillhouse.gen.dataset.planning import Wait
from stillhouse.gen.dataset.plans import SourcePlan
from stillhouse.gen.errors import SourceError
from stillhouse.gen.source.arrivals import STILL_S, Arrivals
from stillhouse.gen.source.files import SourceFile
from stillhouse.gen.source.survey import Found
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.source import Source

STEP_S = 0.25
"""Between two looks: a little more than listings are apart, and exact in binary."""


class Listing:
    """A source that holds what a test says, listed at a clock that the test moves."""

    def __init__(self, *, takes_s: float = 0.0) -> None:
        self.files: dict[str, tuple[int, str]] = {}
        """By name: size and etag."""
        self.clock = ManualClock()
        self.looks = 0
        self._takes_s = takes_s
        self.arrivals = Arrivals(Source(path="prompts", prompt="q"), clock=self.clock, listed=self._listed)

    def _listed(self, _source: Source) -> Found:
        self.looks += 1
        self.clock.now += self._takes_s
        return Found([SourceFile(name, *rest) for name, rest in sorted(self.files.items())], ())

    def put(self, *names: str, size: int = 1, etag: str = "a") -> None:
        """Write files."""
        self.files.update(dict.fromkeys(names, (size, etag)))

    def taken(self, seconds: float) -> Sequence[tuple[float, list[str]]]:
        """The files taken within this many seconds, each with its time."""
        found: list[tuple[float, list[str]]] = []
        until = self.clock.now + seconds
        while self.clock.now < until:
            if self.arrivals.look():
                found.append((self.clock.now, [file.url for file in self.arrivals.take()]))
            self.clock.now += STEP_S
        return found


def test_a_file_counts_once_it_stops_changing() -> None:
    """One that grows or is written again starts over; an empty one never counts."""
    there = Listing()
    there.put("a")
    there.put("opened", size=0)
    assert there.taken(STILL_S) == []
    there.put("a", size=2)
    assert there.taken(STILL_S) == []
    there.put("a", size=2, etag="b")
    at = there.clock.now + STILL_S
    assert there.taken(10) == [(at, ["a"])]
    assert not there.arrivals.has_untaken


def test_files_that_appear_together_are_taken_together() -> None:
    """Even if a listing came between them; one that comes later is taken later, with those before it."""
    there = Listing()
    there.put("b")
    assert there.taken(STEP_S) == []
    there.put("a", "c")
    assert there.taken(1) == []
    there.put("d")
    assert [names for _, names in there.taken(10)] == [["a", "b", "c"], ["a", "b", "c", "d"]]


def test_a_file_that_keeps_growing_delays_no_other() -> None:
    """It appeared with another, which is taken as soon as it may be."""
    there = Listing()
    there.put("a", "grows")
    found: list[tuple[float, list[str]]] = []
    for size in range(2, 20):
        there.put("grows", size=size)
        found += there.taken(STEP_S)
    assert [names for _, names in found] == [["a"]]
    assert there.arrivals.has_untaken


def test_files_that_keep_coming_are_all_taken_in_time() -> None:
    """With a new file at every look, none waits for more than two looks beyond its two seconds."""
    there = Listing()
    came, taken = {}, {}
    for number in range(100):
        there.put(f"{number:03d}")
        came[f"{number:03d}"] = there.clock.now
        for at, names in there.taken(STEP_S):
            taken.update({name: at for name in names if name not in taken})
    assert len(taken) > 85
    assert max(at - came[name] for name, at in taken.items()) <= STILL_S + 2 * STEP_S


def test_a_large_source_is_listed_less_often() -> None:
    """A listing that takes a second is not repeated five times a second; files must be unchanged between two."""
    there = Listing(takes_s=1.0)
    there.put("a")
    assert there.taken(20)
    assert there.looks <= 4


def following(tmp_path: Path) -> tuple[Recipe, SourcePlanner, Arrivals, ManualClock]:
    """The planner of a run that follows its source, which is not there yet."""
    recipe = recipe_of(tmp_path)
    clock = ManualClock()
    arrivals = Arrivals(recipe.source, clock=clock)
    store = open_dataset(recipe)
    return recipe, SourcePlanner(store, bind(store, recipe), arrivals=arrivals), arrivals, clock


def arrive(arrivals: Arrivals, clock: ManualClock) -> bool:
    """Let the present files be seen, and stop changing them."""
    for _ in range(2):
        clock.now += STILL_S
        arrived = arrivals.look()
    return arrived


def test_each_arrival_is_a_generation(tmp_path: Path) -> None:
    """The source may start without a folder; a file that is incomplete, or has a temporary name, does not count."""
    recipe, planner, arrivals, clock = following(tmp_path)
    assert not arrive(arrivals, clock)
    assert planner.step() == Wait("files")
    write_source(tmp_path, questions(2), name="a.jsonl")
    write_source(tmp_path, questions(2, start=2), name="b.jsonl")
    for name in ("_c.jsonl", ".c.jsonl", "c.jsonl.tmp", "c.tmp/c.jsonl", ".c/c.jsonl"):
        write_source(tmp_path, questions(2, start=4), name=name)
    assert planner.step() == Wait("files")
    assert arrive(arrivals, clock)
    plan = planner.step()
    assert isinstance(plan, SourcePlan)
    assert [Path(file.url).name for file in plan.files] == ["a.jsonl", "b.jsonl"]
    assert planner.step() == Wait("indexed")
    (tmp_path / "source" / "c.tmp").rename(tmp_path / "source" / "c")
    assert arrive(arrivals, clock)
    assert planner.step() == Wait("indexed")
    list(Indexer(open_dataset(recipe), recipe, plan).parts([]))
    second = planner.step()
    assert isinstance(second, SourcePlan)
    assert [file.url for file in second.files] == [str(tmp_path / "source" / "c" / "c.jsonl")]
    assert not arrive(arrivals, clock)


def test_a_file_without_rows_is_waited_for(tmp_path: Path) -> None:
    """It is not an error, as the first file or later, and is planned once it has rows."""
    _, planner, arrivals, clock = following(tmp_path)
    path = write_source(tmp_path, [" "])
    assert arrive(arrivals, clock)
    assert planner.step() == Wait("files")
    path.write_text('{"id": "a", "question": "what?"}\n')
    assert arrive(arrivals, clock)
    assert isinstance(planner.step(), SourcePlan)


def test_a_planned_file_that_grows_is_refused_by_name(tmp_path: Path) -> None:
    """As by any run: new prompts belong into new files."""
    recipe, planner, arrivals, clock = following(tmp_path)
    path = write_source(tmp_path, questions(2))
    assert arrive(arrivals, clock)
    plan = planner.step()
    assert isinstance(plan, SourcePlan)
    list(Indexer(open_dataset(recipe), recipe, plan).parts([]))
    write_source(tmp_path, questions(3))
    assert arrive(arrivals, clock)
    with pytest.raises(SourceError, match=rf"{path}: changed after it was planned.*new file beside it"):
        planner.step()


@pytest.mark.parametrize("change", ["removed", "renamed", "written on"])
def test_a_file_that_changes_after_it_was_listed_is_looked_at_again(tmp_path: Path, change: str) -> None:
    """It was not planned yet, so the run continues with what is there now."""
    _, planner, arrivals, clock = following(tmp_path)
    path = write_source(tmp_path, questions(2))
    write_source(tmp_path, questions(2, start=2), name="b.jsonl")
    assert arrive(arrivals, clock)
    if change == "removed":
        path.unlink()
    elif change == "renamed":
        path.rename(path.with_name("c.jsonl"))
    else:
        write_source(tmp_path, questions(3))
    assert planner.step() == Wait("files")
    assert arrive(arrivals, clock)
    plan = planner.step()
    assert isinstance(plan, SourcePlan)
    names = {"removed": ["b"], "renamed": ["b", "c"], "written on": ["a", "b"]}[change]
    assert [Path(file.url).stem for file in plan.files] == names


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    """It is complete, and still as it was listed."""
    _, planner, arrivals, clock = following(tmp_path)
    write_source(tmp_path, [" "], name="a.parquet")
    assert arrive(arrivals, clock)
    with pytest.raises(SourceError, match=r"a\.parquet can't be read"):
        planner.step()
