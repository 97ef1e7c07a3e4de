"""The program's process: it runs what a teacher wrote, and knows nothing of the expected results.

It is forked before the tests are read. Before the first line of the program runs, it gives up every privilege, and
every descriptor that it does not need.
"""

from __future__ import annotations

import os
import resource
import sys
from types import CodeType, ModuleType

from stillhouse.gen.checks.confine import confine_program, die_with, hide_memory, set_limits
from stillhouse.gen.checks.programs.peer import Peer

TYPE_CHECKING = False  # as a type checker reads it; typing and collections.abc take longer to load than the rest
if TYPE_CHECKING:
    from typing import Any


OUTPUT_BYTES = 8 * 2**20
"""The largest file that a program can write, including its output."""
MAX_DESCRIPTORS = 64
_ALL_DESCRIPTORS = 256
_ERROR_CHARS = 300


def confine(*, cpu_s: float, memory_bytes: int) -> None:
    """Limit this process for good."""
    seconds = max(1, int(cpu_s) + (cpu_s > int(cpu_s)))
    set_limits(
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, OUTPUT_BYTES),
        (resource.RLIMIT_NOFILE, MAX_DESCRIPTORS),
        (resource.RLIMIT_CORE, 0),
    )
    confine_program()


def serve_names(text: str, *, read_fd: int, write_fd: int, cpu_s: float, memory_bytes: int) -> None:
    """Load the program, and serve the tests' requests for its names."""
    null = os.open(os.devnull, os.O_RDWR)
    _keep_only(null, null, null, read_fd, write_fd)
    confine(cpu_s=cpu_s, memory_bytes=memory_bytes)
    module = ModuleType("solution")
    sys.modules["solution"] = module
    peer = Peer(read_fd, write_fd, lambda action, values: True)
    peer.actions["load"] = lambda: _load(text, module)
    peer.actions["names"] = lambda wanted: {name: _shown(module, name) for name in wanted if hasattr(module, name)}
    peer.serve()


def _load(text: str, module: ModuleType) -> None:
    exec(compile(text, "program.py", "exec"), module.__dict__)  # noqa: S102 - what all this is for


def _shown(module: ModuleType, name: str) -> list[Any]:
    value = getattr(module, name)
    return ["module", value.__name__] if isinstance(value, ModuleType) else ["value", value]


def serve_runs(text: str, *, read_fd: int, write_fd: int, memory_bytes: int) -> None:
    """Run the program once for each input: reads the remaining seconds of CPU and the input, writes how it ended.

    Input and output are files in memory, which no other run can reach.
    """
    null = os.open(os.devnull, os.O_RDWR)
    _keep_only(null, null, null, read_fd, write_fd)
    hide_memory()
    code: CodeType | str = text
    try:  # noqa: SIM105 - contextlib takes milliseconds to load
        code = compile(text, "program.py", "exec")
    except BaseException:  # noqa: BLE001, S110 - whatever it is: running the text says it again
        pass
    while True:
        cpu_s, size = read_line(read_fd).split()
        files = [os.memfd_create(name) for name in ("in", "out", "err")]
        write_all(files[0], read_exactly(read_fd, int(size)))
        os.lseek(files[0], 0, os.SEEK_SET)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            die_with(parent)
            hide_memory(is_hidden=False)
            _keep_only(*files)
            _run(code, cpu_s=float(cpu_s), memory_bytes=memory_bytes)
        write_all(write_fd, b"%d\n" % pid)
        _, status, used = os.wait4(pid, 0)
        how = os.waitstatus_to_exitcode(status)
        out_size = os.fstat(files[1]).st_size
        out = os.pread(files[1], OUTPUT_BYTES, 0)
        said = os.pread(files[2], _ERROR_CHARS * 4, max(0, os.fstat(files[2]).st_size - _ERROR_CHARS * 4))
        for fd in files:
            os.close(fd)
        head = b"%d %.3f %d %d %d\n" % (how, used.ru_utime + used.ru_stime, out_size, len(out), len(said))
        write_all(write_fd, head + out + said)


def _run(code: CodeType | str, *, cpu_s: float, memory_bytes: int) -> None:
    """Become the program, and end."""
    ended = 1
    try:
        confine(cpu_s=cpu_s, memory_bytes=memory_bytes)
        main = ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(code, main.__dict__)  # noqa: S102 - what all this is for
        if (threading := sys.modules.get("threading")) is not None:
            for thread in threading.enumerate():
                if thread is not threading.main_thread() and not thread.daemon:
                    thread.join()
        ended = 0
    except SystemExit as error:
        ended = 0 if error.code in (None, 0) else 1
    except BaseException as error:  # noqa: BLE001 - it is the program's answer
        os.write(2, f"{type(error).__name__}: {error}"[:_ERROR_CHARS].encode("utf-8", "replace"))
    finally:
        try:
            sys.stdout.flush()
        except BaseException:  # noqa: BLE001 - likewise: a full disk, or its own object
            ended = 1
        os._exit(ended)


def _keep_only(standard_in: int, standard_out: int, standard_err: int, *others: int) -> None:
    """Close every descriptor but these, of which the first three become the standard ones."""
    for place, fd in enumerate((standard_in, standard_out, standard_err)):
        os.dup2(fd, place)
    last = 2
    for fd in (*sorted(others), _ALL_DESCRIPTORS):
        os.closerange(last + 1, fd)
        last = fd


def read_line(fd: int) -> bytes:
    """A line from a pipe; raises EOFError if the other end is gone."""
    line = b""
    while not line.endswith(b"\n"):
        line += read_exactly(fd, 1)
    return line


def read_exactly(fd: int, size: int) -> bytes:
    """Read exactly this many bytes from a pipe; raises EOFError if the other end is gone."""
    data = bytearray()
    while len(data) < size:
        if not (piece := os.read(fd, min(size - len(data), 2**20))):
            raise EOFError
        data += piece
    return bytes(data)


def write_all(fd: int, data: bytes) -> None:
    """Write all bytes to a pipe or a file."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
