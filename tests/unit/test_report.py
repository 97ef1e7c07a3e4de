"""The report: what it says is what is stored, whatever is stored; nothing of it acts, and it does not grow with it."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import answer, body_of, chunk_of, index, questions, recipe_of, sealed, write_source
from click.testing import CliRunner
from s3_server import S3Server

from stillhouse.cluster.cli import main
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.views.report import report
from stillhouse.gen.views.report.histogram import Histogram
from stillhouse.gen.views.report.shown import shown
from stillhouse.gen.views.report.timeline import PAUSE_S, Timeline
from stillhouse.gen.worker.sealing import Sealer
from stillhouse.schemas.recipe import Recipe

HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(1)>=cmd|"/C calc"\x1b[31m\u202eevil\u0007'


class Seen(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.text += data


def dataset(root: Path, *, text: str = "an answer", rows: list[Any] | None = None, **changes: Any) -> Recipe:
    """Two chunks, of which the first is sealed: five records, one too long, one refused as filtered."""
    source = rows or [*questions(12), *questions(1)]
    recipe, held = chunk_of(root, source, dataset={"prompts_per_shard": 7}, **changes)
    for ordinal, finish in enumerate(("stop",) * 5 + ("length", "content_filter")):
        answer(held, ordinal, body_of(f"{text} {ordinal}", finish=finish, reasoning_content=text), at=1000.0 + ordinal)
    sealed(recipe, held)
    return recipe


def test_the_page_shows_what_is_stored(tmp_path: Path) -> None:
    """Counts, outcomes, provenance and rows of a partial dataset."""
    seen = Seen(report(open_dataset(dataset(tmp_path))))
    for words in ("This dataset is not finished", "1 duplicate", "Answers per minute", "what is 1 + 1?", "an answer 3"):
        assert words in seen.text
    assert re.search(r"length\s*1 \(14\.3%\)|1 \(50\.0%\)", seen.text)
    assert "built-in simulator" in seen.text


def test_hostile_content_is_inert(tmp_path: Path) -> None:
    """HTML, formulas, escapes and bidi controls in prompts, answers and reasoning come out as text."""
    rows = [{"id": f"{n}{HOSTILE}", "question": f"{HOSTILE} {n}"} for n in range(8)]
    page = report(open_dataset(dataset(tmp_path, text=HOSTILE, rows=rows)))
    seen = Seen(page)
    assert not {"script", "img", "iframe", "link", "object"} & seen.tags
    assert not {name for name in seen.attributes if name.startswith("on")} | ({"src"} & seen.attributes)
    assert "<script>alert(1)</script>" in seen.text
    assert not set("\x1b\u202e\x07") & set(page)
    assert "default-src 'none'" in page


def test_giant_cells_are_cut(tmp_path: Path) -> None:
    """5 MB of answer are not 5 MB of page."""
    page = report(open_dataset(dataset(tmp_path, text="x" * 5_000_000)))
    assert len(page) < 400_000
    assert "more characters" in page


def test_a_dataset_without_shards_has_a_page(tmp_path: Path) -> None:
    """A run that only begins can be looked at."""
    write_source(tmp_path, questions(2))
    recipe = recipe_of(tmp_path)
    index(recipe)
    assert "No shard is sealed yet" in report(open_dataset(recipe))


def test_a_missing_dataset_and_damage_are_reported(tmp_path: Path) -> None:
    """The command ends with 2 and the key of what is wrong."""
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert (result.exit_code, "not a Stillhouse dataset" in result.output) == (2, True)
    recipe = dataset(tmp_path)
    (damaged,) = Path(recipe.dataset.path).glob("rejected/*.parquet")
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=damaged.name):
        report(open_dataset(recipe))


@pytest.mark.parametrize(
    ("column", "value"),
    [("latency_s", float("nan")), ("asked_at", datetime(9999, 12, 31, tzinfo=UTC)), ("asked_at", None)],
    ids=["no number", "far away", "no column"],
)
def test_unexpected_values_are_reported(tmp_path: Path, column: str, value: object) -> None:
    """A shard that another program rewrote with our metadata is damage, not a crash; `verify` agrees."""
    recipe = dataset(tmp_path)
    shard = Path(recipe.dataset.path) / "data" / "part-000-000000.parquet"
    table = pq.read_table(shard)
    at = table.schema.get_field_index(column)
    if value is None:
        table = table.remove_column(at)
    else:
        field = table.schema.field(at)
        table = table.set_column(at, field, pa.array([value] * len(table), field.type))
    pq.write_table(table, shard)
    with pytest.raises(DatasetError, match=r"part-000-000000\.parquet: is missing or damaged"):
        report(open_dataset(recipe))


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    """To a file whose name it prints, to stdout, or not at all where it can't."""
    recipe = dataset(tmp_path)
    target = tmp_path / "page.html"
    run = CliRunner()
    assert run.invoke(main, ["report", recipe.dataset.path, "-o", str(target)]).output == f"{target}\n"
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert run.invoke(main, ["report", recipe.dataset.path, "-o", "-"]).output.startswith("<!doctype html>")
    for inside in ("data/part-000-000000.parquet", "report.html", ""):
        output = f"{recipe.dataset.path}/{inside}" if inside else ""
        refused = run.invoke(main, ["report", recipe.dataset.path, "-o", output])
        assert (refused.exit_code, "outside the dataset" in refused.output) == (2, True)
    assert not (Path(recipe.dataset.path) / "report.html").exists()
    failed = run.invoke(main, ["report", recipe.dataset.path, "-o", str(tmp_path / "no" / "page.html")])
    assert (failed.exit_code, "can't be written" in failed.output) == (2, True)


