"""Run by a Python that has torch and TRL: TRL's collator for vision models takes a dataset's records as they are.

    python tests/trl_collator.py DATASET

Prints the number of records and the shape of their pixels. The processor is made here and tiny: nothing is downloaded.
"""

import sys

import datasets
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

TEMPLATE = (
    "{% for message in messages %}{{ message.role }} {% for part in message.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }} {% endfor %}{% endfor %}"
)


def processor(texts: list[str]) -> LlavaProcessor:
    """A tokenizer of the texts' words, and images of 28 x 28 pixels in four patches."""
    words = sorted(
        {word for text in texts for word in text.split()} | {"user", "assistant", "<unk>", "<pad>", "<image>"}
    )
    model = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, unk_token="<unk>", pad_token="<pad>", extra_special_tokens={"image_token": "<image>"}
    )
    side = {"height": 28, "width": 28}
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=side)
    return LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="full", chat_template=TEMPLATE
    )


def main(path: str) -> None:
    """Collate all records of the dataset at once."""
    records = datasets.load_dataset("parquet", data_files=f"{path}/data/*.parquet", split="train")
    texts = [row["prompt"][0]["content"] + " " + row["completion"][0]["content"] for row in records]
    collator = DataCollatorForVisionLanguageModeling(processor(texts), completion_only_loss=True)
    rows = [{name: row[name] for name in ("prompt", "completion", "images")} for row in records]
    batch = collator(rows)
    learned = (batch["labels"] != -100).sum(dim=1).tolist()
    print(f"{len(rows)} records, pixels {tuple(batch['pixel_values'].shape)}, all learned: {min(learned) > 5}")


if __name__ == "__main__":
    main(sys.argv[1])
