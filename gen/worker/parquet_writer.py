"""Writes a Parquet file row by row in bounded memory, and counts and hashes its contents."""

import hashlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.gen.errors import StoreAway
from stillhouse.gen.worker.columns import columns

ROW_GROUP_BYTES = 32 * 2**20
"""Rows are written out once their texts have this total size."""
ROW_GROUP_ROWS = 10_000
"""Rows are written out once there are this many."""
COLUMN_ROWS = 1_000
"""Rows become columns when there are this many, because as Python objects they take several times the memory."""


class Sheet:
    """One file: `add` rows as tuples in the schema's order, then `finish`."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self._schema = schema
        self._rows: list[tuple[Any, ...]] = []
        self._tables: list[pa.Table] = []
        """Earlier rows of the row group."""
        self._bytes = 0
        self._writer: pq.ParquetWriter | None = None
        self._nulls: Counter[str] = Counter()
        self.rows = 0

    def add(self, row: tuple[Any, ...], *, size: int) -> None:
        """Append a row whose texts take about `size` bytes.

        Raises:
            StoreAway: the disk is full or failing.
        """
        self._rows.append(row)
        self._bytes += size
        self.rows += 1
        if len(self._rows) >= COLUMN_ROWS:
            self._convert()
        if self._bytes >= ROW_GROUP_BYTES or len(self._tables) * COLUMN_ROWS >= ROW_GROUP_ROWS:
            self._flush()

    def nulls_in(self, column: str) -> int:
        """Rows so far without a value in this column."""
        self._convert()
        return self._nulls[column]

    def finish(self, metadata: dict[str, str]) -> None:
        """Write the rest and close; the metadata goes into the file's footer."""
        self._flush()
        writer = self._open()
        try:
            writer.add_key_value_metadata(metadata)
            writer.close()
        except OSError as error:
            raise self._away(error) from error

    def sha256(self) -> str:
        """The finished file's SHA-256 in hex."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def remove(self) -> None:
        """Close and delete the local file."""
        if self._writer is not None and self._writer.is_open:
            with suppress(OSError):  # what was not written no longer matters
                self._writer.close()
        self.path.unlink(missing_ok=True)

    def _convert(self) -> None:
        if self._rows:
            arrays = columns(list(zip(*self._rows, strict=True)), self._schema)
            self._rows = []
            self._tables.append(pa.Table.from_arrays(arrays, schema=self._schema))
            self._nulls.update({name: array.null_count for name, array in zip(self._schema.names, arrays, strict=True)})

    def _flush(self) -> None:
        self._convert()
        if not self._tables:
            return
        table = pa.concat_tables(self._tables).unify_dictionaries()
        self._tables, self._bytes = [], 0
        try:
            self._open().write_table(table)
        except OSError as error:
            raise self._away(error) from error

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            names = [f.name for f in self._schema if pa.types.is_dictionary(f.type)]
            try:
                self._writer = pq.ParquetWriter(
                    self.path, self._schema, compression="zstd", use_dictionary=names, write_page_checksum=True
                )
            except OSError as error:
                raise self._away(error) from error
        return self._writer

    def _away(self, error: OSError) -> StoreAway:
        return StoreAway(f"{self.path}: can't be written ({error.strerror or error}); free disk space, then run again")
