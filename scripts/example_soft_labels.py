"""Distil soft labels: train a student towards the teacher's top-k distribution, token by token, on a CPU.

    stillhouse run quickstart -o ask.top_logprobs=5 -o dataset.path=out/soft
    python -m venv .venv-torch && .venv-torch/bin/pip install torch transformers datasets
    .venv-torch/bin/python scripts/example_soft_labels.py out/soft

If a server gives no token ids, tokens are named by their bytes, and each becomes the student's id of that text. A
student with the teacher's own tokenizer has nearly all of them (half a character is not text), and with `ask.token_ids`
nothing has to be looked up: the columns `token_ids` and `top_ids` hold its own ids. With another tokenizer, a token
that is several of the student's tokens is only context, not a label; such an alternative is left out, and the others
are scaled up to 1. For a real student, load it and its tokenizer by name, and use its chat template.
"""

import argparse
import functools
import math
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any, TypeAlias

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")  # before imports

try:
    import datasets
    import tokenizers
    import torch
    import transformers
except ImportError as error:
    print(f"found no {error.name}; install it: pip install torch transformers datasets", file=sys.stderr)
    sys.exit(2)

Row: TypeAlias = dict[str, Any]
Tokenizer: TypeAlias = transformers.PreTrainedTokenizerFast
COLUMNS = ("tokens", "token_logprobs", "top_tokens", "top_logprobs")
Label: TypeAlias = tuple[int, list[int], list[float]]  # the place that predicts it, the ids, their log-probabilities


def read(dataset: Path, *, most: int) -> list[Row]:
    """Prompts and log-probabilities of the first `most` records that have them, with the tokens' bytes."""
    if not any(dataset.glob("data/*.parquet")):
        sys.exit(f"expected shards in {dataset}/data, found none; the head of {sys.argv[0]} says how to make them")
    rows = datasets.load_dataset("parquet", data_files=f"{dataset}/data/*.parquet", split="train", streaming=True)
    if not {*COLUMNS} <= {*(rows.column_names or ())}:
        sys.exit(f"expected the columns {', '.join(COLUMNS)} in {dataset}; make it with ask.top_logprobs")
    found = list(rows.select_columns(["prompt", *COLUMNS]).filter(lambda row: row["tokens"]).take(most))
    return found or sys.exit(f"expected records with the tokens' bytes in {dataset}; make it without ask.token_ids")


def make_tokenizer(rows: list[Row]) -> Tokenizer:
    """Bytes, and the 1,000 commonest of the teacher's tokens."""
    core = tokenizers.ByteLevelBPETokenizer()
    core.train_from_iterator([], vocab_size=257, special_tokens=["<|answer|>"], show_progress=False)
    tokenizer = Tokenizer(tokenizer_object=tokenizers.Tokenizer.from_str(core.to_str()))
    places = (place for row in rows for place in zip(row["tokens"], row["top_tokens"], strict=True))
    common = Counter(token for answered, top in places for token in [answered, *top]).most_common(1000)
    tokenizer.add_tokens([token.decode(errors="replace") for token, _ in common])
    return tokenizer


def make_student(vocab_size: int) -> transformers.LlamaForCausalLM:
    """A Llama of two layers with random weights, the same each time."""
    transformers.set_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=vocab_size, **sizes))


def labelled(row: Row, tokenizer: Tokenizer, counts: Counter[str]) -> tuple[list[int], list[Label]]:
    """The student's ids of prompt and answer, and a label for each of the teacher's tokens that is one of its own."""
    encode = functools.partial(tokenizer.encode, add_special_tokens=False)
    ids_of = functools.cache(lambda token: encode(token.decode(errors="replace")))
    ids = encode("\n".join(message["content"] for message in row["prompt"]) + "<|answer|>")
    labels: list[Label] = []
    for token, logprob, top, logprobs in zip(*(row[name] for name in COLUMNS), strict=True):
        answered = ids_of(token)
        known: dict[int, float] = {}
        if len(answered) == 1 and math.isfinite(logprob):  # it is not always among the top k
            known[answered[0]] = logprob
        for each, each_logprob in zip(top, logprobs, strict=True):
            found = ids_of(each)
            if len(found) == 1 and math.isfinite(each_logprob):
                known[found[0]] = each_logprob
            else:
                counts["alternatives left out"] += 1
        if len(answered) == 1 and known:
            labels.append((len(ids) - 1, list(known), list(known.values())))
        ids += answered
    counts.update({"tokens": len(row["tokens"]), "labels": len(labels)})
    return ids, labels


def divergence(logits: torch.Tensor, labels: list[Label]) -> torch.Tensor:
    """KL(teacher || student) in nats a label, the teacher's distribution scaled to 1 over the ids it has."""
    total = 0 * logits.sum()  # with a gradient, also where there is no label
    for place, ids, logprobs in labels:
        teacher = torch.log_softmax(torch.tensor(logprobs), dim=0)
        total = total + (teacher.exp() * (teacher - torch.log_softmax(logits[place], dim=0)[ids])).sum()
    return total / max(1, len(labels))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", nargs="?", type=Path, default=Path("out/soft"))
    parser.add_argument("--output", type=Path, default=Path("out/soft-student"))
    parser.add_argument("--steps", type=int, default=12, help="of 8 records each")
    options = parser.parse_args()
    rows = read(options.dataset, most=8 * options.steps)
    tokenizer = make_tokenizer(rows)
    student = make_student(len(tokenizer))
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3)
    counts: Counter[str] = Counter()
    for step, start in enumerate(range(0, len(rows), 8), 1):
        batch = [labelled(row, tokenizer, counts) for row in rows[start : start + 8]]
        loss = sum(divergence(student(torch.tensor([ids])).logits[0], labels) for ids, labels in batch) / len(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: KL {loss.item():.4f}")
    student.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    print(f"{len(rows)} records; student saved to {options.output}")
    print(", ".join(f"{what} {count}" for what, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