def test_a_dataset_on_s3_has_the_same_page(tmp_path: Path, s3: S3Server) -> None:
    """The store makes no difference."""
    url = f"s3://{s3.bucket}/set"
    where = {"path": url, "prompts_per_shard": 2, "endpoint_url": s3.endpoint_url}
    recipe, held = chunk_of(tmp_path, questions(2), dataset=where, run={"journal_dir": str(tmp_path / "journals")})
    for ordinal in range(2):
        answer(held, ordinal, body_of(f"answer {ordinal}"))
    Sealer(open_dataset(recipe), recipe, held).seal()
    page = CliRunner().invoke(main, ["report", url, "--endpoint-url", s3.endpoint_url, "-o", "-"])
    assert "answer 1" in page.output


def test_shown_text_is_cut_and_cleaned() -> None:
    """Line breaks and joiners stay; what acts is written out."""
    assert shown("a\r\nb\t\u200d\x1b[0m\u202e") == "a\nb\t\u200d\\x1b[0m\\u202e"
    assert shown("x" * 10, most=4) == "xxxx… (6 more characters)"


def test_a_histogram_gives_its_quantiles() -> None:
    """Within the width of a bin; zero, null and NaN do no harm."""
    histogram = Histogram()
    histogram.add(pa.chunked_array([[float(n) for n in range(1, 1001)]]))
    histogram.add(pa.chunked_array([[0.0, None, float("nan"), float("inf")]]))
    assert (histogram.count, round(histogram.total)) == (1001, 500_500)
    assert histogram.quantile(0.5) == pytest.approx(500, rel=0.03)
    assert histogram.quantile(0.99) == pytest.approx(990, rel=0.03)
    assert sum(count for _, _, count in histogram.bars()) == 1001


def answers_at(*seconds: float, latency_s: float = 1.0) -> pa.Table:
    """An answer of 10 and 20 tokens at each time."""
    asked = pa.array([datetime.fromtimestamp(at, UTC) for at in seconds], pa.timestamp("us", tz="UTC"))
    count = len(seconds)
    columns = {"asked_at": asked, "latency_s": pa.array([latency_s] * count, pa.float32())}
    return pa.table(columns | {"input_tokens": [10] * count, "output_tokens": [20] * count})


def test_the_timeline_leaves_pauses_out() -> None:
    """Two minutes of work with a day between are two minutes of work, and all answers are in them."""
    timeline = Timeline()
    for start in (1_000_000, 1_086_400):
        timeline.add(answers_at(*(start + n / 10 for n in range(600))))
    (pause,) = timeline.pauses()
    assert pause.length_s == pytest.approx(86_400 - 61, abs=2)
    assert timeline.working_s == pytest.approx(122, abs=2)
    points = list(timeline.points())
    assert sum(point.answers_per_minute * point.length_s / 60 for point in points) == pytest.approx(1200)
    assert sum(point.output_tokens_per_minute * point.length_s / 60 for point in points) == pytest.approx(24_000)
    assert points[-1].in_flight == 0


def test_the_timeline_is_bounded() -> None:
    """However long a run takes, it is drawn by about as many points, and a slow answer is not a pause."""
    timeline = Timeline()
    for day in range(40):
        timeline.add(answers_at(*(day * 86_400 + n * 60 for n in range(1440)), latency_s=PAUSE_S + 1))
    points = list(timeline.points())
    assert list(timeline.pauses()) == []
    assert len(points) < 300
    assert max(point.in_flight for point in points) == pytest.approx(PAUSE_S / 60, abs=10)
