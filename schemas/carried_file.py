"""A file named by a recipe travels inside it, so that whoever has the recipe has the file."""

import hashlib
from pathlib import Path
from typing import Self

from pydantic import model_validator

from stillhouse.schemas.base import Strict

MAX_BYTES = 200_000
"""Larger files are not carried and must exist where the run starts: recipes are read often, as a whole."""


class CarriedFile(Strict):
    """The file as it was when the recipe was read."""

    path: str
    """Its original path, for messages."""
    sha256: str
    """SHA-256 of its UTF-8 text, in hex."""
    text: str
    """Its content."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if hashlib.sha256(self.text.encode()).hexdigest() != self.sha256:
            raise ValueError(f"{self.path}: is not what was carried: its SHA-256 differs; name the file again")
        return self


def carried(named: str | CarriedFile) -> str | CarriedFile:
    """The file with its content; just its path if it is not readable text or is larger than `MAX_BYTES`."""
    if isinstance(named, CarriedFile):
        return named
    try:
        path = Path(named).expanduser()
        if not path.is_file() or path.stat().st_size > MAX_BYTES:  # a pipe or a device might never end
            return named
        text = path.read_bytes().decode()
    except (OSError, ValueError, RuntimeError):
        return named  # reported by whoever needs it
    return CarriedFile(path=named, sha256=hashlib.sha256(text.encode()).hexdigest(), text=text)
