"""Word problems with known answers: GSM8K's if its file is available, otherwise the quickstart's."""

import json
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).parents[1]
GSM8K = ROOT.parent / "shared" / "data" / "gsm8k-train.jsonl"
OWN = ROOT / "cluster" / "quickstart" / "prompts.jsonl"


def write_problems(path: Path, *, most: int) -> dict[str, str]:
    """Write this many as {"prompt": ..., "answer": ...}, with numbers as answers; returns the answers by prompt.

    A prompt that is there already is left out.
    """
    answers: dict[str, str] = {}
    with (GSM8K if GSM8K.exists() else OWN).open(encoding="utf-8") as file:
        for row in map(json.loads, islice(file, most)):
            answer = str(row["answer"]).rpartition("####")[2].strip().replace(",", "")
            answers.setdefault(row.get("question") or row["prompt"], answer)
    rows = ({"prompt": prompt, "answer": answer} for prompt, answer in answers.items())
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return answers
