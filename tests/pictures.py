"""Makes images for tests, all different."""

import base64
import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""As `datasets` stores one."""


def picture(number: int = 0, *, kind: str = "png", size: tuple[int, int] = (16, 12)) -> bytes:
    """An image whose pixels depend on the number."""
    made = Image.new("RGB", size, (number % 256, number // 256 % 256, 77))
    made.putpixel((0, 0), (255 - number % 256, 3, 5))
    sink = io.BytesIO()
    made.save(sink, format=kind)
    return sink.getvalue()


def data_url(data: bytes, *, kind: str = "png") -> str:
    """It as a data: URL."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def write_images(path: Any, images: list[Any], *, name: str = "image", **columns: list[Any]) -> None:
    """A Parquet file with a question per image, which is a struct of {bytes, path} or null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    questions = [f"what is {number} + 1?" for number in range(len(images))]
    ids = [f"q{number}" for number in range(len(images))]
    table = pa.table({"id": ids, "question": questions, name: pa.array(images, IMAGE), **columns})
    pq.write_table(table, path, row_group_size=7)
