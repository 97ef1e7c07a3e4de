"""A file that a recipe names travels inside the recipe, so anyone who has the recipe has the file."""

import hashlib
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from stillhouse.schemas.base import Strict

MAX_BYTES = 200_000
"""Larger files are not carried and must exist where the run starts: recipes are read often, and as a whole."""


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
            raise ValueError(f"{self.path}: its content has changed: the SHA-256 differs; name the file again")
        return self


def carried(named: str | CarriedFile) -> str | CarriedFile:
    """The file with its content; just its path if it is not readable text or is larger than `MAX_BYTES`."""
    if isinstance(named, CarriedFile):
        return named
    try:
        return read_carried(named)
    except ValueError:
        return named  # reported by the code that needs the file


def read_carried(path: str) -> CarriedFile:
    """The file with its content.

    Raises:
        ValueError: it is not readable text of at most `MAX_BYTES`; says why.
    """
    try:
        found = Path(path).expanduser()
        if not found.exists():
            raise ValueError("there is no such file")
        if not found.is_file():  # reading a pipe or a device might never end
            raise ValueError("it is not a file")
        if (size := found.stat().st_size) > MAX_BYTES:
            raise ValueError(f"it has {size:,} bytes, and at most {MAX_BYTES:,} are carried")
        text = found.read_bytes().decode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except OSError as error:
        raise ValueError(error.strerror or "it can't be read") from None
    except RuntimeError as error:  # the user has no home folder
        raise ValueError(str(error)) from None
    return CarriedFile(path=path, sha256=hashlib.sha256(text.encode()).hexdigest(), text=text)


def file_or_value(value: Any, kinds: tuple[type, ...], *, expected: str) -> Any:
    """The file that a field of the recipe names, with its content; values of other kinds are returned as they are.

    Raises:
        ValueError: the file can't be read, or the value has the wrong kind; `expected` describes the right kinds.
    """
    if isinstance(value, str):
        try:
            return read_carried(value)
        except ValueError as error:
            raise ValueError(f"expected {expected}, got {value!r}, which can't be read as such: {error}") from None
    if isinstance(value, dict) and value.keys() == CarriedFile.model_fields.keys():
        try:
            return CarriedFile.model_validate(value)
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    if not isinstance(value, (*kinds, CarriedFile)):
        raise ValueError(f"expected {expected}")  # noqa: TRY004 - what pydantic reports
    return value
