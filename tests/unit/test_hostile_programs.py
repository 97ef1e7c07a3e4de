"""Hostile programs in bubblewrap: after each, all six leaks are looked for from outside."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from leaks import Outside

_CALL = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
_TRY = """
def every(*tries):
    got = []
    for one in tries:
        try: got.append(one())
        except BaseException as error: got.append(type(error).__name__)
    print(*got)
"""
HOSTILE = {
    # name: the program, and the part of the verdict that shows what stopped it
    "forks for ever": ("import os\nwhile True: os.fork()", "PermissionError"),
    "forks by the bare system call": (f"{_CALL}print(libc.syscall(57), libc.syscall(58), libc.fork())", "-1 -1 -1"),
    "clones by the bare system call": (f"{_CALL}print(libc.syscall(56, 17, 0, 0, 0, 0), ctypes.get_errno())", "-1 1"),
    "leaves a daemon": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(600)\n    os._exit(0)",
        "PermissionError",
    ),
    "leaves a shell in the background": ("import os\nprint(os.system('sleep 600 &'))", "got"),
    "runs another program": ("import subprocess\nsubprocess.Popen(['/usr/bin/env'])", "PermissionError"),
    "fills memory": ("x = [0]\nwhile True: x += x", "MemoryError"),
    "fills memory with threads": (
        # They start before any of them fills it: a thread that finds no memory as it starts is waited for for ever.
        "import threading\nthreading.stack_size(2 ** 18)\nx, may_fill = [], threading.Event()\ndef fill():\n"
        "    may_fill.wait()\n    try:\n        while True: x.append(bytearray(2 ** 22))\n"
        "    except MemoryError: pass\n"
        "threads = [threading.Thread(target=fill) for n in range(50)]\nfor each in threads: each.start()\n"
        "may_fill.set()\nfor each in threads: each.join()\nfilled = len(x) * 2 ** 22\nx.clear()\n"
        "print(0 < filled < 2 ** 28)",
        "got True",
    ),
    "fills shared memory": (
        "import mmap\nx = []\nwhile True:\n    x.append(mmap.mmap(-1, 2 ** 24))\n    x[-1].write(bytes(2 ** 24))",
        "memory",
    ),
    "takes memory that no limit counts": (
        f"{_CALL}{_TRY}every(lambda: os.memfd_create('x'), lambda: libc.shmget(0, 2 ** 30, 0o1600))",
        "PermissionError -1",
    ),
    "connects": ("import socket\nsocket.create_connection(('127.0.0.1', port))", "PermissionError"),
    "sends datagrams": (
        f"import socket\n{_TRY}every(lambda: socket.socket(2, 2).sendto(b'x', ('127.0.0.1', udp)))",
        "PermissionError",
    ),
    "connects to an abstract socket": (
        "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0' + mark)",
        "PermissionError",
    ),
    "opens sockets by the bare system call": (
        f"{_CALL}print(libc.syscall(41, 2, 1, 0), libc.syscall(41, 1, 1, 0), libc.syscall(425, 8, 0))",
        "-1 -1 -1",
    ),
    "reads a key outside": ("print(open(key).read())", "FileNotFoundError"),
    "reads a key through a link": (
        "import os\nos.symlink(key, 'x')\nprint(open('x').read())",
        "No such file",
    ),
    "reads a key through other processes": (
        f"import os\n{_TRY}every(*(lambda p=p: open(f'/proc/{{p}}/root{{key}}').read() "
        "for p in ('1', 'self', str(os.getppid()))))",
        "Error",
    ),
    "reads the home folder": (
        "import os, pathlib\nprint(*[p.read_text() for p in pathlib.Path(home).glob('*')], os.path.exists(home))",
        "got False",
    ),
    "reads keys from the environment": (
        f"import os, glob\n{_TRY}every(lambda: os.environ['SECRET_KEY'], lambda: os.environ['HOME'], "
        "*(lambda p=p: open(p).read() for p in glob.glob('/proc/[0-9]*/environ')))",
        "KeyError /tmp",
    ),
    "writes 10 GB into one file": (
        f"{_TRY}every(lambda: [open('x', 'ab').write(bytes(2 ** 22)) for n in range(2560)])",
        "OSError",
    ),
    "writes 10 GB into many files": (
        "written = 0\ntry:\n    while written < 10 * 2 ** 30:\n        with open(str(written), 'wb') as file:\n"
        "            written += file.write(bytes(2 ** 22))\n"
        "except OSError as error:\n    print(written <= 2 ** 26, error.strerror)",
        "True No space left",
    ),
    "writes wherever it can": (
        f"import os\n{_TRY}every(*(lambda at=at: open(f'{{at}}/{{mark}}', 'w').write('x') "
        "for at in ('/usr', '/dev', '/dev/shm', '/var/tmp', home, os.getcwd())))",
        "OSError OSError",
    ),
    "replaces a file outside": ("import os\nopen('x', 'w')\nos.replace('x', key)", "FileNotFoundError"),
    "never ends": ("while True: pass", "CPU time"),
    "sleeps for ever": ("import time\nwhile True: time.sleep(600)", "did not end within"),
    "ignores signals": (
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass",
        "CPU time",
    ),
    "prints 1 GB": ("for n in range(1024): print('x' * 2 ** 20)", "File too large"),
    "prints 1 GB of errors": (
        "import sys\nfor n in range(1024): sys.stderr.write('x' * 2 ** 20)\nsys.stderr.flush()",
        "test 1",
    ),
    "kills its parent": ("import os\nos.kill(os.getppid(), 9)", "PermissionError"),
    "kills everything": (
        f"import os\n{_TRY}every(*(lambda p=p: os.kill(p, 9) for p in (-1, 1, 0)))",
        "PermissionError",
    ),
    "stops its parent": ("import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)", "PermissionError"),
    "raises its own limits": (
        f"import resource\n{_TRY}every(lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)), "
        "lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1)))",
        "ValueError ValueError",
    ),
    "unshares and mounts": (
        f"{_CALL}print(libc.unshare(0x10020000), libc.mount(b'x', b'/usr', b'tmpfs', 0, 0), libc.setns(0, 0))",
        "-1 -1 -1",
    ),
    "looks into its parent": (
        f"{_CALL}{_TRY}every(lambda: libc.ptrace(16, os.getppid(), 0, 0), "
        "lambda: open(f'/proc/{os.getppid()}/mem', 'rb').read(1))",
        "-1 FileNotFoundError",
    ),
    "uses whatever is open": (
        "import os\nfound = []\nfor fd in range(3, 256):\n    try: found.append((fd, os.read(fd, 99)))\n"
        "    except OSError as error: found += [fd] if error.errno != 9 else []\nprint(found)",
        "got []",
    ),
    # Folders may be there: those that the interpreter is in, if that is below /tmp.
    "finds what earlier ones left": (
        "import os\nprint([n for n in os.listdir('/tmp') if os.path.isfile(f'/tmp/{n}')])",
        "got []",
    ),
    "crashes": (f"{_CALL}ctypes.string_at(0)", "ended with"),
}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """The same surroundings for all programs: one may find what an earlier one left behind."""
    with Outside(tmp_path_factory.mktemp("outside")) as made:
        yield made


@pytest.mark.parametrize("name", HOSTILE)
def test_no_hostile_program_leaks(outside: Outside, name: str) -> None:
    """None reads or leaves a file outside, reaches a socket, survives, or exceeds its memory or disk."""
    program, stopped_by = HOSTILE[name]
    detail, leaks = outside.judged(program)
    assert leaks == {}
    assert not detail.startswith("accepted")
    assert stopped_by in detail or "the machine is too busy" in detail, detail


@pytest.mark.parametrize(
    ("leak", "program"),
    {
        "files read outside": "print(open(key).read())",
        "files left": "open(f'{home}/{mark}', 'w')",
        "sockets": "import socket\nsocket.create_connection(('127.0.0.1', port))",
        "processes alive after": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.closerange(0, 3)\n"
        "    if os.fork() == 0: time.sleep(600)\n    os._exit(0)\nos.wait()",
        "memory over": "import time\nx = b'x' * 2 ** 29\ntime.sleep(1)",
        "disk over": "with open(f'{home}/x', 'wb') as file: file.write(bytes(2 ** 24))\n"
        "import os, time\nos.unlink(file.name)\ntime.sleep(1)",
    }.items(),
)
def test_each_leak_is_detected(tmp_path: Path, leak: str, program: str) -> None:
    """Without a sandbox, each of the six is found, and only that one."""
    with Outside(tmp_path) as bare:
        _, leaks = bare.judged(program, bare=True)
        assert list(leaks) == [leak]
