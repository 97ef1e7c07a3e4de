"""The result of a run in Python: the Summary, and the records that it counts."""

import html
from collections.abc import Sequence
from typing import Protocol, Self

import pyarrow as pa
from pydantic import PrivateAttr

from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.store import open_store
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.gen.views.records import read_records
from stillhouse.gen.views.summary import Summary


class _Printer(Protocol):
    """The part of IPython's printer that is used."""

    def text(self, text: str) -> None: ...


class RunResult(Summary):
    """The dataset after a run. A notebook shows it as text; `load` reads its records."""

    _store: ReadableStore | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, summary: Summary, store: ReadableStore) -> Self:
        """The summary of the dataset in the store."""
        result = cls(**dict(summary))
        result._store = store
        return result

    def load(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The dataset's records, including earlier runs, as a pyarrow Table in memory.

        Continue with `table.to_pandas()`, `polars.from_arrow(table)` or `datasets.Dataset(table)`. If the dataset is
        larger than memory, name only the `columns` that you need, or read `data/*.parquet` in batches.

        Raises:
            UsageError: there is no such column (`DatasetError`: or a shard is missing or damaged).
            StoreAway, StoreRefused: the store does not answer, or refuses.
        """
        return read_records(DatasetReader(self._store or open_store(self.dataset)), columns=columns)

    def _repr_pretty_(self, printer: _Printer, cycle: bool) -> None:  # noqa: FBT001 - IPython's signature
        """As IPython shows it."""
        printer.text("RunResult(…)" if cycle else self.as_text())

    def _repr_html_(self) -> str:
        """As a notebook shows it."""
        return f"<pre>{html.escape(self.as_text())}</pre>"
