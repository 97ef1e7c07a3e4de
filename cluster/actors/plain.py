"""Data exchanged with shared actors: versioned and plain, never our classes.

Jobs that run different versions of this program may share a limiter, and neither could unpickle the other's classes.
"""

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pydantic import TypeAdapter, ValidationError

from stillhouse.gen.errors import Paused

if TYPE_CHECKING:
    from stillhouse.schemas.recipe import Recipe

VERSION = 7
"""Incremented with every change to the data. Version 1 sent classes."""

Plain: TypeAlias = dict[str, Any]

_T = TypeVar("_T")


def pack(value: object) -> Plain:
    """A dataclass or a model as plain data."""
    return {"version": VERSION, "kind": type(value).__name__, "value": _adapter(type(value)).dump_python(value)}


def unpack(sent: Plain, kind: type[_T]) -> _T:
    """Check that the value has this type, and return it.

    Raises:
        Paused: another version of this program sent it.
    """
    value: _T = unpack_any(sent, kind)
    return value


def unpack_any(sent: Plain, *kinds: type[Any]) -> Any:
    """Check that the value has one of these types, and return it.

    Raises:
        Paused: another version of this program sent it.
    """
    known = {kind.__name__: kind for kind in kinds}
    if not isinstance(sent, dict) or sent.get("version") != VERSION or sent.get("kind") not in known:
        raise Paused(f"expected data of version {VERSION} between the actors of a cluster, got another version")
    try:
        return _adapter(known[sent["kind"]]).validate_python(sent["value"])
    except ValidationError as error:
        raise Paused(
            f"data between the actors of a cluster is of another version: {error.errors()[0]['loc']}"
        ) from None


def pack_recipe(recipe: "Recipe") -> Plain:
    """Pack a recipe, with the addresses that the driver assigned to simulators."""
    endpoints = {teacher.name: teacher.endpoints for teacher in recipe.teachers if teacher.api == "simulator"}
    bare = [
        teacher.model_copy(update={"endpoints": ()}) if teacher.name in endpoints else teacher
        for teacher in recipe.teachers
    ]
    text = recipe.model_copy(update={"teachers": tuple(bare)}).model_dump_json()
    return {"version": VERSION, "recipe": text, "endpoints": endpoints}


def unpack_recipe(sent: Plain) -> "Recipe":
    """Unpack a recipe packed by `pack_recipe`."""
    from stillhouse.schemas.recipe import Recipe  # which a limiter does not need

    recipe = Recipe.model_validate_json(sent["recipe"])
    given = sent["endpoints"]
    teachers = [
        teacher.model_copy(update={"endpoints": given[teacher.name]}) if teacher.name in given else teacher
        for teacher in recipe.teachers
    ]
    return recipe.model_copy(update={"teachers": tuple(teachers)})


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """Cached per type: building an adapter takes a thousand times as long as using it."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]
