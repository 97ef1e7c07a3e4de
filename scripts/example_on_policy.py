"""Distil on policy: a student writes rollouts, the teacher scores them, and the student learns from the scores.

    stillhouse run scripts/example_on_policy.yaml --follow    # in another terminal; Ctrl-C ends it
    python -m venv .venv-torch && .venv-torch/bin/pip install torch transformers pyarrow
    .venv-torch/bin/python scripts/example_on_policy.py out/rollouts out/scores

Each round is a file in the source of a run that follows it, and comes back as a shard. The loss is the reverse KL in
its usual form: the difference of the two log-probabilities of each sampled token. Tokens are ids of the teacher's
tokenizer, which the student has to share. The built-in teacher has the same distribution over ids 0 to 39 at every
position, from 1/2 down to 2**-40, whatever comes before; that is what this student learns, on a CPU. For a real
student, load it and its tokenizer by name, and use your own prompts.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")  # before imports

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    import transformers
except ImportError as error:
    print(f"found no {error.name}; install it: pip install torch transformers pyarrow", file=sys.stderr)
    sys.exit(2)

VOCABULARY = 40
PROMPT = 4  # tokens
COMPLETION = 12
MINIBATCH = 16  # rollouts per step


class FollowedRun:
    """The teacher, seen through a run that follows `rollouts` and writes the dataset `scores`."""

    def __init__(self, rollouts: Path, scores: Path, *, patience_s: float) -> None:
        self._rollouts = rollouts
        self._data = scores / "data"
        self._patience_s = patience_s
        self._read: set[Path] = set()
        self._known: dict[tuple[int, ...], list[float]] = {}

    def score(self, ids: torch.Tensor, *, name: str) -> torch.Tensor:
        """The teacher's log-probabilities, [rollouts, completion], of rollouts [rollouts, prompt + completion]."""
        rows = [tuple(row) for row in ids.tolist()]
        columns = {"prompt_ids": [row[:PROMPT] for row in rows], "completion_ids": [row[PROMPT:] for row in rows]}
        part = self._rollouts / f"{name}.parquet.tmp"
        pq.write_table(pa.table(columns), part)
        part.rename(part.with_suffix(""))  # it appears whole
        deadline = time.monotonic() + self._patience_s
        while not self._known.keys() >= set(rows):  # equal rollouts are scored once
            if time.monotonic() > deadline:
                missing = len(set(rows) - self._known.keys())
                sys.exit(
                    f"expected {missing} more scores of {name} in {self._data}; is a run following {self._rollouts}?"
                )
            time.sleep(0.1)
            self._read_new_shards()
        return torch.tensor([self._known[row] for row in rows])

    def _read_new_shards(self) -> None:
        for shard in set(self._data.glob("*.parquet")) - self._read:
            table = pq.read_table(shard, columns=["prompt_ids", "completion_ids", "token_logprobs"])
            for prompt, completion, logprobs in zip(*table.to_pydict().values(), strict=True):
                self._known[(*prompt, *completion)] = logprobs
            self._read.add(shard)


def make_student() -> transformers.GPT2LMHeadModel:
    """A GPT-2 of two layers with random weights, the same each time."""
    transformers.set_seed(0)
    sizes = {"vocab_size": VOCABULARY, "n_positions": PROMPT + COMPLETION, "n_embd": 64, "n_layer": 2, "n_head": 4}
    plain = {"bos_token_id": None, "eos_token_id": None, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **plain))


def rollouts_of(student: transformers.GPT2LMHeadModel, count: int) -> torch.Tensor:
    """Random prompts and what the student makes of them: [count, prompt + completion]."""
    prompts = torch.randint(VOCABULARY, (count, PROMPT))
    sampling = {"do_sample": True, "top_k": 0, "max_new_tokens": COMPLETION, "pad_token_id": 0}
    return student.generate(prompts, attention_mask=torch.ones_like(prompts), **sampling)


def logprobs_of(student: transformers.GPT2LMHeadModel, ids: torch.Tensor) -> torch.Tensor:
    """The student's log-probabilities of the completions: [rollouts, completion]."""
    logits = student(ids).logits[:, PROMPT - 1 : -1]
    return torch.log_softmax(logits, dim=-1).gather(-1, ids[:, PROMPT:, None]).squeeze(-1)


def clipped_loss(now: torch.Tensor, then: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
    """PPO's: no step gains from making a token more than a fifth likelier or less likely than when it was sampled."""
    ratio = (now - then).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rollouts", nargs="?", type=Path, default=Path("out/rollouts"), help="the run's source")
    parser.add_argument("scores", nargs="?", type=Path, default=Path("out/scores"), help="the run's dataset")
    parser.add_argument("--output", type=Path, default=Path("out/on-policy-student"))
    parser.add_argument("--rounds", type=int, default=6, help="of 256 rollouts each")
    parser.add_argument("--patience-s", type=float, default=120, help="how long to wait for a round's scores")
    options = parser.parse_args()
    options.rollouts.mkdir(parents=True, exist_ok=True)
    if any(options.rollouts.iterdir()):
        sys.exit(f"expected an empty folder, found files in {options.rollouts}; remove it and {options.scores}")
    teacher = FollowedRun(options.rollouts, options.scores, patience_s=options.patience_s)
    student = make_student()
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    for number in range(1, options.rounds + 1):
        ids = rollouts_of(student, 256)
        with torch.no_grad():
            sampled = logprobs_of(student, ids)
        began = time.monotonic()
        divergence = sampled - teacher.score(ids, name=f"round-{number:04d}")
        waited_s = time.monotonic() - began
        advantage = divergence.mean(dim=0) - divergence  # against the mean in its place, for less variance
        for each in torch.arange(len(ids)).split(MINIBATCH):
            loss = clipped_loss(logprobs_of(student, ids[each]), sampled[each], advantage[each])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)  # for those that the teacher finds most unlikely
            optimizer.step()
        print(f"round {number}: reverse KL {divergence.mean():.4f}, scored in {waited_s:.1f} s", flush=True)
    student.save_pretrained(options.output)
    print(f"student saved to {options.output}")


if __name__ == "__main__":
    main()
