"""Run by an interpreter with TRL: one step of training on an exported file, loaded as TRL loads it."""

import argparse
import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import datasets
import trl
from example_sft import make_student, make_tokenizer


def main() -> None:
    """Train, and print on how many rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("trainer", choices=["sft", "dpo"])
    parser.add_argument("file")
    parser.add_argument("output")
    given = parser.parse_args()
    rows = datasets.load_dataset("json", data_files=given.file, split="train")
    texts = rows.rename_column("chosen", "completion") if given.trainer == "dpo" else rows
    if "messages" in rows.column_names:
        texts = rows.map(lambda row: {"prompt": row["messages"], "completion": []}, remove_columns=["messages"])
    tokenizer = make_tokenizer(texts)
    settings = {"max_steps": 1, "per_device_train_batch_size": 4, "use_cpu": True, "bf16": False, "report_to": "none"}
    paths = {"output_dir": given.output, "save_strategy": "no", "disable_tqdm": True}
    shared = {"model": make_student(tokenizer), "train_dataset": rows, "processing_class": tokenizer}
    if given.trainer == "dpo":
        trainer = trl.DPOTrainer(ref_model=make_student(tokenizer), args=trl.DPOConfig(**settings, **paths), **shared)
    else:
        trainer = trl.SFTTrainer(args=trl.SFTConfig(**settings, **paths), **shared)
    print(f"trained on {len(rows)} rows, loss {trainer.train().training_loss:.3f}")


if __name__ == "__main__":
    main()
