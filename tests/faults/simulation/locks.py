"""Locks and thread pools that take turns: a thread that waits for a lock lets the others continue."""

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from .loop import VirtualLoop

T = TypeVar("T")
U = TypeVar("U")


class TurnLock:
    """In place of `threading.Lock`."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._held = False

    def __enter__(self) -> None:
        while self._held:
            self._loop.pause(0.01)
        self._held = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held = False


class InTurn:
    """In place of `ThreadPoolExecutor`: one after the other, in the thread that asks."""

    def __init__(self, _: int) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def map(self, do: Callable[[T], U], values: Iterable[T]) -> Iterator[U]:
        """See `Executor.map`."""
        return map(do, values)
