"""Checks one chunk's files against their metadata and the index.

Every page of a shard is read with its checksum, every side file with its hash. Rows are read in batches, so memory
holds one row group and a byte per sample.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.gen.counted import counted
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.series import Series
from stillhouse.gen.dataset.shard_meta import SIDES, ShardMeta, SideFile
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.gen.views.verify.expected import Expected, Identity
from stillhouse.gen.views.verify.findings import Finding, FindingKind
from stillhouse.gen.views.verify.selection import SelectionTally
from stillhouse.gen.views.verify.tally import Tally
from stillhouse.schemas.arrow import Columns, columns_of
from stillhouse.schemas.identity import grown_from, reduced
from stillhouse.schemas.select import Select
from stillhouse.schemas.version import META_KEY, SCHEMA_VERSION

UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""Exceptions that reading a damaged Parquet file raises."""

_BATCH_ROWS = 1024
_SAMPLE = ("record_id", "prompt_id", "prompt_key", "sample", "teacher")
_USED = ("input_tokens", "output_tokens", "cost_usd")
_COLUMNS = {
    "data": (*_SAMPLE, *_USED),
    "rejected": (*_SAMPLE, *_USED, "reject_reason", "duplicate_of"),
    "failed": (*_SAMPLE, "kind", "file", "line", "message"),
}


@dataclass(slots=True)
class ShardCheck:
    """The findings about one chunk."""

    chunk: ChunkId
    findings: list[Finding] = field(default_factory=list)
    meta: ShardMeta | None = None
    ids: bytearray = field(default_factory=bytearray)
    """The record ids in data/ and rejected/, 16 bytes each."""
    rows: Counter[str] = field(default_factory=Counter)
    """By file: data, rejected, failed, raw."""
    answers: int = 0
    """Samples in data/ and rejected/ that belong to the chunk."""
    duplicates: int = 0
    """Rows of duplicate prompts in rejected/."""
    bad_rows: int = 0
    """Rows of bad source rows in failed/."""

    @property
    def owner(self) -> ChunkId:
        """The chunk that the shard says it belongs to."""
        return ChunkId(self.meta.generation, self.meta.chunk) if self.meta else self.chunk


def check_shard(
    store: ReadableStore,
    chunk: ChunkId,
    *,
    identity: Identity | None,
    kept: Sequence[pa.Field] | None,
    expected: Expected | None,
) -> ShardCheck:
    """Check a chunk's shard and its side files; arguments that are None are unknown, and not checked.

    Raises:
        StoreAway, StoreRefused: the store does not answer, or refuses.
    """
    check = _Checking(store, chunk, identity, kept, expected)
    check.shard()
    check.side_files()
    check.compare()
    return check.result


