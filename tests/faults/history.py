"""Compares what the teacher served with what the dataset holds: no answer is lost, asked again or twice there."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.dataset as ds


def check(dataset: Path, log: Path, *, samples: int, in_flight: int, kills: int) -> dict[str, int]:
    """The history's figures; raises AssertionError where a promise is broken.

    An answer that the teacher delivered while its asker was being killed may never have been received: of those there
    can be at most what was in flight at each kill.
    """
    served = [json.loads(line) for line in log.read_text().splitlines()]
    answered = {e["id"]: e["prompt"] for e in served if e["status"] == 200 and not e["fault"] and e["delivered"]}
    stored: Counter[str] = Counter()
    records: Counter[str] = Counter()
    for folder in ("data", "rejected"):
        if (dataset / folder).exists():
            columns = ["record_id", "response_id", "prompt_key"]
            table = ds.dataset(dataset / folder, format="parquet").to_table(columns=columns)
            for row in table.to_pylist():
                if row["record_id"] is not None:
                    stored[row["response_id"]] += 1
                    records[row["record_id"]] += 1
                    assert answered.get(row["response_id"]) == row["prompt_key"], f"never served: {row}"
    assert max(records.values(), default=1) == 1, "a record is there twice"
    assert max(stored.values(), default=1) == 1, "an answer is there twice"
    unseen = answered.keys() - stored.keys()
    assert len(unseen) <= in_flight * kills, f"{len(unseen)} delivered answers are not stored after {kills} kills"
    per_prompt = Counter(answered[i] for i in stored)
    assert set(per_prompt.values()) <= {samples}, "a prompt has more or fewer answers than samples"
    return {"served": len(served), "answered": len(answered), "stored": len(stored), "under way at a kill": len(unseen)}
