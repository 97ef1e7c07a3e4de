"""What keeps a check's process in bounds: it dies with its parent, and starts no other process.

Linux alone: elsewhere, and where a kernel refuses, the process runs without; time and memory are limited in any case.
"""

import ctypes
import os
import platform
import resource
import signal
import struct
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2

_ARCHITECTURES = {
    # machine: (AUDIT_ARCH_*, numbers of fork, vfork, clone, execve, execveat; number of clone3)
    "x86_64": (0xC000003E, (56, 57, 58, 59, 322), 435),
    "aarch64": (0xC00000B7, (220, 221, 281), 435),
}
_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_MAX_OUTPUT_BYTES = 2**20


def die_with(parent: int) -> None:
    """End this process as soon as the thread that started it ends; `parent` is that thread's process."""
    with suppress(OSError):
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def limit_resources(*, memory_bytes: int) -> None:
    """Bound what this process can take; no thread and no process can be started any more."""
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _MAX_OUTPUT_BYTES),
        (resource.RLIMIT_NPROC, 0),  # which root is exempt from
    ):
        _, hard = resource.getrlimit(what)
        wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (wanted, wanted))
    with suppress(OSError):
        _forbid_processes()


def _forbid_processes() -> None:
    """Have the kernel refuse every call that starts a thread, a process or a program, also for root."""
    if platform.machine() not in _ARCHITECTURES:
        return
    architecture, refused, clone3 = _ARCHITECTURES[platform.machine()]
    calls = [(number, _EPERM) for number in refused] + [(clone3, _ENOSYS)]  # the C library then tries clone
    program = [(_LOAD, 0, 0, 4), (_JUMP_IF_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _EPERM), (_LOAD, 0, 0, 0)]
    for number, answer in calls:
        program += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, answer)]
    program.append((_RETURN, 0, 0, _ALLOW))
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    filters = ctypes.create_string_buffer(code, len(code))
    described = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(filters)))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(described))


def _prctl(option: int, *arguments: int) -> None:
    try:
        call = ctypes.CDLL(None, use_errno=True).prctl
    except AttributeError:  # not Linux
        raise OSError("no prctl here") from None
    given = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    if call(ctypes.c_int(option), *given) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} refused")
