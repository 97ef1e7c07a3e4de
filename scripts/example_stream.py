"""Stream a Stillhouse dataset, nothing downloaded first: with datasets, and with Ray Data in batches for torch.

    python scripts/example_stream.py out/quickstart
    AWS_ENDPOINT_URL=http://minio:9000 python scripts/example_stream.py s3://lake/datasets/gsm8k-from-r1

Both read S3 through pyarrow, with the usual AWS_* variables. datasets would take s3fs if that is installed; it pins
botocore to older versions, so it is not needed here.
"""

import importlib.util
import os
import sys
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0")  # read when the libraries are imported

import datasets
import fsspec
import ray
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow.fs import FileSystem
from ray.data.collate_fn import NumpyBatchCollateFn


class ArrowS3(ArrowFSWrapper):  # type: ignore[misc] # fsspec has no types
    """pyarrow's S3 as fsspec knows it; from_uri reads AWS_ENDPOINT_URL, which S3FileSystem() does not."""

    protocol = "s3"

    def __init__(self, **options: Any) -> None:
        super().__init__(FileSystem.from_uri("s3://")[0], **options)


def with_datasets(dataset: str) -> None:
    """An IterableDataset: shuffle, filter and map are lazy, and a torch DataLoader takes it."""
    shards = f"{dataset}/data/*.parquet"
    rows = datasets.load_dataset("parquet", data_files=shards, split="train", streaming=True)
    first = next(iter(rows))
    print(f"first record: {first['prompt_id']}, {first['completion'][0]['content'][:40]!r}")
    print(f"datasets: {sum(1 for _ in rows.select_columns(['record_id']))} rows")


class Encode(NumpyBatchCollateFn):
    """The answers as one tensor of ids, padded with 0; UTF-8 bytes stand in for your tokenizer's ids."""

    def __call__(self, batch: dict[str, Any]) -> Any:
        import torch

        ids = [torch.tensor(list(messages[0]["content"].encode())) for messages in batch["completion"]]
        return torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)


def with_ray_data(dataset: str) -> None:
    """Blocks of rows, read by the cluster's workers while the batches before them are used."""
    ray.init(include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.read_parquet(f"{dataset}/data").select_columns(["completion"])
    if importlib.util.find_spec("torch"):
        batches: Any = rows.iter_torch_batches(batch_size=32, collate_fn=Encode())
        shapes = [tuple(batch.shape) for batch in batches]
        print(
            f"ray data: {sum(shape[0] for shape in shapes)} rows in {len(shapes)} torch batches, the first {shapes[0]}"
        )
    else:
        sizes = [len(batch["completion"]) for batch in rows.iter_batches(batch_size=32)]
        print(f"ray data: {sum(sizes)} rows in {len(sizes)} NumPy batches; with torch installed they are tensors")


def main() -> None:
    dataset = (sys.argv[1] if sys.argv[1:] else "out/quickstart").rstrip("/")
    fsspec.register_implementation("s3", ArrowS3, clobber=True)
    files, pattern = fsspec.url_to_fs(f"{dataset}/data/*.parquet")
    if not files.glob(pattern):
        sys.exit(f"expected shards in {dataset}/data, found none; make a dataset with scripts/quickstart")
    with_datasets(dataset)
    with_ray_data(dataset)


if __name__ == "__main__":
    main()
