"""Globs over the keys of a store."""

import re
from collections.abc import Callable

from stillhouse.gen.errors import SourceError


def matcher(glob: str) -> Callable[[str], object]:
    """As in the shell: `*` and `?` stay within a folder, `**/` is any number of folders, `[…]` is one character."""
    parts = []
    for piece in re.findall(r"\*\*/|\*+|\[!?\]?[^\]]*\]|.", glob, re.DOTALL):
        match piece:
            case "**/":
                parts.append("(?:.*/)?")
            case "?":
                parts.append("[^/]")
            case _ if piece.startswith("*"):
                parts.append("[^/]*" if piece == "*" else ".*")
            case _ if len(piece) > 1:
                inside = piece[1:-1].replace("\\", r"\\").replace("[", r"\[")
                parts.append(
                    "[^" + inside[1:] + "]" if inside.startswith("!") else "[" + inside.replace("^", r"\^") + "]"
                )
            case _:
                parts.append(re.escape(piece))
    try:
        return re.compile("".join(parts), re.DOTALL).fullmatch
    except re.error as error:
        raise SourceError(f"source.path: {glob} is not a valid glob: {error}", field="source.path") from error
