"""A file that a recipe names: it travels inside the recipe, so that whoever has the recipe has the file."""

import hashlib
from pathlib import Path
from typing import Self

from pydantic import model_validator

from stillhouse.schemas.base import Strict

MAX_BYTES = 200_000
"""A larger file stays where it is, and has to be there where the run starts: recipes are read as a whole, often."""


class CarriedFile(Strict):
    """The file as it was when the recipe was read."""

    path: str
    """Where it was read from, for messages."""
    sha256: str
    """The SHA-256 of its text in UTF-8, in hex."""
    text: str
    """What it holds."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if hashlib.sha256(self.text.encode()).hexdigest() != self.sha256:
            raise ValueError(f"{self.path}: is not what was carried: its SHA-256 is another; name the file anew")
        return self


def carried(named: str | CarriedFile) -> str | CarriedFile:
    """The file with what it holds; its path alone where it is not readable text, or is larger than `MAX_BYTES`."""
    if isinstance(named, CarriedFile):
        return named
    try:
        path = Path(named).expanduser()
        if not path.is_file() or path.stat().st_size > MAX_BYTES:  # a pipe or a device might never end
            return named
        text = path.read_bytes().decode()
    except (OSError, ValueError, RuntimeError):
        return named  # whoever needs it says what is wrong with it
    return CarriedFile(path=named, sha256=hashlib.sha256(text.encode()).hexdigest(), text=text)
