"""Count a Stillhouse dataset's records with four readers: datasets, DuckDB, Polars and Ray Data.

    python scripts/example_read.py out/quickstart

Nothing but the glob `data/*.parquet` is needed, at any moment of a run: a shard is there whole or not at all.
"""

import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0")  # read when the libraries are imported

import datasets
import duckdb
import polars
import ray


def main() -> None:
    data = Path(sys.argv[1] if sys.argv[1:] else "out/quickstart") / "data"
    if not any(data.glob("*.parquet")):
        sys.exit(f"expected shards in {data}, found none; make a dataset with scripts/quickstart")
    shards = f"{data}/*.parquet"
    ray.init(include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    counts = {
        "datasets": len(datasets.load_dataset("parquet", data_files=shards, split="train")),
        "duckdb": duckdb.read_parquet(shards).count("*").fetchall()[0][0],
        "polars": polars.scan_parquet(shards).select(polars.len()).collect().item(),
        "ray data": ray.data.read_parquet(str(data)).count(),
    }
    for reader, count in counts.items():
        print(f"{reader}: {count}")


if __name__ == "__main__":
    main()
