"""A job's log as whole lines, each shown once although a log is read again from its start after a broken connection."""

from collections.abc import Callable


class LogLines:
    """Whole lines of a log that arrives in parts; each is shown once, even if the log is read again from its start."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._rest = ""
        self._said = 0
        self._skip = 0

    def add(self, part: str) -> None:
        """Take the next part, and say the lines that it completes."""
        *lines, self._rest = (self._rest + part).split("\n")
        for line in lines:
            if self._skip:
                self._skip -= 1
            else:
                self._said += 1
                self._say(line)

    def rewind(self) -> None:
        """The log comes from its start again: lines that were said are skipped."""
        self._rest, self._skip = "", self._said

    def end(self) -> None:
        """Say what follows the last line break."""
        if self._rest:
            self._say(self._rest)
