"""YAML as a tree in which every value knows the line it was written on.

Whatever the text, reading it ends in a `Node` that JSON can represent or in a `YamlFault` that names all places; tags
import and build nothing, and aliases can't turn a small file into a large tree.
"""

import math
from dataclasses import dataclass, field
from datetime import date
from typing import TypeAlias

import yaml
from pydantic import JsonValue

MAX_CHARS = 1_000_000
"""The longest text that is read: a recipe has some dozen lines, so a prompts file passed by mistake is reported at
once."""
MAX_NODES = 20_000
"""The most values a text may contain, with its aliases expanded."""
MAX_DEPTH = 40
"""The deepest nesting."""
MAX_NAME_CHARS = 200
"""The longest name of a field."""

_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = (_TAG + "str", _TAG + "value", _TAG + "merge")
_INT64 = 2**63
_NO_TAGS = "expected a plain value, got a YAML tag (`!…`); leave the tag out"
_NO_NAME = "expected a field's name, got a list, a mapping or nothing; put text that begins with { or [ in quotes"

Content: TypeAlias = "str | int | float | bool | list[Node] | dict[str, Node] | None"


@dataclass(slots=True)
class Node:
    """A value, the place where it was written, such as `recipe.yaml:12`, and the scalar as written."""

    content: Content
    where: str
    line: int
    written: str = ""

    def plain(self) -> JsonValue:
        """The value without its places."""
        match self.content:
            case dict() as entries:
                return {key: node.plain() for key, node in entries.items()}
            case list() as items:
                return [node.plain() for node in items]
            case scalar:
                return scalar


class YamlFault(ValueError):
    """The text is not YAML, or is YAML that a recipe can't contain; `problems` are (line, message) pairs."""

    def __init__(self, problems: list[tuple[int, str]]) -> None:
        super().__init__("\n".join(message for _, message in problems))
        self.problems = problems


def read_tree(text: str, *, origin: str, numbered: bool = True) -> Node | None:
    """The tree of the one YAML document in `text`; None if there is none.

    Places read `origin:line`, or just `origin` if the text is not a file (`numbered=False`). Raises YamlFault.
    """
    if len(text) > MAX_CHARS:
        raise YamlFault([(0, f"{origin}: expected a recipe, got {len(text):,} characters; is it the prompts file?")])
    reader = _Reader(origin=origin, numbered=numbered)
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        node = reader.read(loader, root) if root is not None else None
    except yaml.YAMLError as error:
        raise YamlFault([reader.syntax(error, text)]) from None
    except RecursionError:
        # PyYAML's composer recurses: deep nesting overflows Python's stack before it reaches our own limit.
        raise YamlFault([(0, f"{origin}: nested too deeply; a recipe is a few levels deep")]) from None
    if reader.problems:
        raise YamlFault(reader.problems)
    return node


def _is_name(text: str) -> bool:
    """True if a message of one line can show a key."""
    return 0 < len(text) <= MAX_NAME_CHARS and text.isprintable()


