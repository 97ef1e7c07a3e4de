"""Tools that a teacher is offered: functions with a JSON Schema of their arguments, in OpenAI's form or bare.

A tool that was read has a name that every provider accepts, and a schema that compiles.
"""

import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import orjson
from pydantic import BeforeValidator, JsonValue

from stillhouse.schemas.carried_file import CarriedFile, file_or_value
from stillhouse.schemas.json_schema import fault_in, schema_validator
from stillhouse.schemas.strict_json import JsonFault, read_json

MAX_TOOLS = 128
"""The maximum that OpenAI accepts."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEYS = {"name", "description", "parameters"}


@dataclass(frozen=True, slots=True, eq=False)
class Tool:
    """A function that answers may call."""

    name: str
    description: str | None
    parameters: dict[str, Any]
    """The JSON Schema of its arguments, which describes an object."""
    text: str
    """The tool as JSON, in OpenAI's form, which trainers and chat templates take."""
    validator: Any
    """The validator of its arguments; see `schema_validator`."""

    def __reduce__(self) -> tuple[Callable[[str], "Tool"], tuple[str]]:
        """It is pickled as its text: a validator can't be pickled."""
        return _tool_in, (self.text,)

    def fault_in(self, arguments: str) -> str | None:
        """What is wrong with the arguments, a JSON object; None if they fit."""
        for fault in self.validator.iter_errors(orjson.loads(arguments)):
            at = "".join(f"/{part}" for part in fault.instance_path)
            return f"{at or 'the object'}: {fault.message}"
        return None


@functools.lru_cache(maxsize=256)  # most rows of a source share their tools
def tools_of(text: str) -> tuple[Tool, ...]:
    """The tools in the JSON text of a list; the same objects for the same text.

    Raises:
        ValueError: it is not such a list; names the tool, and what was expected.
    """
    try:
        items = read_json(text)
    except JsonFault as error:
        line = f" of line {error.line}" if "\n" in text and error.line is not None else ""
        raise ValueError(f"expected a list of tools as JSON, got {error}{line}") from None
    if not isinstance(items, list):
        raise ValueError(f"expected a list of tools, got {type(items).__name__}")  # noqa: TRY004 - as pydantic wants it
    if len(items) > MAX_TOOLS:
        raise ValueError(f"expected at most {MAX_TOOLS} tools, got {len(items):,}")
    tools = tuple(_tool(item, f"tool {number}") for number, item in enumerate(items, 1))
    names = [tool.name for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"the tool {twice!r} is given twice; name each once")
    return tools


def _tool_in(text: str) -> Tool:
    (tool,) = tools_of(f"[{text}]")
    return tool


def _tool(item: Any, what: str) -> Tool:
    function = item.get("function") if isinstance(item, dict) and "function" in item else item
    if not isinstance(item, dict) or not isinstance(function, dict) or item.get("type", "function") != "function":
        raise ValueError(
            f"{what}: expected {{type: function, function: {{name, description, parameters}}}}, or the function alone"
        )
    function = {key: value for key, value in function.items() if value is not None and key != "type"}
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{what}: expected a name of at most 64 letters, digits, _ and -, got {str(name)[:70]!r}")
    what = f"{what}, {name}"
    if more := function.keys() - _KEYS:
        raise ValueError(f"{what}: expected name, description and parameters, got {', '.join(sorted(more)[:5])} too")
    description, parameters = function.get("description"), function.get("parameters", {"type": "object"})
    if description is not None and not isinstance(description, str):
        raise ValueError(f"{what}: expected its description to be text, got {type(description).__name__}")
    validator = _validator(parameters, what)
    text = json.dumps({"type": "function", "function": function}, ensure_ascii=False, separators=(",", ":"))
    return Tool(name, description, parameters, text, validator)


def _validator(parameters: Any, what: str) -> Any:
    if not isinstance(parameters, dict) or parameters.get("type") != "object":
        raise ValueError(f"{what}: expected its parameters to be a JSON Schema of an object, {{type: object, …}}")
    if (fault := fault_in(parameters)) is not None:
        path, words = fault
        at = "".join(f"/{part}" for part in path)
        raise ValueError(f"{what}, parameters{at}: {words}")
    return schema_validator(parameters)


def _read(value: Any) -> Any:
    """Read the named file, and reject what is not a list of tools."""
    expected = "a list of tools, or the path of a JSON file with one"
    value = file_or_value(value, (list, tuple), expected=expected)
    where = f"{value.path}: " if isinstance(value, CarriedFile) else ""
    try:
        found = offered(value)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None
    if not found:
        raise ValueError(f"{where}expected at least one tool, got an empty list; leave `tools` out to offer none")
    return tuple(value) if isinstance(value, list) else value


Tools: TypeAlias = Annotated[CarriedFile | tuple[dict[str, JsonValue], ...], BeforeValidator(_read)]
"""A list of tools, or the path of a JSON file with one."""


def offered(tools: CarriedFile | Sequence[dict[str, JsonValue]]) -> tuple[Tool, ...]:
    """The tools in a recipe's field; the same objects for equal values."""
    return tools_of(tools.text if isinstance(tools, CarriedFile) else json.dumps(list(tools), ensure_ascii=False))


def identity_of_tools(tools: CarriedFile | Sequence[dict[str, JsonValue]]) -> JsonValue:
    """How an identity represents the tools: a file's SHA-256, or the list itself."""
    return {"sha256": tools.sha256} if isinstance(tools, CarriedFile) else list(tools)
