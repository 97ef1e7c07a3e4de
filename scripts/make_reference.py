"""Fill in the generated parts of schemas/README.md: the recipe's fields and the dataset's columns.

`make_reference.py` writes the page; `make_reference.py --check` only compares, and exits with 1 if it is stale.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from stillhouse.schemas.columns import RECORD_COLUMNS
from stillhouse.schemas.recipe_file import recipe_json_schema

PAGE = Path(__file__).resolve().parents[1] / "schemas" / "README.md"
NOT_WRITTEN = {"CarriedFile"}
"""Sections that Stillhouse writes for itself, in place of a file's name."""
PART = re.compile(r"(<!-- generated: (\w+)[^>]*-->\n).*?(<!-- end -->\n)", re.DOTALL)

Schema = Mapping[str, Any]


def recipe_reference(schema: Schema) -> str:
    """A section for each part of a recipe, in the order in which a reader meets them."""
    sections = sorted(_sections(schema, "", schema["$defs"]), key=lambda found: "simulator" in found[0])
    shown: dict[tuple[str, str], str] = {}  # each row that was printed, with the section that has it
    return "\n".join(_section(path, part, schema["$defs"], shown) for path, part in sections)


def columns_reference() -> str:
    """The columns of data/, with their Arrow types."""
    lines = ["| column | type | meaning |", "|---|---|---|"]
    for column in RECORD_COLUMNS:
        notes = " *Can be null.*" * column.null + " *Only if asked for.*" * (not column.always)
        lines.append(f"| `{column.name}` | {_arrow_type(column.kind)} | {column.meaning}{notes} |")
    return "\n".join(lines) + "\n"


def _sections(part: Schema, path: str, defs: Schema) -> Iterator[tuple[str, Schema]]:
    """(path, schema) of this part and of all below it."""
    yield path, part
    for name, field in part.get("properties", {}).items():
        for below, is_list in _objects(field, defs):
            kind = below.get("properties", {}).get("kind", {}).get("const")
            suffix = "[]" if is_list else ""
            yield from _sections(below, f"{path}.{name}{suffix}".lstrip(".") + (f" ({kind})" if kind else ""), defs)


def _objects(field: Schema, defs: Schema, *, is_list: bool = False) -> Iterator[tuple[Schema, bool]]:
    """The objects with fields of their own that a field may hold."""
    if "$ref" in field:
        found = _target(field, defs)
        if "properties" in found and found["title"] not in NOT_WRITTEN:
            yield found, is_list
        return
    for choice in (*field.get("anyOf", ()), *field.get("oneOf", ())):
        yield from _objects(choice, defs, is_list=is_list)
    if isinstance(field.get("items"), dict):
        yield from _objects(field["items"], defs, is_list=True)


def _section(path: str, part: Schema, defs: Schema, shown: dict[tuple[str, str], str]) -> str:
    rows, repeated = [], dict[str, list[str]]()
    title = f"`{path}`" if path else "the file"
    for name, field in part["properties"].items():
        row = f"| `{name}` | {_type(field, defs)} | {_default(name, field, part)} | {_meaning(field, defs)} |"
        if (elsewhere := shown.setdefault((name, row), title)) != title:
            repeated.setdefault(elsewhere, []).append(f"`{name}`")
        else:
            rows.append(row)
    lines = [f"#### {title}", "", _one_line(part.get("description", ""))]
    lines += [f"Fields as in {other}: {', '.join(names)}." for other, names in repeated.items()]
    if rows:
        lines += ["", "| field | value | default | meaning |", "|---|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _type(field: Schema, defs: Schema) -> str:
    """The values a field takes, in words."""
    if "$ref" in field:
        found = _target(field, defs)
        if found.get("title") in NOT_WRITTEN:
            return "text"
        return "section" if "properties" in found else _type(found, defs)
    if choices := [each for each in (*field.get("anyOf", ()), *field.get("oneOf", ())) if each.get("type") != "null"]:
        return " or ".join(dict.fromkeys(_type(each, defs) for each in choices))
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    match field.get("type"):
        case "integer" | "number":
            return str(field["type"]) + _range(field)
        case "boolean":
            return "true, false"
        case "array" if "prefixItems" in field:
            return f"[{', '.join(_type(item, defs) for item in field['prefixItems'])}]"
        case "array":
            items = _type(field["items"], defs)
            return f"list of ({items})" if " or " in items else f"list of {items}"
        case "object":
            values = field.get("additionalProperties")
            return f"map to {_type(values, defs)}" if isinstance(values, dict) and values else "map"
        case "string":
            return "date" if field.get("format") == "date" else "text"
    return "any"


def _range(field: Schema) -> str:
    least, most = field.get("minimum"), field.get("maximum")
    if least is not None and most is not None:
        return f" {least:,g} to {most:,g}" if most < 2**53 else f" ≥ {least:,g}"
    bounds = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    return ",".join(f" {sign} {field[key]:,g}" for key, sign in bounds.items() if key in field and field[key] < 2**53)


def _default(name: str, field: Schema, part: Schema) -> str:
    if name in part.get("required", ()):
        return "**required**"
    value = field.get("default")
    if value in (None, [], {}, ""):
        return ""
    if isinstance(value, (dict, list)):
        return "" if isinstance(value, dict) else f"`{value}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _meaning(field: Schema, defs: Schema) -> str:
    text = field.get("description") or next((below.get("description", "") for below, _ in _objects(field, defs)), "")
    return _one_line(text)


def _one_line(text: str) -> str:
    """The text as a table's cell; what stands between backticks is code, in which `<` is itself."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    return "`".join(part if at % 2 else part.replace("<", "&lt;") for at, part in enumerate(parts))


def _target(field: Schema, defs: Schema) -> Schema:
    found: Schema = defs[field["$ref"].rpartition("/")[2]]
    return found


def _arrow_type(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return f"{kind.value_type} (dictionary)"
    if pa.types.is_list(kind):
        return f"list of {_arrow_type(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "{" + ", ".join(f"{each.name}: {_arrow_type(each.type)}" for each in kind) + "}"
    return str(kind)


def made(text: str) -> str:
    """The page with its generated parts as they should be."""
    parts = {"recipe": lambda: recipe_reference(recipe_json_schema()), "columns": columns_reference}
    return PART.sub(lambda part: f"{part[1]}\n{parts[part[2]]()}\n{part[3]}", text)


def main() -> int:
    """Write the page, or compare it."""
    text = PAGE.read_text(encoding="utf-8")
    wanted = made(text)
    if sys.argv[1:] == ["--check"]:
        if text != wanted:
            print(f"{PAGE.name}: its generated parts are stale; run scripts/make_reference.py", file=sys.stderr)
        return int(text != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
