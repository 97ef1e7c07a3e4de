"""The check `function`: a user's own code, given by name; if it is a file, it travels inside the recipe.

Reading a recipe runs neither the code nor the packages around a module.
"""

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from stillhouse.schemas.carried_file import CarriedFile, read_carried
from stillhouse.schemas.check_settings import CheckName, CheckSettings, Reference
from stillhouse.schemas.value_types import ValueType

_TAKEN = ("accepted", "score", "detail")


def _columns(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # `_with_code` turns the JSON into a Python object


class FunctionCheck(CheckSettings):
    """Judges an answer with your own function."""

    name: Annotated[str, Field(pattern=r"^([^:]+\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):[A-Za-z_]\w*$")]
    """The function: `package.module:function`, which every node must be able to import, or `path/to/file.py:function`,
    whose file travels with the recipe."""
    label: Annotated[CheckName | None, Field(alias="as")] = None
    """The name in the column `checks` and in reject reasons; by default the function's name."""
    per: Literal["record", "chunk"] = "record"
    """What the function gets: a `record` as a dict {text, reasoning, tokens, row}, or all answers of a `chunk` that the
    other checks accept, as an Arrow table with these columns. With `chunk`, it must be the last check."""
    columns: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_columns)] = ()
    """Columns of the source that the function gets in `row`."""
    returns: dict[CheckName, ValueType] = Field(default_factory=dict)
    """The function's own columns, with their types: `{politeness: float64}`. Stored beside score and detail."""
    code: CarriedFile | None = None
    """The file; set by Stillhouse."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the module's file; set by Stillhouse."""

    @model_validator(mode="before")
    @classmethod
    def _with_code(cls, value: Any) -> Any:
        """Add the file, or the module's hash, to the name."""
        if not isinstance(value, dict) or not isinstance(value.get("name"), str) or value.get("code") is not None:
            return value
        place, colon, _ = value["name"].rpartition(":")
        if not colon:
            return value
        if not place.endswith(".py"):
            return value if value.get("sha256") else value | {"sha256": module_sha256(place)}
        try:
            file = read_carried(place)
        except ValueError as error:
            raise ValueError(
                f"name: expected the path of a Python file, got {place!r}, which can't be read as such: {error}"
            ) from None
        try:
            compile(file.text, place, "exec")
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            raise ValueError(f"name: {place}{f', line {line}' if line else ''}: not valid Python: {error}") from None
        except (RecursionError, MemoryError):  # the compiler raises this for such code
            raise ValueError(f"name: {place}: not valid Python: nested too deeply") from None
        return value | {"code": file.model_dump()}

    @model_validator(mode="after")
    def _own_names(self) -> Self:
        if taken := [name for name in self.returns if name in _TAKEN]:
            raise ValueError(f"returns: {taken[0]} always exists; leave it out, or give it another name")
        if self.label is None and self.function.startswith("_"):
            raise ValueError(f"as: missing, because {self.function!r} can't be a column's name: add `as: NAME`")
        return self

    @property
    def place(self) -> str:
        """The module or the file."""
        return self.name.rpartition(":")[0]

    @property
    def function(self) -> str:
        """The function's name in it."""
        return self.name.rpartition(":")[2]

    def references(self) -> Iterator[Reference]:
        """The columns that it gets."""
        for number, column in enumerate(self.columns):
            yield Reference(f"columns.{number}", column, "json")

    def named(self, kind: str) -> str:
        """See `CheckSettings`."""
        return self.label or self.function

    def identity(self) -> dict[str, JsonValue]:
        """The settings that decide its verdicts: the code itself, not its location."""
        found: dict[str, JsonValue] = {"name": self.named(""), "function": self.function}
        found["sha256"] = self.code.sha256 if self.code is not None else self.sha256
        if self.code is None:
            found["module"] = self.place
        rest = self.model_dump(mode="json", include={"per", "columns", "returns"}, exclude_defaults=True)
        return found | rest


def module_sha256(name: str) -> str | None:
    """SHA-256 in hex of a module's file; None if it is not found here, or is not Python source."""
    file = _file_of(name)
    try:
        return None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


def _file_of(name: str) -> Path | None:
    """The module's file, found without importing anything; `find_spec` would import the packages around it."""
    first, *inner = name.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    file = Path(spec.origin) if spec.origin else None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    for part in inner:
        candidates = [path for folder in folders for path in (folder / part / "__init__.py", folder / f"{part}.py")]
        file = next((path for path in candidates if path.is_file()), None)
        if file is None:
            return None
        folders = [file.parent] if file.name == "__init__.py" else []
    return file if file is not None and file.suffix == ".py" and file.is_file() else None
