"""A job's log as whole lines, each shown once although the log is read from its start again after a broken
connection."""

from collections.abc import Callable


class LogLines:
    """Turns a log that arrives in parts into whole lines, each shown once even if the log is read from its start
    again."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._rest = ""
        self._said = 0
        self._skip = 0

    def add(self, part: str) -> None:
        """Take the next part, and emit the lines that it completes."""
        *lines, self._rest = (self._rest + part).split("\n")
        for line in lines:
            if self._skip:
                self._skip -= 1
            else:
                self._said += 1
                self._say(line)

    def rewind(self) -> None:
        """The log is read from its start again: skip the lines that were shown."""
        self._rest, self._skip = "", self._said

    def end(self) -> None:
        """Emit what follows the last line break."""
        if self._rest:
            self._say(self._rest)
