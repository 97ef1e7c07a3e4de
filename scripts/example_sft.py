"""Train a student on a Stillhouse dataset with TRL: a few steps of SFT, on a CPU and without any network.

    python -m venv .venv-trl && .venv-trl/bin/pip install torch trl datasets
    .venv-trl/bin/python scripts/example_sft.py out/quickstart --output out/student

Records go into SFTTrainer as they are, all columns present: `prompt` and `completion` are conversations, and the loss
is on the completion. Where answers call tools, the calls are inside the message; the chat template below writes them.
The student is a toy made on the spot: a tokenizer trained on the dataset's own texts, a Llama of two layers. For a real
one, pass SFTTrainer its name as `model` and no `processing_class`, and set no HF_HUB_OFFLINE.
"""

import argparse
import os
import sys
from pathlib import Path

# They are read when the libraries below are imported.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

import datasets
import tokenizers
import transformers
import trl

SPECIAL_TOKENS = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def read(dataset: Path) -> datasets.Dataset:
    """The records of every shard there is."""
    if not any(dataset.glob("data/*.parquet")):
        sys.exit(f"expected shards in {dataset}/data, found none; make a dataset with scripts/quickstart")
    return datasets.load_dataset("parquet", data_files=f"{dataset}/data/*.parquet", split="train")


def make_tokenizer(rows: datasets.Dataset) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE learned from the rows' own messages."""
    texts = (message["content"] for row in rows for message in row["prompt"] + row["completion"])
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=2000, special_tokens=SPECIAL_TOKENS, show_progress=False)
    core = tokenizers.Tokenizer.from_str(bpe.to_str())
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<|pad|>", eos_token="<|end|>", chat_template=CHAT_TEMPLATE
    )


def make_student(tokenizer: transformers.PreTrainedTokenizerFast) -> transformers.LlamaForCausalLM:
    """A Llama of two layers with random weights, the same each time."""
    transformers.set_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(tokenizer), **sizes))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", nargs="?", type=Path, default=Path("out/quickstart"))
    parser.add_argument("--output", type=Path, default=Path("out/student"))
    parser.add_argument("--steps", type=int, default=8, help="of 8 records each")
    options = parser.parse_args()
    rows = read(options.dataset)
    tokenizer = make_tokenizer(rows)
    training = {"max_steps": options.steps, "per_device_train_batch_size": 8, "learning_rate": 5e-3}
    cpu = {"use_cpu": True, "bf16": False}  # SFTConfig's default is bf16
    quiet = {"logging_steps": 1, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    config = trl.SFTConfig(output_dir=str(options.output), **training, **cpu, **quiet)
    trainer = trl.SFTTrainer(make_student(tokenizer), args=config, train_dataset=rows, processing_class=tokenizer)
    trainer.remove_callback(transformers.PrinterCallback)  # the losses alone, below
    trainer.train()
    for log in trainer.state.log_history[: options.steps]:
        print(f"step {log['step']}: loss {log['loss']:.4f}")
    trainer.save_model()
    calling = sum(bool(row["completion"][0].get("tool_calls")) for row in rows.select_columns(["completion"]))
    print(f"{len(rows)} records, {calling} of them with tool calls; student saved to {options.output}")


if __name__ == "__main__":
    main()
