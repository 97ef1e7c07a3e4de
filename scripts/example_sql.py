"""Ask a Stillhouse dataset questions in SQL, with DuckDB.

    python scripts/example_sql.py out/quickstart
    AWS_ENDPOINT_URL=http://minio:9000 python scripts/example_sql.py s3://lake/datasets/gsm8k-from-r1

DuckDB's own extension for S3 (httpfs) is downloaded at its first use; here it reads S3 through pyarrow instead, with
the usual AWS_* variables and without a download.
"""

import sys

import duckdb
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow.fs import FileSystem

QUERIES = {
    "records and tokens": """
        select teacher, finish_reason, count(*) as records, sum(input_tokens) as tokens_in,
            sum(output_tokens) as tokens_out
        from records group by all order by all""",
    "rows that are there twice": """
        select count(*) - count(distinct record_id) as record_ids,
            count(*) - count(distinct (prompt_key, teacher, completion, tool_calls)) as answers
        from records""",
    "given up on, and answered in a later retry": """
        select kind, count(*) as failures, count(records.record_id) as answered_since
        from failed left join records using (record_id) group by all order by all""",
}


def connect(dataset: str) -> duckdb.DuckDBPyConnection:
    """A connection with the views `records` and `failed`; the second is empty if nothing failed."""
    con = duckdb.connect()
    if dataset.startswith("s3://"):
        con.register_filesystem(ArrowFSWrapper(FileSystem.from_uri(dataset)[0]))
    if not con.execute("from glob(?)", [f"{dataset}/data/*.parquet"]).fetchall():
        sys.exit(f"expected shards in {dataset}/data, found none; make a dataset with scripts/quickstart")
    con.read_parquet(f"{dataset}/data/*.parquet").create_view("records")
    if con.execute("from glob(?)", [f"{dataset}/failed/*.parquet"]).fetchall():
        con.read_parquet(f"{dataset}/failed/*.parquet").create_view("failed")
    else:
        con.execute("create table failed (record_id varchar, kind varchar)")
    return con


def main() -> None:
    con = connect((sys.argv[1] if sys.argv[1:] else "out/quickstart").rstrip("/"))
    for title, query in QUERIES.items():
        print(f"{title}:\n{con.sql(query)}")


if __name__ == "__main__":
    main()
