"""What scores in vLLM's form cost from a reply's bytes to Parquet, against a bare script: scripts/bench scores

1,000 tokens after a prompt of 200, with 64 alternatives each. The bare script parses with orjson, gathers the numbers
into numpy arrays and writes them; it checks nothing and keeps no journal. The bar: at most twice the CPU per MB.
"""

import random
import sys
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from benchmark.labels import least_ms, report, written
from stillhouse.gen.journal.frames import Frame, Kind, encode
from stillhouse.gen.teachers.given_scores import aligned
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.gen.teachers.transport import Reply
from stillhouse.gen.worker.score_columns import score_columns
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.scored import Scored
from stillhouse.schemas.teacher import Teacher

PROMPT, TOKENS, TOP, VOCABULARY = 200, 1_000, 64, 32_000


def main() -> int:
    """Print what each costs; 1 if ours misses the bar."""
    chance = random.Random(0)
    prompt, completion = ([chance.randrange(VOCABULARY) for _ in range(count)] for count in (PROMPT, TOKENS))
    items = [None, *(item_of(token, chance) for token in [*prompt, *completion][1:])]
    choice = {"text": "a", "prompt_logprobs": items, "prompt_token_ids": [*prompt, *completion]}
    body = orjson.dumps({"choices": [choice]})
    score = {"score": {"prompt_ids": "p", "completion_ids": "c", "top": TOP}}
    reader = Interpreter(Teacher.model_validate({"name": "sim", "api": "simulator"}), Ask.model_validate(score))
    scored = Scored.of(prompt, completion)
    ours, bare = (least_ms(lambda: _ours(reader, body, scored)), least_ms(lambda: _bare(body, completion)))
    return report("bare orjson", "Stillhouse", bare / len(body) * 1e6, ours / len(body) * 1e6)


def item_of(token: int, chance: random.Random) -> dict[str, Any]:
    """One token with its alternatives, in vLLM's form."""
    ids = dict.fromkeys([token, *(chance.randrange(VOCABULARY) for _ in range(TOP - 1))])
    return {
        str(each): {"logprob": -10 * chance.random(), "rank": rank, "decoded_token": f" t{each}"}
        for rank, each in enumerate(ids, 1)
    }


def _ours(reader: Interpreter, body: bytes, scored: Scored) -> int:
    encode(Frame(Kind.ANSWERED, 0, 1.0, 1.0, 200, "host", body, (), 0))
    answer = aligned(reader.read(Reply(200, {}, body, 0.0)), scored)
    assert isinstance(answer, Completion), answer
    return written(pa.table(score_columns([answer.scores])))


def _bare(body: bytes, completion: list[int]) -> int:
    items = orjson.loads(body)["choices"][0]["prompt_logprobs"][-len(completion) :]
    logprobs = np.array(
        [item[str(token)]["logprob"] for token, item in zip(completion, items, strict=True)], np.float32
    )
    ids = np.array([int(each) for item in items for each in item], np.int32)
    tops = np.array([each["logprob"] for item in items for each in item.values()], np.float32)
    ends = pa.array(np.cumsum([0, *map(len, items)]), pa.int32())
    row, nest = pa.array([0, len(items)], pa.int32()), pa.ListArray.from_arrays
    columns = {"token_logprobs": nest(row, pa.array(logprobs))}
    columns |= {"top_ids": nest(row, nest(ends, pa.array(ids))), "top_logprobs": nest(row, nest(ends, pa.array(tops)))}
    return written(pa.table(columns))


if __name__ == "__main__":
    sys.exit(main())
