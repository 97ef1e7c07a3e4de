"""A lock between threads that take turns: who waits for it lets the others go on."""

from types import TracebackType

from .loop import VirtualLoop


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
