"""Compiled modules, as Python cached them here, for processes that import the modules from another folder.

Without them, the first process of a job compiles every module that it imports, and so do those that start beside it.
"""

import importlib.util
from pathlib import Path

_HEADER_BYTES = 16
_CHECKED_HASH = (0b11).to_bytes(4, "little")
"""PEP 552: valid if the source's hash is the stored one. The usual time stamp is lost on the way to a cluster."""


def compiled(module: Path) -> tuple[str, bytes] | None:
    """The name in `__pycache__` and the content of the compiled module; None if there is none, or not of this source.

    A Python of another version ignores the file: its name and its first bytes say which version wrote it.
    """
    cached = Path(importlib.util.cache_from_source(str(module)))
    try:
        source, status, found = module.read_bytes(), module.stat(), cached.read_bytes()
    except OSError:
        return None
    written_for = (int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF)
    stamp = b"".join(number.to_bytes(4, "little") for number in written_for)
    if found[:_HEADER_BYTES] != importlib.util.MAGIC_NUMBER + bytes(4) + stamp:
        return None
    header = importlib.util.MAGIC_NUMBER + _CHECKED_HASH + importlib.util.source_hash(source)
    return cached.name, header + found[_HEADER_BYTES:]
