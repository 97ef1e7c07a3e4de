"""The real journal on a disk that may be full, in a process that may die before, within and after each write.

What a worker leaves behind may be as the first release would have left it, in STILLJ01.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from stillhouse.gen.errors import StoreAway
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.frames import Frame, Kind

from .history import History
from .loop import VirtualLoop
from .processes import Killed, Process, check_alive, current


def journal_class(
    loop: VirtualLoop,
    history: History,
    *,
    point: Callable[[str], None],
    torn: Callable[[], float | None],
    kill: Callable[[Process], None],
    segments: Callable[[str], Iterator[str]],
    ages: Callable[[bytes], bytes],
) -> type[JournalFile]:
    """A JournalFile of this world.

    `torn`: the part of a frame that is written before its process dies in the middle of it, None where it lives on;
    `segments`: the keys of what is shipped of a chunk; `ages`: the bytes of a journal as they are found by others.
    """

    class SimulatedJournal(JournalFile):
        """See the module."""

        @classmethod
        def create(cls, path: Path) -> Self:
            """See JournalFile."""
            process = _writer(path)
            point("journal")
            file = super().create(path)
            process.files.append(file)
            history.opened(process, path, segments(path.parent.name))
            point("journal")
            return file

        def append(self, frame: Frame) -> tuple[int, int]:
            """See JournalFile."""
            process = _writer(self.path)
            point("journal")
            part = torn()
            place = super().append(frame)
            if part is not None:
                with suppress(FileNotFoundError):  # another has the chunk now
                    os.truncate(self.path, place[0] + int(part * place[1]))
                kill(process)
                raise Killed(process.name)
            if frame.kind is Kind.ANSWERED:
                history.kept(process, self.path, frame.body)
            point("journal")
            return place

        def read(self, offset: int, length: int) -> Frame:
            """See JournalFile."""
            check_alive()
            return super().read(offset, length)

        def tail(self, start: int) -> bytes:
            """See JournalFile."""
            check_alive()
            return super().tail(start)

        def close(self) -> None:
            """See JournalFile."""
            if (process := current()) is not None:
                history.let_go(process, self.path)
            if not self.closed:
                with suppress(FileNotFoundError):  # another has the chunk now, or it is sealed
                    data = self.path.read_bytes()
                    if (aged := ages(data)) is not data:
                        # A new file: who has opened this one already reads on in it.
                        fresh = self.path.with_suffix(".aged")
                        fresh.write_bytes(aged)
                        fresh.rename(self.path)
            super().close()

        def remove(self) -> None:
            """See JournalFile."""
            check_alive()
            point("journal")
            super().remove()
            point("journal")

    def _writer(path: Path) -> Process:
        process: Any = check_alive()
        if loop.time() < process.node.full_until:
            history.store_trouble = history.disk_full = True
            raise StoreAway(f"{path}: the disk is full")
        return process  # type: ignore[no-any-return]

    return SimulatedJournal
