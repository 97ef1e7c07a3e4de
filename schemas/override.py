"""`KEY=VALUE` from the command line, put into a recipe's tree before it is validated.

KEY is a dotted path, with list items given by number or by their `name`; VALUE is YAML. Missing mappings are created.
"""

import difflib

from stillhouse.schemas.secret_patterns import is_secret_field
from stillhouse.schemas.yaml_tree import MAX_DEPTH, Node, YamlFault, read_tree


def apply_override(tree: Node, override: str) -> None:
    """Set the value of `override` in the tree. Raises YamlFault, which names the override only by its key."""
    key, equals, value = override.partition("=")
    key = key.strip()
    if not equals or not key.isprintable() or not all(key.split(".")):
        shown = "something else" if is_secret_field(key) or not key.isprintable() else f"{key[:80]!r}{equals and '=…'}"
        raise YamlFault([(0, f"-o: expected KEY=VALUE, such as dataset.path=out/x, got {shown}")])
    where = f"-o {key}"
    node = read_tree(value, origin=where, numbered=False) or Node(None, where, 0)
    node.where, node.line = where, 0
    *parents, last = key.split(".")
    if len(parents) > MAX_DEPTH:
        raise YamlFault([(0, f"-o {key[:80]}…: expected a field, got {len(parents) + 1} levels")])
    target = tree
    for name in parents:
        target = _step(target, name, where=where)
    _set(target, last, node, where=where)


def _step(node: Node, name: str, *, where: str) -> Node:
    """The child of that name, created as an empty mapping if it is missing."""
    content = node.content
    if isinstance(content, list):
        return content[_index(content, name, where=where)]
    child = _entries(node, name, where=where).setdefault(name, Node({}, where, 0))
    if child.content is None:
        child.content = {}
    return child


def _set(node: Node, name: str, value: Node, *, where: str) -> None:
    content = node.content
    if isinstance(content, list):
        content[_index(content, name, where=where)] = value
    else:
        _entries(node, name, where=where)[name] = value


def _entries(node: Node, name: str, *, where: str) -> dict[str, Node]:
    if isinstance(node.content, dict):
        return node.content
    raise YamlFault([(0, f"{where}: expected a mapping or a list above `{name}`, got a single value")])


def _index(items: list[Node], name: str, *, where: str) -> int:
    """The position in a list that a number or an item's `name` refers to."""
    names = [
        item.content["name"].content if isinstance(item.content, dict) and "name" in item.content else None
        for item in items
    ]
    if name in names:
        return names.index(name)
    if name.isascii() and name.isdigit() and len(name) < 6 and int(name) < len(items):
        return int(name)
    known = [known for known in names if isinstance(known, str)]
    places = f"0 to {len(items) - 1}" if len(items) > 1 else "0"
    names_there = f" or its name ({', '.join(known)})" if known else ""
    close = difflib.get_close_matches(name, known, n=1)
    advice = f"; did you mean {close[0]}?" if close else ""
    raise YamlFault(
        [(0, f"{where}: expected a list item, by its position ({places}){names_there}, got {name!r}{advice}")]
    )
