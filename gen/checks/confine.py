"""Confines a check's process: it dies with its parent, and can't start other processes.

Only on Linux: elsewhere, and if a kernel refuses, the process runs without this; time and memory are always limited.
Imports little, because it is part of what starts with each program of the check `python`.
"""

import ctypes
import os
import resource
import struct

_SIGKILL = 9
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITIES_V3 = 0x20080522
_CLONE_THREAD = 0x10000

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
"""On x86_64, the same calls exist a second time under numbers with this bit."""
_NUMBERS = {
    # call: number on x86_64, number on aarch64; None if it does not exist there
    "fork": (57, None),
    "vfork": (58, None),
    "clone": (56, 220),
    "clone3": (435, 435),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "prctl": (157, 167),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "socket": (41, 198),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
}
_STARTS = ("fork", "vfork", "clone", "execve", "execveat")
_OF_PROGRAMS = (
    *("fork", "vfork", "execve", "execveat"),
    *("tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal", "pidfd_getfd"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "setsid", "setpgid", "unshare", "setns", "mount", "socket"),
    *("memfd_create", "memfd_secret", "shmget", "msgget", "semget", "mq_open"),  # memory that no limit counts
    *("add_key", "request_key", "keyctl", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup"),
)
_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_GREATER_OR_EQUAL, _JUMP_IF_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in the data that the kernel passes to a filter."""
_MAX_OUTPUT_BYTES = 2**20

_Instruction = tuple[int, int, int, int]


def die_with(parent: int) -> None:
    """End this process as soon as the thread that started it ends; `parent` is that thread's process."""
    _try(_PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != parent:  # it ended before this call
        os._exit(1)


def hide_memory(*, is_hidden: bool = True) -> None:
    """Hide this process's memory and files from other processes of the same user."""
    _try(_PR_SET_DUMPABLE, 0 if is_hidden else 1)


def limit_resources(*, memory_bytes: int) -> None:
    """Limit what this process can use; afterwards it can't start threads or processes."""
    set_limits(
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _MAX_OUTPUT_BYTES),
        (resource.RLIMIT_NPROC, 0),  # root is exempt from it
    )
    rules = [rule for call in _STARTS for rule in _refused(call)]
    try:
        _filter(rules)
    except OSError:
        return


def set_limits(*limits: tuple[int, int]) -> None:
    """Lower resource limits for good: pairs of a RLIMIT_* and its maximum."""
    for what, most in limits:
        _, hard = resource.getrlimit(what)
        wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (wanted, wanted))


def can_confine_programs() -> bool:
    """True if `confine_program` knows this machine's system calls."""
    return os.uname().machine in _AUDIT_ARCH


def confine_program() -> None:
    """Give up all privileges for good, and make the kernel refuse calls that a program does not need.

    The process can start threads but no processes. It can't open sockets, send signals to others, inspect other
    processes, or take memory that its limits don't count.

    Raises:
        OSError: the kernel refuses.
    """
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITIES_V3, 0))
    if ctypes.CDLL(None, use_errno=True).capset(header, ctypes.create_string_buffer(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset refused")
    rules = [rule for call in _OF_PROGRAMS for rule in _refused(call)]
    is_thread: list[_Instruction] = [(_JUMP_IF_SET, 0, 1, _CLONE_THREAD), (_RETURN, 0, 0, _ALLOW)]
    rules += _by_first_argument("clone", is_thread)
    for call in ("kill", "tgkill"):
        is_own: list[_Instruction] = [(_JUMP_IF_EQUAL, 0, 1, os.getpid()), (_RETURN, 0, 0, _ALLOW)]
        rules += _by_first_argument(call, is_own)
    stays: list[_Instruction] = [(_JUMP_IF_EQUAL, 1, 0, _PR_SET_PDEATHSIG), (_RETURN, 0, 0, _ALLOW)]
    _filter(rules + _by_first_argument("prctl", stays))


def _refused(call: str) -> list[_Instruction]:
    """Refuse a call, whatever its arguments."""
    number = _number(call)
    return [] if number is None else [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _EPERM)]


def _by_first_argument(call: str, allowed: list[_Instruction]) -> list[_Instruction]:
    """Refuse a call unless its first argument is `allowed`."""
    inner = [(_LOAD, 0, 0, _FIRST_ARGUMENT), *allowed, (_RETURN, 0, 0, _EPERM)]
    number = _number(call)
    return [] if number is None else [(_JUMP_IF_EQUAL, 0, len(inner), number), *inner]


def _number(call: str) -> int | None:
    numbers = dict(zip(_AUDIT_ARCH, _NUMBERS[call], strict=True))
    return numbers.get(os.uname().machine)


def _filter(rules: list[_Instruction]) -> None:
    """Make the kernel apply these rules to each of this process's system calls, also for root."""
    machine = os.uname().machine
    if machine not in _AUDIT_ARCH:
        return
    program: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _EPERM),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        program += [(_JUMP_IF_GREATER_OR_EQUAL, 0, 1, _X32), (_RETURN, 0, 0, _EPERM)]
    clone3 = _NUMBERS["clone3"][0]
    program += [(_JUMP_IF_EQUAL, 0, 1, clone3), (_RETURN, 0, 0, _ENOSYS)]  # the C library then tries clone
    program += [*rules, (_RETURN, 0, 0, _ALLOW)]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    filters = ctypes.create_string_buffer(code, len(code))
    described = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(filters)))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(described))


def _try(option: int, *arguments: int) -> None:
    try:
        _prctl(option, *arguments)
    except OSError:
        return


def _prctl(option: int, *arguments: int) -> None:
    try:
        call = ctypes.CDLL(None, use_errno=True).prctl
    except AttributeError:  # not Linux
        raise OSError("no prctl here") from None
    given = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    if call(ctypes.c_int(option), *given) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} refused")
