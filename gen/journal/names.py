"""A journal file's name: `<when it was created>-<boot>-<worker>`.

The boot is the machine's. What a process wrote before it was killed is read back whole by every process of the same
boot; after a crash of the machine the file may have lost its end.
"""

from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
UNKNOWN = "unknown"
"""The boot of a machine that does not name it, as some sandboxes don't."""


def present_boot() -> str:
    """The machine's present boot, in eight letters or digits."""
    try:
        return _BOOT_ID.read_text()[:8]
    except OSError:
        return UNKNOWN


def journal_name(worker: str, *, at: float) -> str:
    """The name of a journal that this worker creates now, at these UTC seconds since 1970."""
    return f"{at:017.6f}-{present_boot()}-{worker}.journal"


def writer_of(stem: str) -> str:
    """The worker that wrote the journal; empty if the name does not say, like those of earlier versions."""
    return (*stem.split("-", 2), "", "")[2]


def is_of_this_boot(stem: str) -> bool:
    """True if the machine has been up ever since the journal was created on it."""
    boot = stem.split("-", 2)[1:2]
    return boot == [present_boot()] != [UNKNOWN]
