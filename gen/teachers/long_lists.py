"""Long lists in a reply's body, taken out unparsed and read in pieces.

Its objects take several times the memory of its JSON. Here no call gets more than `PIECE_BYTES` of it (unless one
element is larger), and the objects of one piece are gone before the next is parsed. A seal reads such lists in a thread
of the worker, where parsing one at once, or freeing it, would hold the event loop.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from stillhouse.gen.teachers.in_pieces import PIECE_BYTES, search
from stillhouse.gen.teachers.lenient_json import document_in

TAKEN_OUT_BYTES = 6 * 2**20
"""Smaller bodies are parsed at once: pieces cost up to a quarter more CPU."""
CUT = b"[0]"
"""Stands for a list that was taken out; the lists that are taken out never contain a number."""
CUT_LIST = orjson.loads(CUT)

MAX_LISTS = 100
"""Replies have a few. Each costs 20 µs however short it is, and a hostile body could hold a million."""
FIRST_WINDOW_BYTES, WINDOW_BYTES = 2**12, 2**18
"""Most lists in a body are short, so the first window is small; each is four times as large as the one before."""
_QUOTE, _BACKSLASH, _COMMA = b'"\\,'
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_IS_STRUCTURE = _STEPS != 0
_IS_STRUCTURE[[_QUOTE, _COMMA]] = True


@dataclass(frozen=True, slots=True)
class LongList:
    """A list as JSON in pieces. Each is text between two of its commas; nothing has checked that it is JSON."""

    pieces: tuple[memoryview, ...]
    counts: tuple[int, ...]
    """Elements of each piece, if it is JSON."""

    def __len__(self) -> int:
        return sum(self.counts)

    def parts(self, *, skip: int = 0) -> Iterator[list[Any]]:
        """The elements after the first `skip`, some at a time, read like any document.

        Raises:
            ValueError: a piece is not JSON.
        """
        for piece, count in zip(self.pieces, self.counts, strict=True):
            if skip >= count:
                skip -= count
                continue
            part = document_in(b"".join((b"[", piece, b"]")))
            if not isinstance(part, list) or len(part) != count:
                raise ValueError("a piece of a list is not a list")
            yield part[skip:]
            skip = 0


class TakenOut(NamedTuple):
    """A body without its long lists."""

    rest: bytes
    """`CUT` stands where they were."""
    lists: tuple[LongList, ...]

    def put_back(self, fields: Any, names: Collection[str]) -> dict[str, Any] | None:
        """An object in the rest, with the lists as its fields of these names; None unless all of them are there."""
        places = [name for name in fields if name in names and fields[name] == CUT_LIST] if fields else []
        if len(places) != len(self.lists) or not isinstance(fields, dict):
            return None
        return fields | dict(zip(places, self.lists, strict=True))


def in_parts(values: list[Any] | LongList, *, skip: int = 0) -> Iterator[list[Any]]:
    """The elements of either; see `LongList.parts`."""
    return values.parts(skip=skip) if isinstance(values, LongList) else iter([values[skip:]])


def is_json(values: LongList) -> bool:
    """True if the list is JSON."""
    try:
        return all(True for _ in values.parts())
    except (ValueError, RecursionError):
        return False


def list_pattern(names: Iterable[str]) -> re.Pattern[bytes]:
    """For `take_out`: the lists that are fields of these names."""
    return re.compile(rf'(?<=[{{,\s])"(?:{"|".join(names)})"\s*:\s*\['.encode())


def take_out(body: bytes, begins: re.Pattern[bytes]) -> TakenOut | None:
    """Take out the lists that follow a match of `begins`, which ends at their bracket; None if the body is small, or
    none of the first `MAX_LISTS` is long.

    A match must begin with a field's name after a comma, a brace or white space: no text in valid JSON can then contain
    it. What is not valid JSON comes out as a rest, or a piece, that is not either.
    """
    if len(body) < TAKEN_OUT_BYTES:
        return None
    kept: list[bytes] = []
    lists: list[LongList] = []
    at = 0
    for _ in range(MAX_LISTS):
        found = search(begins, body, at)
        taken = None if found is None else _list_at(body, found.end())
        if found is None or taken is None:
            break
        whole, end = taken
        if end - found.end() > PIECE_BYTES:
            kept += [body[at : found.end() - 1], CUT]
            lists.append(whole)
        else:
            kept.append(body[at:end])
        at = end
    return TakenOut(b"".join([*kept, body[at:]]), tuple(lists)) if lists else None


def list_in(text: bytes) -> LongList | None:
    """The list that the whole text is; None if it is anything else, or empty."""
    if text[:1] != b"[" or text[:2] == b"[]" or (found := _list_at(text, 1)) is None or found[1] != len(text):
        return None
    return found[0]


def _list_at(body: bytes, start: int) -> tuple[LongList, int] | None:
    """The list whose first element is at `start`, and the position after its bracket; None if it does not end."""
    view = memoryview(body)
    pieces: list[memoryview] = []
    counts: list[int] = []
    began, last, count = start, -1, 0  # of this piece: its start, the end of its last element, and its elements so far
    for commas, end in _structure(body, start):
        for place in commas if end is None else (*commas, end):
            if count and place - began > PIECE_BYTES:
                pieces.append(view[began:last])
                counts.append(count)
                began, count = last + 1, 0
            last, count = place, count + 1
        if end is not None:
            pieces.append(view[began:end])
            counts.append(count)
            return LongList(tuple(pieces), tuple(counts)), end + 1
    return None


def _structure(body: bytes, start: int) -> Iterator[tuple[list[int], int | None]]:
    """By window: the positions of the commas between the list's elements, and of its end, if that is in the window."""
    quoted, escaped, depth = False, False, 0
    whole = np.frombuffer(body, np.uint8)
    at, size = start, FIRST_WINDOW_BYTES
    while at < len(body):
        window = whole[at : at + size]
        places = np.flatnonzero(_IS_STRUCTURE[window])
        characters = window[places]
        is_quote = characters == _QUOTE
        slashes = np.flatnonzero(window == _BACKSLASH)
        if escaped or len(slashes):
            hidden, escaped = _escaped(slashes, len(window), first=escaped)
            is_quote &= ~hidden[places]
        inside = (np.cumsum(is_quote, dtype=np.uint8) & 1).astype(bool) ^ quoted
        if len(inside):
            quoted = bool(inside[-1])
        outside = ~inside & ~is_quote
        places, characters = places[outside], characters[outside]
        depths = depth + np.cumsum(_STEPS[characters], dtype=np.int32)
        if len(depths):
            depth = int(depths[-1])
        ends = np.flatnonzero(depths < 0)
        limit = int(ends[0]) if len(ends) else len(places)
        commas = places[:limit][(depths[:limit] == 0) & (characters[:limit] == _COMMA)] + at
        yield commas.tolist(), int(places[limit]) + at if len(ends) else None
        if len(ends):
            return
        at, size = at + size, min(4 * size, WINDOW_BYTES)


def _escaped(slashes: npt.NDArray[np.intp], size: int, *, first: bool) -> tuple[npt.NDArray[np.bool_], bool]:
    """Which of a window's bytes follow a backslash that counts, and if the byte after the window does. `first`: the
    first one does."""
    hidden = np.zeros(size + 1, np.bool_)
    hidden[0] = first
    for place in slashes.tolist():
        if not hidden[place]:
            hidden[place + 1] = True
    return hidden[:size], bool(hidden[size])
