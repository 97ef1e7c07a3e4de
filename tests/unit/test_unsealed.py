"""Answers in journals are counted where people look: what is paid for is not lost because it is in no shard yet."""

from pathlib import Path

import pytest
from builders import FIRST, answer, body_of, index, open_chunk, questions, recipe_of, sealed, write_source
from s3_server import S3Server

from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.journal import unsealed
from stillhouse.gen.journal.shipping import ShippedJournal
from stillhouse.gen.views.summary import summarise
from stillhouse.gen.worker.open_chunk import OpenChunk
from stillhouse.schemas.recipe import Recipe


def begun(recipe: Recipe) -> OpenChunk:
    """The first chunk, with three answers, an error and a request in flight."""
    index(recipe)
    held = open_chunk(recipe)
    for ordinal in (0, 1, 2):
        answer(held, ordinal, body_of("yes"))
    answer(held, 3, b"{}", status=500)
    held.sent(4, at=5.0)
    return held


def test_journalled_answers_are_counted(tmp_path: Path) -> None:
    """Each sample once, and only until its chunk is sealed."""
    write_source(tmp_path, questions(10))
    recipe = recipe_of(tmp_path)
    held = begun(recipe)
    again = open_chunk(recipe, worker="w1")
    answer(again, 2, body_of("yes"))
    again.journal.close()
    summary = summarise(open_dataset(recipe))
    assert (summary.remaining, summary.unsealed) == (10, 3)
    assert "remaining  10 (3 of them answered: the next run seals these)" in summary.as_text()
    assert "tokens     none sealed yet" in summary.as_text()
    for ordinal in (3, *range(4, 10)):
        answer(held, ordinal, body_of("yes"), at=2000.0)
    sealed(recipe, held)
    summary = summarise(open_dataset(recipe))
    assert (summary.remaining, summary.unsealed) == (0, 0)
    assert "answered" not in summary.as_text()
    assert summary.as_text().splitlines()[-1] == "  tokens     50 in, 70 out"


def test_shipped_answers_are_counted(tmp_path: Path, s3: S3Server) -> None:
    """On S3 a reader sees what the workers shipped."""
    write_source(tmp_path, questions(10))
    recipe = recipe_of(
        tmp_path,
        dataset={"path": "s3://lake/out", "endpoint_url": s3.endpoint_url},
        run={"journal_dir": str(tmp_path / "journals")},
    )
    held = begun(recipe)
    store = open_dataset(recipe)
    assert summarise(store).unsealed == 0
    ShippedJournal(store, FIRST, held.journal).ship()
    assert summarise(store).unsealed == 3
    held.journal.close()


def test_large_journals_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so."""
    write_source(tmp_path, questions(10))
    recipe = recipe_of(tmp_path)
    begun(recipe).journal.close()
    monkeypatch.setattr(unsealed, "MOST_BYTES", 100)
    summary = summarise(open_dataset(recipe))
    assert summary.unsealed is None
    assert "remaining  10 (journals hold answers to many of them)" in summary.as_text()
