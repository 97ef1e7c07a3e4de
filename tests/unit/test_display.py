"""What the live display sends to a real terminal."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from builders import queue_stats, recipe_of

from stillhouse.cluster.progress.display import Lines, Progress, Shown, is_progress
from stillhouse.cluster.progress.job_lines import JobLines, figures_in, is_figures
from stillhouse.cluster.progress.stats import Closed
from stillhouse.gen.coordination.counters import Tally
from stillhouse.gen.dataset.shard_meta import ShardCounts

LIMITS = {"requests_per_minute": 600, "in_flight": 50}
COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")
PROGRAM = """
import asyncio, sys
from pathlib import Path
from builders import index, questions, recipe_of, write_source
from stillhouse.cluster.progress.screen import Screen
from stillhouse.cluster.actors.prompt_queue import PromptQueue

recipe = recipe_of(Path(sys.argv[1]))
write_source(Path(sys.argv[1]), questions(3))
index(recipe)
stats = asyncio.run(PromptQueue(recipe, workers=1).stats())
with Screen(recipe) as screen:
    screen.note("a note")
    screen.update(stats)
"""


def test_answers_count_before_they_are_sealed(tmp_path: Path) -> None:
    """A chunk of a thousand long answers is not a standstill; chunks that an earlier run sealed count as well."""
    progress = Progress(recipe_of(tmp_path, ask={"samples": 2}))
    counts = ShardCounts(records=190, rejected={"length": 7}, failed={"bad_request": 3})
    stats = queue_stats(teachers={"sim": Tally(answers=250)}, counts=counts, samples=2000, samples_left=1600)
    figures = progress.figures(stats)
    assert figures.dataset["samples"] == "450 of 2,000 settled, 400 sealed"
    assert figures.call["records"] == "190 (rejected 7, failed 3)"


def test_chunks_waiting_for_batches_are_shown(tmp_path: Path) -> None:
    """A run that sends no request for hours must not look stalled."""
    progress = Progress(recipe_of(tmp_path))
    shards = progress.figures(queue_stats(sealed=4, chunks=10, parked=3)).dataset["shards"]
    assert shards == "4 of 10, 3 with batches at the provider"
    assert progress.figures(queue_stats(sealed=4, chunks=10)).dataset["shards"] == "4 of 10"


def test_batches_are_shown_by_state(tmp_path: Path) -> None:
    """Workers' open batches and those of parked chunks; nothing is shown without a teacher in batch mode."""
    recipe = recipe_of(tmp_path)
    teacher = recipe.teachers[0].model_copy(update={"name": "t", "mode": "batch"})
    progress = Progress(recipe.model_copy(update={"teachers": (teacher,)}))
    tally = Tally(batches=5, batches_ended=2, batches_expired=1, batches_open=1)
    figures = progress.figures(queue_stats(teachers={"t": tally}, parked_batches={"t": 2}))
    assert figures.call["batches"] == "3 open, 5 created, 2 ended (1 with expired requests)"
    assert "batches" not in Progress(recipe_of(tmp_path)).figures(queue_stats()).call


def test_acceptance_is_shown_by_check_and_teacher(tmp_path: Path) -> None:
    """Of the answers judged so far; a check that has judged nothing is left out."""
    checks = [{"length": {"min": 1}}, {"regex": {"pattern": "x"}}, {"reasoning": {}}]
    teachers = [{"name": name, "api": "simulator"} for name in ("a", "b")]
    progress = Progress(recipe_of(tmp_path, checks=checks, teachers=teachers))
    one = Tally(accepted={"length": 90, "regex": 45}, rejected={"length": 10, "regex": 45})
    stats = queue_stats(teachers={"a": one, "b": Tally(accepted={"length": 80}, rejected={"length": 20})})
    accepted = progress.figures(stats).call["accepted"]
    assert accepted == "length 85% of 200 (a 90%, b 80%), regex 50% of 90"
    assert "accepted" not in progress.figures(queue_stats()).call


