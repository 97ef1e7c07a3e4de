"""One end of the pipe between a program and its tests: each side calls the other's functions, and only data crosses.

A value that is not plain data stays where it is, and the other side gets a `Remote`, which forwards each operation on
it. The program never decides whether a value equals a `Remote`.
"""

from __future__ import annotations

import builtins
import os
import select
import time

from stillhouse.gen.checks.programs.values import Unpacking, packed

TYPE_CHECKING = False  # as a type checker reads it; typing and collections.abc take longer to load than the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any


MAX_FRAME_BYTES = 64 * 2**20
_OURS, _YOURS = b"o", b"y"


class Ended(BaseException):
    """The other side is gone, or sent something meaningless; a test's `except Exception` does not catch this."""


class Late(Ended):
    """The other side still runs, but sent nothing in time."""


class Remote:
    """An object that is on the other side."""

    __slots__ = ("_number", "_peer")

    def __init__(self, peer: Peer, number: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """The result of the call on the other side."""
        return self._peer.ask("call", self, list(arguments), named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._peer.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.ask("set", self, name, value)

    def __iter__(self) -> Iterator[Any]:
        rest = self._peer.ask("iter", self)
        while True:
            try:
                yield self._peer.ask("next", rest)
            except StopIteration:
                return

    def __next__(self) -> Any:
        return self._peer.ask("next", self)

    def __len__(self) -> int:
        found: int = self._peer.ask("len", self)
        return found

    def __bool__(self) -> bool:
        return self._peer.ask("bool", self) is True

    def __getitem__(self, key: Any) -> Any:
        return self._peer.ask("item", self, key)

    def __str__(self) -> str:
        return str(self._peer.ask("str", self))

    def __repr__(self) -> str:
        return str(self._peer.ask("repr", self))

    def __instancecheck__(self, value: Any) -> bool:
        return self._peer.ask("isinstance", self, value) is True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._peer.ask("equal", self, other) is True

    __hash__ = object.__hash__


_ACTIONS: dict[str, Callable[..., Any]] = {
    "call": lambda what, arguments, named: what(*arguments, **named),
    "get": getattr,
    "set": setattr,
    "iter": iter,
    "next": next,
    "len": len,
    "bool": bool,
    "item": lambda what, key: what[key],
    "str": str,
    "repr": repr,
    "isinstance": lambda kind, value: isinstance(value, kind),
    "equal": lambda one, other: one == other,
}


class Peer:
    """One side. `may` decides what it serves."""

    def __init__(
        self,
        read_fd: int,
        write_fd: int,
        may: Callable[[str, list[Any]], bool],
        *,
        wall_s: float | None = None,
    ) -> None:
        """`wall_s`: how many seconds of wall-clock time to wait for the other side; None: without limit."""
        self._read_fd, self._write_fd, self._may = read_fd, write_fd, may
        self._wall_s = wall_s
        self._until = None if wall_s is None else time.monotonic() + wall_s
        self._readable = select.poll()
        self._readable.register(read_fd, select.POLLIN)
        self._kept: list[Any] = []
        """Objects that the other side has a `Remote` of, by number; kept as long as the program runs."""
        self.actions = dict(_ACTIONS)

    def ask(self, action: str, *values: Any) -> Any:
        """Have the other side do something, and serve its requests meanwhile.

        Raises:
            Ended: it is gone, or sent something that is not a value.
            Exception: what it raised, as a Python exception of the same name, else RuntimeError.
        """
        self._send([action, *values])
        while True:
            said, *rest = self._receive()
            if said == "value" and len(rest) == 2:
                if action == "call" and isinstance(rest[1], list):
                    _change(values[1], rest[1])
                return rest[0]
            if said == "raised" and len(rest) == 2:
                raise _exception(*rest)
            self._serve(said, rest)

    def serve(self) -> None:
        """Serve the other side's requests until it is gone."""
        try:
            while True:
                said, *rest = self._receive()
                self._serve(said, rest)
        except Ended:
            return

    def _serve(self, action: Any, values: list[Any]) -> None:
        try:
            found = self._done(action, values)
            arguments = values[1] if action == "call" else []
            changed = arguments if any(isinstance(each, (list, dict, set)) for each in arguments) else None
            reply = self._packed(["value", found, changed])
        except Ended:
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit too: it is the program's answer
            reply = self._packed(["raised", type(error).__name__, _said(error)])
        self._write(reply)

    def _done(self, action: Any, values: list[Any]) -> Any:
        if action not in self.actions or not self._may(action, values):
            raise PermissionError(f"{action}: the other side may not ask for it")
        return self.actions[action](*values)

    def _send(self, frame: list[Any]) -> None:
        self._write(self._packed(frame))

    def _write(self, data: bytes) -> None:
        data = len(data).to_bytes(4, "big") + data
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._write_fd, view) :]
        except OSError:
            raise Ended("the program ended") from None

    def _receive(self) -> list[Any]:
        length = int.from_bytes(self._read(4), "big")
        if length > MAX_FRAME_BYTES:
            raise Ended("a value is larger than 64 MB")
        try:
            frame = Unpacking(self._read(length), self._described).value()
        except ValueError as error:
            raise Ended(f"got no value: {error}") from None
        if not isinstance(frame, list) or not frame or not isinstance(frame[0], str):
            raise Ended("got no value")
        return frame

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            left_s = None if self._until is None else self._until - time.monotonic()
            if left_s is not None and (left_s < 0 or not self._readable.poll(left_s * 1000)):
                raise Late(f"did not end within {self._wall_s:g} s")
            try:
                piece = os.read(self._read_fd, count - len(data))
            except OSError:
                piece = b""
            if not piece:
                raise Ended("the program ended")
            data += piece
        return bytes(data)

    def _packed(self, frame: list[Any]) -> bytes:
        return packed(frame, self._describe)

    def _describe(self, value: Any) -> bytes:
        if isinstance(value, Remote):
            number: int = object.__getattribute__(value, "_number")
            return _YOURS + number.to_bytes(4, "big")
        self._kept.append(value)
        return _OURS + (len(self._kept) - 1).to_bytes(4, "big")

    def _described(self, data: bytes) -> Any:
        number = int.from_bytes(data[1:], "big")
        if data[:1] == _OURS:
            return Remote(self, number)
        if number >= len(self._kept):
            raise ValueError("it names what it was not given")
        return self._kept[number]


def _change(given: list[Any], changed: list[Any]) -> None:
    """Update the caller's lists, dicts and sets to what the call left in them."""
    for ours, theirs in zip(given, changed, strict=False):
        if type(ours) is not type(theirs):
            continue
        if isinstance(ours, list):
            ours[:] = theirs
        elif isinstance(ours, (dict, set)):
            ours.clear()
            ours.update(theirs)


def _exception(name: Any, said: Any) -> Exception:
    kind = getattr(builtins, name, None) if isinstance(name, str) else None
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(str(said))
        except TypeError:  # UnicodeDecodeError takes five arguments
            pass
    return RuntimeError(f"{name}: {said}")


def _said(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except BaseException:  # noqa: BLE001 - code of the program's
        return ""
