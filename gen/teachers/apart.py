"""A process beside this one for work on very large replies.

No thread can do that work: parsing holds the GIL, which the event loop needs, and so do regular expressions, garbage
collection and freeing the parsed objects. The process is started when it is first needed, serves one call at a time,
and ends with this one, whose end of the pipe then closes.
"""

import asyncio
import atexit
import copyreg
import gc
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, TypeVar

from stillhouse.gen.process.child_environment import child_environment

APART_BYTES = 2 * 2**20
"""Work on smaller replies is done in 50 ms, in whatever thread; passing them on would cost more than it saves."""

_T = TypeVar("_T")
_log = logging.getLogger("stillhouse")


def _read_only(values: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(values)


copyreg.pickle(MappingProxyType, lambda proxy: (_read_only, (dict(proxy),)))


class Apart:
    """The process beside this one, started by the first call."""

    def __init__(self) -> None:
        self._using = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, function: Callable[..., _T], *args: object) -> _T:
        """The function's value, from the process, for which all of it is pickled. If that dies or can't be started, the
        function is called here: an answer is worth more than a free event loop. It must not raise."""
        with self._using:
            try:
                return self._called(function, args)
            except (OSError, EOFError, pickle.UnpicklingError) as error:
                self.end()
                _log.warning("the process that reads large replies ended (%s); one is read without it", error)
            except BaseException:
                self.end()  # it may wait for the rest of the call
                raise
        return function(*args)

    def _called(self, function: Callable[..., _T], args: tuple[object, ...]) -> _T:
        if self._process is None or self._process.poll() is not None:
            self.end()
            self._process = subprocess.Popen(  # noqa: S603 - of this program
                [sys.executable, "-P", "-c", f"from {__name__} import main; main()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=child_environment(),
                start_new_session=True,  # Ctrl-C is handled here
            )
        calls, values = self._process.stdin, self._process.stdout
        assert calls is not None
        assert values is not None
        # Large texts go from and to the pipes piece by piece, and between two pieces the loop may run.
        pickle.dump((function, args), calls, protocol=5)
        calls.flush()
        value: _T = pickle.load(values)  # noqa: S301 - written by our own code
        return value

    def end(self) -> None:
        """Kill it, if it was started."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


APART = Apart()
"""The one process that all callers here share."""
atexit.register(APART.end)


def is_apart(size: int) -> bool:
    """True if work on a text of this size goes to the process; never on an event loop, which the wait would block for
    longer than the work."""
    if size < APART_BYTES:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def main() -> None:
    """Serve calls until the other end of the pipe closes."""
    calls, values = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write to the pipe
    gc.disable()  # it would visit the objects of a large document again and again
    gc.freeze()
    try:
        while True:
            function, args = pickle.load(calls)  # noqa: S301 - written by our own code
            pickle.dump(function(*args), values, protocol=5)
            values.flush()
            del args
            gc.collect()
    except (EOFError, BrokenPipeError):
        pass
