"""The process of a `function` with `per: chunk`: reads its task as JSON from standard input, does it, and ends."""

import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from stillhouse.gen.checks.base import CannotSay
from stillhouse.gen.checks.confine import die_with, set_limits
from stillhouse.gen.checks.function import loaded, result_of
from stillhouse.gen.errors import UsageError, cause_of
from stillhouse.schemas.function_check import FunctionCheck

MEMORY_BYTES = 4 * 2**30
"""Several times what a chunk of long answers needs. This does not limit address space, because each thread that Arrow
starts reserves much more of it than it uses."""
_EXPECTED = "expected an Arrow table, an Arrow array or a list with as many rows as it was given"


def main() -> None:
    """Call the function, and write a verdict for each row, or why there is none."""
    given = orjson.loads(sys.stdin.buffer.read())
    die_with(given["parent"])
    set_limits((resource.RLIMIT_DATA, MEMORY_BYTES), (resource.RLIMIT_CORE, 0))
    settings = FunctionCheck.model_validate_json(given["settings"])
    with pa.memory_map(given["answers"]) as source:
        table = pa.ipc.open_file(source).read_all()
    Path(given["verdicts"]).write_bytes(orjson.dumps(_verdicts(settings, table)))


def _verdicts(settings: FunctionCheck, table: pa.Table) -> list[tuple[Any, ...]] | str:
    try:
        said = loaded(settings)(table)
    except UsageError as error:
        return str(error)
    except BaseException as error:  # noqa: BLE001 - SystemExit too: whatever it does is this chunk's matter
        return f"raised {cause_of(error)}"
    rows = said.to_pylist() if isinstance(said, (pa.Table, pa.RecordBatch, pa.Array, pa.ChunkedArray)) else said
    if not isinstance(rows, Sequence) or isinstance(rows, str) or len(rows) != table.num_rows:
        got = f"{len(rows)}" if isinstance(rows, Sequence) else f"a {type(rows).__name__}"
        return f"{_EXPECTED}, {table.num_rows}, got {got}"
    return [_verdict(settings, row) for row in rows]


def _verdict(settings: FunctionCheck, said: Any) -> tuple[Any, ...]:
    try:
        result = result_of(settings, said)
    except CannotSay as error:
        return (str(error),)
    return result.accepted, result.score, result.detail, result.own


if __name__ == "__main__":
    main()
