"""How a program and its tests exchange values: as bytes that can describe only plain data, nothing that acts.

Neither side trusts the other's bytes: reading any bytes gives plain data or raises ValueError.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as a type checker reads it; typing and collections.abc take longer to load than the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_DEPTH = 200
"""Depth of nested lists."""
_EXACT = ("Decimal", "Fraction")
"""Numbers that are written as text."""


def packed(value: Any, describe: Callable[[Any], bytes]) -> bytes:
    """The value's bytes.

    Args:
        value: what to send.
        describe: returns the bytes of a value that is not plain data.

    Raises:
        ValueError: it is nested too deeply.
    """
    out: list[bytes] = []
    _pack(value, out, describe, MAX_DEPTH)
    return b"".join(out)


def _pack(value: Any, out: list[bytes], describe: Callable[[Any], bytes], depth: int) -> None:
    if depth == 0:
        raise ValueError(f"a value is nested more than {MAX_DEPTH} levels deep")
    if value is None or value is True or value is False:
        out.append(b"N" if value is None else b"T" if value else b"F")
    elif isinstance(value, int):
        _text(b"i", b"%x" % int(value), out)
    elif isinstance(value, float):
        _text(b"d", float.hex(value).encode(), out)
    elif isinstance(value, str):
        _text(b"s", str.encode(value, "utf-8", "surrogatepass"), out)
    elif isinstance(value, (bytes, bytearray)):
        _text(b"b", bytes(value), out)
    elif isinstance(value, complex):
        _all(b"c", [value.real, value.imag], out, describe, depth)
    elif isinstance(value, dict):
        _all(b"m", [part for pair in dict.items(value) for part in pair], out, describe, depth)
    elif isinstance(value, (list, tuple, set, frozenset)):
        tag = next(tag for tag, kind in _SEQUENCES.items() if isinstance(value, kind))
        _all(tag, list(value), out, describe, depth)
    elif type(value).__name__ in _EXACT and type(value).__module__ in ("decimal", "fractions"):
        _all(b"x", [type(value).__name__, str(value)], out, describe, depth)
    elif type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        _pack(value.item(), out, describe, depth - 1)
    else:
        _text(b"o", describe(value), out)


_SEQUENCES: dict[bytes, Any] = {b"l": list, b"t": tuple, b"e": set, b"z": frozenset}


def _text(tag: bytes, data: bytes, out: list[bytes]) -> None:
    out.append(tag + len(data).to_bytes(4, "big") + data)


def _all(tag: bytes, parts: list[Any], out: list[bytes], describe: Callable[[Any], bytes], depth: int) -> None:
    out.append(tag + len(parts).to_bytes(4, "big"))
    for part in parts:
        _pack(part, out, describe, depth - 1)


class Unpacking:
    """Reads a value from bytes."""

    def __init__(self, data: bytes, described: Callable[[bytes], Any]) -> None:
        """`described`: returns the value for bytes that describe something other than plain data."""
        self._data = data
        self._at = 0
        self._described = described

    def value(self, depth: int = MAX_DEPTH) -> Any:
        """The next value.

        Raises:
            ValueError: the bytes are not one.
        """
        if depth == 0:
            raise ValueError(f"a value is nested more than {MAX_DEPTH} levels deep")
        tag = self._take(1)
        if tag in b"NTF":
            return {b"N": None, b"T": True, b"F": False}[tag]
        count = int.from_bytes(self._take(4), "big")
        if tag in b"idsbo":
            return self._scalar(tag, self._take(count))
        if tag not in b"ctezlmx" or count > len(self._data) - self._at:
            raise ValueError("these bytes are not a value")
        parts = [self.value(depth - 1) for _ in range(count)]
        try:
            return _built(tag, parts)
        except (TypeError, ArithmeticError) as error:  # an item that can't be in a set, or is not a number
            raise ValueError(str(error)) from None

    def _scalar(self, tag: bytes, data: bytes) -> Any:
        if tag == b"i":
            return int(data, 16)
        if tag == b"d":
            return float.fromhex(data.decode("ascii"))
        if tag == b"s":
            return data.decode("utf-8", "surrogatepass")
        return data if tag == b"b" else self._described(data)

    def _take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) < count:
            raise ValueError("these bytes end in the middle of a value")
        self._at += count
        return found


def _built(tag: bytes, parts: list[Any]) -> Any:
    if tag == b"c":
        return complex(*parts)
    if tag == b"m":
        return dict(zip(parts[::2], parts[1::2], strict=True))
    if tag == b"x":
        name, text = parts
        if name == "Decimal":
            from decimal import Decimal

            return Decimal(text)
        from fractions import Fraction

        return Fraction(text)
    return _SEQUENCES[tag](parts)