def test_the_whole_dataset_is_shown_apart_from_this_call(tmp_path: Path) -> None:
    """Generations sealed earlier count only for the dataset; the line says which figure is which."""
    progress = Progress(recipe_of(tmp_path))
    closed = Closed(rows=600, duplicates=6, bad=2, samples=592, chunks=12)
    counts = ShardCounts(records=40)
    stats = queue_stats(
        closed=closed, counts=counts, rows=100, asks=100, samples=100, samples_left=60, sealed=4, chunks=10
    )
    figures = progress.figures(stats)
    assert figures.dataset == {
        "prompts": "700 (6 duplicate, 2 bad)",
        "samples": "632 of 692 settled, 632 sealed",
        "shards": "16 of 22",
    }
    assert figures.call["records"] == "40 (rejected 0, failed 0)"
    line = figures.as_line()
    assert line.startswith("dataset: prompts 700 (6 duplicate, 2 bad); samples 632 of 692 settled, 632 sealed; shards")
    assert "; this call: records 40 (rejected 0, failed 0); requests 0 " in line


def test_a_job_logs_what_the_panel_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures come before the line for people; those of another version are recognised and ignored."""
    recipe = recipe_of(tmp_path)
    stats = queue_stats(rows=100, asks=100, samples=100, samples_left=60, sealed=4, chunks=10)
    JobLines(recipe).update(stats)
    figures, line = capsys.readouterr().err.splitlines()
    shown = figures_in(figures)
    assert shown is not None
    assert (is_figures(figures), is_figures(line)) == (True, False)
    assert (shown.answered, shown.total) == Progress(recipe).answered(stats)
    assert shown.figures.as_line() == line
    other = figures.replace('"answered":', '"settled":')
    assert (is_figures(other), figures_in(other)) == (True, None)


def test_repeated_requests_are_not_counted_twice(tmp_path: Path) -> None:
    """A retry's samples are those of prompts that the dataset has already."""
    closed = Closed(rows=600, samples=600, chunks=12)
    stats = queue_stats(
        closed=closed,
        again=True,
        rows=0,
        asks=7,
        samples=9,
        samples_left=9,
        teachers={"sim": Tally(answers=4)},
        chunks=1,
    )
    figures = Progress(recipe_of(tmp_path)).figures(stats)
    assert figures.dataset == {"prompts": "600 (0 duplicate, 0 bad)", "shards": "12 of 13"}
    assert figures.call["asked again"] == "7 prompts, samples 4 of 9 settled, 0 sealed"


def test_every_declared_limit_is_shown(tmp_path: Path) -> None:
    """By its account where there are several."""
    teachers = [{"name": name, "api": "simulator", "account": name, "limits": LIMITS} for name in ("a", "b")]
    stats = queue_stats(teachers={"a": Tally(in_flight=50)})
    one = Progress(recipe_of(tmp_path, teachers=teachers[:1])).figures(stats).call
    assert one["limits used"] == "requests 0%, in flight 100%"
    both = Progress(recipe_of(tmp_path, teachers=teachers)).figures(stats).call
    assert both["limits used"] == "a requests 0%, a in flight 100%, b requests 0%, b in flight 0%"


@pytest.mark.parametrize("no_color", [False, True])
def test_no_color_is_honoured(tmp_path: Path, no_color: bool) -> None:
    """There are colours unless NO_COLOR is set; the figures stay."""
    env = os.environ | {"TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parents[1])}
    env.pop("NO_COLOR", None)
    env |= {"NO_COLOR": "1"} if no_color else {}
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], stderr=theirs, env=env) as child:
        os.close(theirs)
        shown = b"".join(iter(lambda: _read(ours), b""))
    os.close(ours)
    assert child.returncode == 0, shown.decode()
    assert b"a note" in shown
    assert b"shards" in shown
    assert (COLOUR.search(shown) is None) == no_color


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # the other side is closed
        return b""


def test_progress_lines_are_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A follower that shows a table skips it; a note is not skipped."""
    lines = Lines(recipe_of(tmp_path))
    lines.update(queue_stats())
    lines.note("dataset: is local")
    progress, note = capsys.readouterr().err.splitlines()
    assert is_progress(progress)
    assert not is_progress(note)


def test_displayed_values_survive_serialisation(tmp_path: Path) -> None:
    """Complete, from a job to its followers."""
    shown = Progress(recipe_of(tmp_path)).shown(queue_stats(teachers={"sim": Tally(answers=250)}))
    assert Shown.model_validate_json(shown.model_dump_json()) == shown
    assert shown.answered == 250
