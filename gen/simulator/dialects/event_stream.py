"""Frames of Amazon's event stream, as the sender builds them."""

import struct
import zlib
from typing import Any, Literal

import orjson


def frame(name: str, payload: dict[str, Any], *, kind: Literal["event", "exception"] = "event") -> bytes:
    """One event, or the exception that ends a stream."""
    named = {f":{kind}-type": name, ":content-type": "application/json", ":message-type": kind}
    headers = b"".join(
        struct.pack(">B", len(key)) + key.encode() + struct.pack(">BH", 7, len(value)) + value.encode()
        for key, value in named.items()
    )
    body = orjson.dumps(payload)
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    whole = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + body
    return whole + struct.pack(">I", zlib.crc32(whole))
