"""Where in its file each field of a recipe was written: for messages only, never part of the recipe's meaning."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from stillhouse.schemas.yaml_tree import Node


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Dotted path to place, such as `source.prompt` to `recipe.yaml:4` or, if overridden, `-o source.prompt`."""

    known: Mapping[str, str] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Places)  # two recipes are equal wherever they were written

    def __hash__(self) -> int:
        return 0

    def before(self, path: str) -> str:
        """Prefix of a message about the field: `recipe.yaml:4: `, or nothing if the place is not known.

        A field that the file leaves out is placed at the section that would contain it.
        """
        while path and path not in self.known:
            path = path.rpartition(".")[0]
        if not path:
            return ""
        place = self.known[path]
        return "-o " if place.startswith("-o ") else f"{place}: "


def places_in(tree: Node) -> Places:
    """The places of all values below the tree's root."""
    return Places(dict(_walk(tree, "")))


def _walk(node: Node, path: str) -> Iterator[tuple[str, str]]:
    match node.content:
        case dict() as entries:
            below = list(entries.items())
        case list() as items:
            below = [(str(number), item) for number, item in enumerate(items)]
        case _:
            return
    for name, child in below:
        yield path + name, child.where
        yield from _walk(child, f"{path}{name}.")
