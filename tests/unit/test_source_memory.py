"""Memory is bounded whatever a file holds: each case reads in a separate process and reports its peak."""

import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import IMAGE, picture

READ = """
import sys
from pathlib import Path
from stillhouse.gen.source.survey import survey
from stillhouse.gen.source.files import read_rows
from stillhouse.schemas.source import Source

def peak_mb():
    # Not ru_maxrss: that starts with the peak of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024

source = Source(path=sys.argv[1], prompt="q")
(file,) = survey(source).files
before, rows, bad = peak_mb(), 0, 0
for row in read_rows(file, source=source, columns={"q"}):
    rows += 1
    bad += row.bad is not None
print(rows, bad, peak_mb() - before)
"""


def one_line_of_50_mb(path: Path) -> None:
    """Between two small ones."""
    with path.open("wb") as file:
        file.write(b'{"q": "a"}\n{"q": "')
        for _ in range(50):
            file.write(b"x" * 2**20)
        file.write(b'"}\n{"q": "b"}\n')


def zeros(path: Path) -> None:
    """1 GB of one line in 1 MB."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(1000):
            file.write(b"0" * 2**20)


def open_quote(path: Path) -> None:
    """60 MB of lines behind a quote that is never closed; the parser takes four bytes a character."""
    path.write_bytes(b'q,id\na,1\n"b,2\n' + b"some,line\n" * 6_000_000)


def large_row_group(path: Path) -> None:
    """300 MB in one row group, plain."""
    texts = pa.array([np.random.default_rng(row).bytes(500).hex() for row in range(3000)])
    table = pa.table({"q": pa.chunked_array([texts] * 100)})
    pq.write_table(table, path, row_group_size=300_000, use_dictionary=False)


def dictionary_bomb(path: Path) -> None:
    """5 GB of text in 50 kB."""
    values = pa.DictionaryArray.from_arrays(pa.array(np.zeros(5000, "int32")), pa.array(["x" * 1_000_000]))
    pq.write_table(pa.table({"q": values}), path, store_schema=False)


def nested_dictionary_bomb(path: Path) -> None:
    """Rows of 1 GB each: too large to be rows."""
    values = pa.array(["x" * 1_000_000] * 10)
    messages = pa.ListArray.from_arrays(pa.array(range(0, 11, 5), pa.int32()), values)
    table = pa.concat_tables([pa.table({"q": messages})] * 40)
    pq.write_table(table, path, store_schema=False)


@pytest.mark.parametrize(
    ("name", "write", "rows", "bad", "limit_mb"),
    [
        ("a.jsonl", one_line_of_50_mb, 3, 1, 45),
        ("a.jsonl.gz", zeros, 1, 1, 45),
        ("a.csv", open_quote, 2, 1, 120),
        ("a.parquet", large_row_group, 300_000, 0, 60),
        ("a.parquet", dictionary_bomb, 5000, 0, 90),
        ("a.parquet", nested_dictionary_bomb, 80, 0, 90),
    ],
)
def test_memory_is_bounded(
    tmp_path: Path, name: str, write: Callable[[Path], None], rows: int, bad: int, limit_mb: int
) -> None:
    """The peak over that of an idle process stays far below what the file holds."""
    path = tmp_path / name
    write(path)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    read, were_bad, peak_mb = map(int, done.stdout.split())
    assert (read, were_bad) == (rows, bad)
    assert peak_mb < limit_mb


READ_IMAGES = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from builders import index, recipe_of
from stillhouse.gen.dataset.chunk import ChunkReader
from stillhouse.gen.dataset.layout import ChunkId, open_dataset

def peak_mb():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024

recipe = recipe_of(Path(sys.argv[1]), source={"images": ["image"]}, dataset={"prompts_per_shard": 1000})
before, sent = peak_mb(), 0
_, parts = index(recipe)
reader = ChunkReader(open_dataset(recipe), recipe)
for number in range(-(-sum(part.rows for part in parts) // 1000)):
    chunk = reader.read(ChunkId(0, number))
    for prompt in chunk.prompts:
        (image,) = chunk.images.read(prompt)
        sent += len(image.data)
print(sent, peak_mb() - before)
"""
IMAGE_BYTES = 200_000


def write_large_images(path: Path, *, count: int) -> None:
    """Different ones, of which the file holds few bytes."""
    path.parent.mkdir(parents=True)
    schema = pa.schema([("id", pa.string()), ("question", pa.string()), ("image", IMAGE)])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, 100):
            numbers = range(start, start + 100)
            images = [{"bytes": picture(n).ljust(IMAGE_BYTES, b"\0"), "path": None} for n in numbers]
            columns = [[f"q{n}" for n in numbers], [f"what is {n} + 1?" for n in numbers], pa.array(images, IMAGE)]
            writer.write_table(pa.table(columns, schema=schema))


def test_memory_does_not_grow_with_the_images_of_a_source(tmp_path: Path) -> None:
    """200 MB of images are planned, and read again for their requests, in hardly more memory than 60 MB."""
    peaks_mb = []
    for count in (300, 1000):
        root = tmp_path / str(count)
        write_large_images(root / "source" / "a.parquet", count=count)
        command = [sys.executable, "-c", READ_IMAGES, str(root), str(Path(__file__).parents[1])]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        sent, peak_mb = map(int, done.stdout.split())
        assert sent == count * IMAGE_BYTES
        peaks_mb.append(peak_mb)
    assert peaks_mb[1] - peaks_mb[0] < 60
