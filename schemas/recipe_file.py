"""The recipe as a file: YAML in, a Recipe or every problem with its line out.

Whatever the text, reading it ends in a Recipe or a RecipeError, and no message repeats anything that may be a
credential.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from stillhouse.schemas.base import FieldsFault
from stillhouse.schemas.complaint import missing_field, unknown_field, wrong_value
from stillhouse.schemas.field_docs import DocumentedSchema
from stillhouse.schemas.languages import LANGUAGES
from stillhouse.schemas.near_path import near_path
from stillhouse.schemas.override import apply_override
from stillhouse.schemas.places import places_in
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings
from stillhouse.schemas.teacher import TEACHER_APIS
from stillhouse.schemas.value_types import VALUE_TYPES
from stillhouse.schemas.yaml_tree import MAX_CHARS, Node, YamlFault, read_tree

_M = TypeVar("_M", bound=BaseModel)


_DUMPED = "# Written out by Stillhouse: the lines are not those of the file that the user wrote.\n"

_OF_PROMPTS = frozenset((".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zst"))
"""Suffixes of files that hold prompts and are never recipes."""


class RecipeError(ValueError):
    """The recipe is wrong. The message has one line per problem: `recipe.yaml:12: teachers.0.timeout: unknown…`."""


def read_recipe(path: str | Path, *, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the file at `path`, with the `KEY=VALUE` overrides applied.

    Raises:
        RecipeError: the file can't be read, is not UTF-8 or not a recipe, or an override is wrong.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(4 * MAX_CHARS + 1)
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; expected the path of a recipe (YAML){near_path(str(path))}") from None
    except IsADirectoryError:
        raise RecipeError(
            f"{path}: is a folder; expected the path of a recipe (YAML); `stillhouse init {path}` writes one for the "
            "prompts in it"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no valid path"
        raise RecipeError(f"{path}: can't be read: {reason}") from None
    if Path(path).suffix.lower() in _OF_PROMPTS:
        raise RecipeError(
            f"{path}: expected a recipe (YAML), got a file of prompts; `stillhouse init {path}` writes a recipe for it"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path}:{line}: expected UTF-8, got other bytes; save the file as UTF-8") from None
    return load_recipe(text, origin=str(path), overrides=overrides)


def load_recipe(text: str, *, origin: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe written in `text`; messages call it `origin`.

    Raises:
        RecipeError: the text is not a recipe, or an override is wrong; names all problems with their lines.
    """
    try:
        tree = read_tree(text, origin=origin)
    except YamlFault as fault:
        raise RecipeError(_lines(fault.problems)) from None
    if tree is None:
        raise RecipeError(f"{origin}: empty; expected a recipe: name, source, ask, teachers, dataset")
    if not isinstance(tree.content, dict):
        raise RecipeError(f"{tree.where}: expected a mapping (`name: …`, `source: …`), got a list or a single value")
    recipe = _validated(Recipe, tree, overrides)
    return recipe if text.startswith(_DUMPED) else recipe.placed(places_in(tree))


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every field written out: `load_recipe` reads an equal one from it."""
    # ASCII only: PyYAML writes some Unicode line breaks in a way that it reads differently.
    return _DUMPED + yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def load_simulator_settings(overrides: Sequence[str]) -> SimulatorSettings:
    """The simulator's settings from the command line alone.

    Raises:
        RecipeError: an override is wrong.
    """
    return _validated(SimulatorSettings, Node({}, "-o", 0), overrides)


def _validated(model: type[_M], tree: Node, overrides: Sequence[str]) -> _M:
    try:
        for override in overrides:
            apply_override(tree, override)
    except YamlFault as fault:
        raise RecipeError(_lines(fault.problems)) from None
    try:
        # Strict, so that `samples: true` is not 1; as JSON, so that a list may become a tuple and a text a date.
        return model.model_validate_json(json.dumps(tree.plain()), strict=True)
    except ValidationError as error:
        # Not chained: pydantic's own text repeats values.
        problems = _problems(tree, list(_spread(error.errors(include_url=False))))
    raise RecipeError(_lines(problems))


def recipe_json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a recipe as users write it, for editors that complete and check YAML."""
    schema = Recipe.model_json_schema(schema_generator=DocumentedSchema)
    source, teacher = schema["$defs"]["Source"], schema["$defs"]["Teacher"]
    source["not"] = {"required": ["prompt", "messages"]}
    schema["anyOf"] = [
        {"required": [section], "properties": {section: {"required": [field]}}}
        for section, field in (("source", "prompt"), ("source", "messages"), ("ask", "template"))
    ]
    typed = {
        "type": "object",
        "additionalProperties": {"enum": list(VALUE_TYPES)},
        "minProperties": 1,
        "maxProperties": 1,
    }
    source["properties"]["keep"]["items"] = {"anyOf": [{"type": "string"}, typed, {"$ref": "#/$defs/Keep"}]}
    teacher["properties"]["api"]["enum"] = list(TEACHER_APIS)
    schema["$defs"]["Check"] |= {"minProperties": 1, "maxProperties": 1}
    for name in ("JsonSchemaCheck", "Ask", "TeacherParameters"):
        field = schema["$defs"][name]["properties"]["schema"]
        field["anyOf"] = [{"type": "string"}, {"type": "object"}, *[x for x in field["anyOf"] if x == {"type": "null"}]]
    language = schema["$defs"]["LanguageCheck"]["properties"]
    code = {"enum": list(LANGUAGES)}
    language["is"] = {"anyOf": [code, {"type": "array", "items": code, "minItems": 1}]} | {
        "description": language["is"]["description"]
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _lines(problems: Sequence[tuple[int, str]]) -> str:
    """One problem per line, in the order of the file; problems without a line come first."""
    return "\n".join(dict.fromkeys(message for _, message in sorted(problems, key=lambda problem: problem[0])))


def _spread(errors: list[ErrorDetails]) -> Iterator[ErrorDetails]:
    """The errors, with those of a check across several fields placed at each field."""
    for error in errors:
        fault = error.get("ctx", {}).get("error")
        if not isinstance(fault, FieldsFault):
            yield error
            continue
        for place, words in fault.faults.items():
            yield {**error, "loc": (*error["loc"], *place), "ctx": {"error": words}}


def _problems(tree: Node, errors: list[ErrorDetails]) -> list[tuple[int, str]]:
    """(line, message) of pydantic's errors; the branches of a union are reported as one."""
    groups: dict[str, tuple[Node, list[ErrorDetails]]] = {}
    for error in errors:
        node, names = _locate(tree, error["loc"], inside=error["type"] == "missing")
        if error["type"] == "missing":
            names = [*names, str(error["loc"][-1])]
        groups.setdefault(".".join(names), (node, []))[1].append(error)
    problems = []
    for path, (node, group) in groups.items():
        if not _is_shadowed(path, group, groups):
            place = node.where if not path or node.where == f"-o {path}" else f"{node.where}: {path}"
            problems += [
                (node.line, f"{place}: {message}") for message in _message(group, node, path=path).splitlines()
            ]
    return problems


def _is_shadowed(path: str, group: list[ErrorDetails], groups: dict[str, Any]) -> bool:
    """True if another branch of the union at this path matched further, and so is the one that was meant."""
    deeper = any(other.startswith(path + ".") for other in groups)
    # pydantic counts only a list's valid items: if one of them is wrong, it also calls the list too short.
    return deeper and all(error["type"] == "too_short" or len(error["loc"]) > len(path.split(".")) for error in group)


def _message(group: list[ErrorDetails], node: Node, *, path: str) -> str:
    match group[0]["type"]:
        case "missing":
            return missing_field(path)
        case "extra_forbidden":
            return unknown_field(path)
        case _:
            return wrong_value(group, node, path=path)


def _locate(tree: Node, loc: Sequence[str | int], *, inside: bool) -> tuple[Node, list[str]]:
    """The node that a pydantic location means, and its path.

    A location also contains the names of union branches, which are in no path. Of all ways to leave parts out, the
    right one keeps the last part and then the most parts. `inside`: the last part is absent from the node it leads to.
    """
    parts = loc[:-1] if inside else loc
    holder = dict if loc and isinstance(loc[-1], str) else list

    def walk(node: Node, at: int) -> tuple[bool, int, Node, list[str]]:
        if at == len(parts):
            return not inside or isinstance(node.content, holder), 0, node, []
        skipped = walk(node, at + 1)
        best = (skipped[0] and (inside or at + 1 < len(parts)), *skipped[1:])
        below = _child(node, parts[at])
        if below is not None:
            fits, kept, found, names = walk(below, at + 1)
            taken = (fits, kept + 1, found, [str(parts[at]), *names])
            best = max(best, taken, key=lambda way: way[:2])
        return best

    _, _, node, names = walk(tree, 0)
    return node, names


def _child(node: Node, part: str | int) -> Node | None:
    content = node.content
    if isinstance(content, dict) and isinstance(part, str):
        return content.get(part)
    if isinstance(content, list) and isinstance(part, int) and part < len(content):
        return content[part]
    return None
