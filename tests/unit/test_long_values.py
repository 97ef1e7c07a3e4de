"""Columns of long values are those that Arrow makes of them at once."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gen.worker import long_values
from stillhouse.gen.worker.earlier_answers import fingerprint

TEXTS = st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=5)


@given(TEXTS, st.sampled_from([pa.string(), pa.large_string()]))
def test_texts_in_pieces_are_the_same_texts(values: list[str | None], kind: pa.DataType) -> None:
    """Whatever their characters, and where there are none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_values, "PIECE_BYTES", 3)
        found = long_values.array(values, kind)
    found.validate(full=True)
    assert found.equals(pa.array(values, kind))


@given(st.lists(st.none() | st.binary(max_size=20), max_size=5), st.sampled_from([pa.binary(), pa.large_binary()]))
def test_bytes_in_pieces_are_the_same_bytes(values: list[bytes | None], kind: pa.DataType) -> None:
    """The column of raw bodies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_values, "PIECE_BYTES", 3)
        found = long_values.array(values, kind)
    found.validate(full=True)
    assert found.equals(pa.array(values, kind))


@given(
    st.text(max_size=20),
    st.none() | st.just('[{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]'),
)
def test_the_fingerprint_of_a_text_in_pieces_is_the_same(text: str, calls: str | None) -> None:
    """Shards of any age compare with each other."""
    once = fingerprint(text, calls)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_values, "PIECE_BYTES", 3)
        assert fingerprint(text, calls) == once
