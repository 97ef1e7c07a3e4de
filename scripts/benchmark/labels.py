"""What log-probabilities cost from a reply's bytes to Parquet, against a bare script: scripts/bench labels

An answer of 2,000 tokens with 20 alternatives each (some 3 MB) is framed for the journal, read, made into columns and
written, as a worker and a seal do. The bare script gives the same entries, cut out beforehand, to pyarrow's JSON reader
and writes what that returns. The bar: at most twice the CPU per MB.
"""

import io
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from benchmark.bars import judged
from stillhouse.gen.journal.frames import Frame, Kind, encode
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.score_columns import score_columns
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.teacher import Teacher

TOKENS, TOP, ROUNDS, BAR = 2_000, 20, 7, 2.0
_ENTRY = [("token", pa.string()), ("logprob", pa.float64()), ("bytes", pa.list_(pa.uint8()))]
_ENTRIES = pa.list_(pa.struct([*_ENTRY, ("top_logprobs", pa.list_(pa.struct(_ENTRY)))]))
_SCHEMA = pa.schema([("entries", _ENTRIES)])


def main() -> int:
    """Print what each costs; 1 if ours misses the bar."""
    entries = entries_of(random.Random(0), TOKENS)
    message = {"role": "assistant", "content": "".join(entry["token"] for entry in entries)}
    choice = {"index": 0, "message": message, "logprobs": {"content": entries}, "finish_reason": "stop"}
    body, line = orjson.dumps({"choices": [choice]}), orjson.dumps({"entries": entries})
    reader = Interpreter(Teacher.model_validate({"name": "sim", "api": "simulator"}), Ask(top_logprobs=TOP))
    ours, bare = (least_ms(lambda: _ours(reader, body)), least_ms(lambda: _bare(line)))
    return report("bare pyarrow", "Stillhouse", bare / len(body) * 1e6, ours / len(body) * 1e6)


def report(bare: str, own: str, bare_ms: float, own_ms: float) -> int:
    """Print two lines, of milliseconds of CPU per MB of reply; 1 if the second misses the bar."""
    times = own_ms / bare_ms
    print(f"{bare:17}{bare_ms:7.1f} ms of CPU per MB of reply")
    said = f"{own:17}{own_ms:7.1f} ms, {times:.2f} times as much (bar: at most {BAR:g})"
    return judged(said, met=times <= BAR)


def least_ms(work: Callable[[], object]) -> float:
    """Milliseconds of CPU, the least of the rounds: others only ever add to it."""
    spent = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return min(spent) * 1e3


def written(table: pa.Table) -> int:
    """The table's bytes as Parquet."""
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.tell()


def entries_of(chance: random.Random, tokens: int) -> list[dict[str, Any]]:
    """So many tokens with their alternatives, in OpenAI's form."""

    def entry() -> dict[str, Any]:
        token = f" {chance.choice(('w', 'é', '}]', '世'))}{chance.randrange(500)}"
        return {"token": token, "logprob": -10 * chance.random(), "bytes": list(token.encode())}

    return [entry() | {"top_logprobs": [entry() for _ in range(TOP)]} for _ in range(tokens)]


def _ours(reader: Interpreter, body: bytes) -> int:
    encode(Frame(Kind.ANSWERED, 0, 1.0, 1.0, 200, "host", body, (), 0))
    answer = reader.read(Reply(200, {}, body, 0.0))
    assert isinstance(answer, Completion), answer
    return written(pa.table(score_columns([answer.scores])))


def _bare(line: bytes) -> int:
    read = pa.json.ReadOptions(use_threads=False, block_size=len(line) + 1)
    return written(pa.json.read_json(io.BytesIO(line), read, pa.json.ParseOptions(explicit_schema=_SCHEMA)))


if __name__ == "__main__":
    sys.exit(main())
