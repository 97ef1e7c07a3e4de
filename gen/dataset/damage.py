"""Errors for datasets with damaged or missing files, or files from a later version: each message and its advice,
once."""

from collections.abc import Iterator
from contextlib import contextmanager

from stillhouse.gen.errors import DatasetError
from stillhouse.gen.store.readable import ReadableStore


@contextmanager
def reporting_damage(store: ReadableStore, key: str) -> Iterator[None]:
    """Report damage to a stored file's content as a DatasetError.

    Raises:
        DatasetError: the file is missing, damaged, or holds something that no run writes.
    """
    import pyarrow as pa  # not at the top: messages of the other kinds are needed where pyarrow is not

    try:
        yield
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{store.url}/{key}: is missing or damaged ({type(error).__name__}); "
            "`stillhouse verify` says what can be done"
        ) from None


def damaged(origin: str, why: str = "") -> DatasetError:
    """A damaged file without which nothing else can be read; `origin`: its URL, `why`: what is wrong with it, if
    known."""
    return DatasetError(f"{origin}: is damaged; restore it, or use another dataset.path{why and f' ({why})'}")


def missing(url: str, key: str, *, beside: str) -> DatasetError:
    """Such a file is gone, but files that need it are there."""
    return DatasetError(f"{url}: holds {beside} but no {key}; restore that file, or use another dataset.path")


def newer(origin: str) -> DatasetError:
    """A file in a format of a newer version."""
    return DatasetError(f"{origin}: written by a newer version of Stillhouse; use that version")
