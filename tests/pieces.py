"""Has bodies of any size read in pieces of a few bytes."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stillhouse.gen.teachers import in_pieces, long_lists

PIECE_BYTES = 40


@contextmanager
def small_pieces() -> Iterator[None]:
    """While it is entered."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (in_pieces, long_lists):
            patch.setattr(module, "PIECE_BYTES", PIECE_BYTES)
        patch.setattr(long_lists, "TAKEN_OUT_BYTES", 0)
        patch.setattr(long_lists, "FIRST_WINDOW_BYTES", 3)
        patch.setattr(long_lists, "WINDOW_BYTES", 17)
        yield