@dataclass(slots=True)
class _Reader:
    """Turns PyYAML's nodes into ours, and collects the errors in them."""

    origin: str
    numbered: bool
    problems: list[tuple[int, str]] = field(default_factory=list)
    count: int = 0

    def where(self, mark: yaml.Mark) -> str:
        return f"{self.origin}:{mark.line + 1}" if self.numbered else self.origin

    def problem(self, mark: yaml.Mark, message: str) -> None:
        self.problems.append((mark.line + 1, f"{self.where(mark)}: {message}"))

    def read(self, loader: yaml.SafeLoader, node: yaml.Node, depth: int = 0) -> Node:
        self.count += 1
        line, where = node.start_mark.line + 1, self.where(node.start_mark)
        if depth > MAX_DEPTH:
            raise YamlFault(
                [(line, (f"{where}: nested more than {MAX_DEPTH} levels deep; does an alias contain itself?"))]
            )
        if self.count > MAX_NODES:
            raise YamlFault([(line, f"{where}: more than {MAX_NODES:,} values with the aliases expanded; write less")])
        if isinstance(node, yaml.CollectionNode) and node.tag not in (_TAG + "map", _TAG + "seq"):
            self.problem(node.start_mark, _NO_TAGS)
        match node:
            case yaml.MappingNode():
                return Node(self.mapping(loader, node, depth), where, line)
            case yaml.SequenceNode():
                return Node([self.read(loader, item, depth + 1) for item in node.value], where, line)
            case yaml.ScalarNode():
                return Node(self.scalar(loader, node), where, line, node.value)
            case _:
                raise AssertionError(f"YAML has no fourth kind of node: {type(node)}")

    def mapping(self, loader: yaml.SafeLoader, node: yaml.MappingNode, depth: int) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key_node, value_node in node.value:
            value = self.read(loader, value_node, depth + 1)
            if key_node.tag == _TAG + "merge":
                merged = self.merge(value, key_node.start_mark) | merged
                continue
            if not isinstance(key_node, yaml.ScalarNode) or not _is_name(key_node.value):
                self.problem(key_node.start_mark, _NO_NAME)
                continue
            name = key_node.value
            if name in own:
                self.problem(key_node.start_mark, f"{name}: given twice, first at {own[name].where}; keep one")
                continue
            value.where, value.line = self.where(key_node.start_mark), key_node.start_mark.line + 1
            own[name] = value
        return merged | own

    def merge(self, value: Node, mark: yaml.Mark) -> dict[str, Node]:
        """The fields that `<<` merges in; of several mappings the first wins, as in YAML."""
        sources = value.content if isinstance(value.content, list) else [value]
        entries: dict[str, Node] = {}
        for source in sources:
            if not isinstance(source.content, dict):
                self.problem(mark, "`<<` expects a mapping or a list of mappings; write `<<: *name`")
                return {}
            entries = source.content | entries
        return entries

    def scalar(self, loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str | int | float | bool | None:
        if node.tag in _TEXT_TAGS:
            if any("\ud800" <= character <= "\udfff" for character in node.value):
                self.problem(node.start_mark, "expected Unicode text, got a lone surrogate (\\uD800 to \\uDFFF)")
                return ""
            return str(node.value)
        if node.tag != loader.resolve(yaml.ScalarNode, node.value, (True, False)):  # type: ignore[no-untyped-call]
            self.problem(node.start_mark, _NO_TAGS)
            return None
        try:
            value = loader.construct_object(node)
        except (ValueError, OverflowError):
            self.problem(node.start_mark, "this looks like a number or a date but is not one; put text in quotes")
            return None
        if isinstance(value, date):
            return value.isoformat()
        if (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, int) and abs(value) >= _INT64):
            self.problem(node.start_mark, "expected a finite number of at most 64 bits; put text in quotes")
            return None
        return value if isinstance(value, (int, float, bool)) else None

    def syntax(self, error: yaml.YAMLError, text: str) -> tuple[int, str]:
        """PyYAML's error in one line, without its snippet of the text, which may show a key."""
        if isinstance(error, yaml.reader.ReaderError):
            line = text.count("\n", 0, error.position) + 1
            message = f"a character that YAML forbids (code {ord(text[error.position]):#x}); remove it"
            return line, f"{self.origin}:{line}: {message}" if self.numbered else f"{self.origin}: {message}"
        if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
            return 0, f"{self.origin}: not valid YAML"
        mark, problem = error.problem_mark, error.problem or "can't be read"
        if "'\\t'" in problem:
            problem = "a tab; indent with spaces"
        elif "undefined alias" in problem or "an alias" in (error.context or ""):
            problem = "an alias (`*name`) without its anchor; put text that begins with `*` in quotes"
        elif "duplicate anchor" in (error.context or ""):
            problem = "the same anchor (`&name`) twice; give each its own name"
        elif "single document" in (error.context or ""):
            problem = "a second document (`---`); write one recipe per file"
        place = f"{self.where(mark)}, column {mark.column + 1}" if self.numbered else self.origin
        return mark.line + 1, f"{place}: not valid YAML: {problem}"