class _Checking:
    def __init__(
        self,
        store: ReadableStore,
        chunk: ChunkId,
        identity: Identity | None,
        kept: Sequence[pa.Field] | None,
        expected: Expected | None,
    ) -> None:
        self.result = ShardCheck(chunk)
        self._store = store
        self._chunk = chunk
        self._identity = identity
        self._kept = kept
        self._expected = expected
        self._whole = True
        """True if all rows of all files were seen."""
        self._tally = Tally(identity, expected)
        self._selection = _selection(identity)

    def _found(self, kind: FindingKind, message: str, *, key: str | None = None) -> None:
        self.result.findings.append(Finding(kind=kind, key=key or self._chunk.data_key, message=message))

    # --- reading

    def shard(self) -> None:
        """Read the data file and its metadata."""
        try:
            with self._store.open(self._chunk.data_key) as file:
                shard = pq.ParquetFile(file, page_checksum_verification=True)
                self._take_meta(shard.metadata.metadata or {})
                self._read(shard, "data", self._chunk.data_key)
        except UNREADABLE as error:
            self._whole = False
            # An error of the system says nothing about the shard, which may be readable another time.
            at_fault: FindingKind = "disk" if isinstance(error, OSError) and error.errno is not None else "unreadable"
            self._found(at_fault, f"can't be read: {_reason(error)}")

    def _take_meta(self, footer: dict[bytes, bytes]) -> None:
        try:
            self.result.meta = meta = ShardMeta.model_validate(orjson.loads(footer[META_KEY.encode()]))
        except (KeyError, ValueError):
            self._found("metadata", "has no metadata of Stillhouse: another program wrote or rewrote it")
            return
        if meta.schema_version > SCHEMA_VERSION:
            self._found("version", "was written by a newer version of Stillhouse; use that version")
        if self.result.owner != self._chunk:
            self._found("metadata", f"holds chunk {self.result.owner}, by its own metadata")
        if self._identity is not None and not grown_from(self._identity.bound.identity, _reduced(meta.identity)):
            self._found("identity", "was created with a different recipe than _stillhouse/recipe.yaml")

    def side_files(self) -> None:
        """Read the files that the shard names."""
        meta = self.result.meta
        if meta is None or self.result.owner != self._chunk:
            self._whole = False
            return
        for kind in SIDES:
            if (side := meta.side.get(kind)) is not None:
                try:
                    self._side_file(kind, side, seal=meta.seal)
                except FileNotFoundError:
                    self._side_damaged(kind, side, "is gone")
                except UNREADABLE as error:
                    self._side_damaged(kind, side, f"can't be read: {_reason(error)}")

    def _side_file(self, kind: str, side: SideFile, *, seal: str) -> None:
        if side.key != self._chunk.side_key(kind, seal):
            self._found("metadata", f"names {side.key}, which is not a {kind} file of this seal")
            self._whole = False
            return
        with self._store.open(side.key) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != side.sha256:  # type: ignore[arg-type]
                self._side_damaged(kind, side, "is not what was written: its SHA-256 differs")
                return
            file.seek(0)
            parquet = pq.ParquetFile(file)
            if kind == "raw":
                self.result.rows["raw"] = parquet.metadata.num_rows
            else:
                self._read(parquet, kind, side.key)
        if self.result.rows[kind] != side.rows:
            self._side_damaged(kind, side, f"has {counted(self.result.rows[kind], 'row')}, expected {side.rows:,}")

    def _side_damaged(self, kind: str, side: SideFile, message: str) -> None:
        self._whole = self._whole and kind == "raw"
        self._found("raw_file" if kind == "raw" else "side_file", message, key=side.key)

    def _read(self, parquet: pq.ParquetFile, kind: str, key: str) -> None:
        ours = _schema(self._columns(), kind)
        wanted = None if self._kept is None else _schema(self._columns().with_kept(self._kept), kind)
        schema = parquet.schema_arrow
        if wanted is not None and not schema.equals(wanted):
            self._found("schema", f"has other columns than expected{_difference(schema, wanted)}", key=key)
        selected = self._selection.columns if self._selection is not None and kind != "failed" else ()
        fields = [(schema.get_field_index(name), ours.field(name)) for name in (*_COLUMNS[kind], *selected)]
        readable = all(at >= 0 and schema.field(at).type == field.type for at, field in fields)
        self._whole = self._whole and readable
        for batch in parquet.iter_batches(_BATCH_ROWS):
            self.result.rows[kind] += len(batch)
            if readable:
                self._tally.take(kind, zip(*(batch[name].to_pylist() for name in _COLUMNS[kind]), strict=True))
                if self._selection is not None and kind != "failed":
                    self._selection.take(kind, batch)

    def _columns(self) -> Columns:
        """The columns that the dataset is bound to; if unknown, those of a plain dataset created today."""
        if self._identity is None:
            return columns_of(SCHEMA_VERSION, {})
        return self._identity.bound.columns

    # --- comparing

    def compare(self) -> None:
        """Compare the rows with the metadata and the index."""
        result, tally, meta = self.result, self._tally, self.result.meta
        result.ids = tally.ids
        result.answers = tally.answers
        result.duplicates, result.bad_rows = tally.duplicates, tally.bad_rows
        if meta is not None and result.owner == self._chunk:
            result.answers = max(result.answers, meta.counts.records + sum(meta.counts.rejected.values()))
        if not self._whole:
            return
        assert meta is not None
        self._compare_counts(meta)
        if self._expected is not None:
            if meta.counts.retried != self._expected.retried:
                words = f"its metadata says {meta.counts.retried}, the index {dict(self._expected.retried)}"
                self._found("counts", f"retried: {words}")
            if self._expected.accept:
                self._compare_accepted(meta, self._expected)
            for message in tally.against(self._expected):
                self._found("samples", message)
            if self._selection is not None:
                for message in self._selection.against(again=self._expected.again, accept=self._expected.accept > 0):
                    self._found("selection", message)
        if tally.wrong_ids:
            self._found("record_ids", f"{tally.wrong_ids} record ids or prompt ids do not match their prompts")

    def _compare_accepted(self, meta: ShardMeta, expected: Expected) -> None:
        compared = {
            "not_needed": (meta.counts.not_needed, self._tally.unseen),
            "prompts_by_accepted": (meta.counts.prompts_by_accepted, self._tally.by_accepted(expected)),
        }
        for name, (said, seen) in compared.items():
            if said != seen:
                self._found("counts", f"{name}: its metadata says {said}, its files hold {seen}")

    def _compare_counts(self, meta: ShardMeta) -> None:
        rows, tally, counts = self.result.rows, self._tally, meta.counts
        answers = counts.records + sum(counts.rejected.values())
        unchecked = counts.failed.get("unchecked", 0)
        compared: dict[str, tuple[Any, Any]] = {
            "records": (counts.records, rows["data"]),
            "rejected": (counts.rejected, dict(tally.reasons)),
            "failed": (counts.failed, dict(tally.kinds)),
            "input_tokens": (counts.input_tokens, tally.input),
            "output_tokens": (counts.output_tokens, tally.output),
            "raw answers": (unchecked + (answers if rows["raw"] > unchecked else 0), rows["raw"]),
        }
        for name, (said, seen) in compared.items():
            if said != seen:
                self._found("counts", f"{name}: its metadata says {said}, its files hold {seen}")
        if (counts.usd is None) != (tally.usd is None) or not math.isclose(
            counts.usd or 0.0, tally.usd or 0.0, rel_tol=1e-6, abs_tol=1e-9
        ):
            self._found("counts", f"usd: its metadata says {counts.usd}, its files hold {tally.usd}")


def _selection(identity: Identity | None) -> SelectionTally | None:
    if identity is None or not (select := identity.bound.identity.get("select")):
        return None
    return SelectionTally(Select.model_validate(select), Series.of(identity.bound.identity))


def _schema(columns: Columns, kind: str) -> pa.Schema:
    return {"data": columns.data, "rejected": columns.rejected, "failed": columns.failed}[kind]


def _reduced(identity: dict[str, Any]) -> dict[str, Any]:
    """The identity in today's form; unchanged if it is not one."""
    try:
        return reduced(identity)
    except (KeyError, TypeError, AttributeError):
        return identity


def _difference(schema: pa.Schema, wanted: pa.Schema) -> str:
    for field_ in wanted:
        found = schema.field(field_.name) if field_.name in schema.names else None
        if found is None or not found.equals(field_):
            return f": {field_} is {'missing' if found is None else found.type}"
    return ": there are more, or in a different order"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
