"""The environment of a helper process: enough to find this package and what it imports, nothing that may hold a key."""

import os
from pathlib import Path

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_PACKAGE = Path(__file__).parents[2]


def child_environment() -> dict[str, str]:
    """The variables to start a helper process with."""
    given = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    path = os.pathsep.join(filter(None, (str(_PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    return given | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
