"""A dataset as its readers see it."""

from pathlib import Path

import pytest

from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store import open_store


def test_a_place_without_a_dataset_is_reported(tmp_path: Path) -> None:
    """With what is missing, whichever command reads it."""
    with pytest.raises(DatasetError, match=r"not a Stillhouse dataset .*recipe\.yaml"):
        _ = DatasetReader(open_store(str(tmp_path))).bound


def test_a_reader_shows_one_consistent_state(tmp_path: Path) -> None:
    """So that what it counts adds up during a run; another one shows what came since."""
    store = open_store(str(tmp_path))
    first, second = ChunkId(0, 0), ChunkId(0, 1)
    store.put_new(second.data_key, b"")
    reader = DatasetReader(store)
    assert reader.shards == (second,)
    store.put_new(first.data_key, b"")
    assert reader.shards == (second,)
    assert DatasetReader(store).shards == (first, second)
