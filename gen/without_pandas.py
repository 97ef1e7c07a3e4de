"""Keeps pyarrow from importing pandas where it is installed: a second of CPU and 60 MB a process for nothing."""

import sys

import pyarrow as pa


class _NoPandas:
    """Reports pandas as missing, and leaves all other modules to the next finder."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=name)


def without_pandas() -> None:
    """Have pyarrow look for it in vain, as it does once, with the first list it is given; others find it all the same.

    For processes of our own: in a user's, pyarrow would take a Series for any other sequence.
    """
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(finder)
