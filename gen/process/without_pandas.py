"""Keeps pyarrow from importing an installed pandas, which would cost each process a second of CPU and 60 MB for
nothing.
"""

import sys

import pyarrow as pa


class _NoPandas:
    """Reports pandas as missing, and leaves all other modules to the next finder."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=name)


def without_pandas() -> None:
    """Make pyarrow's only search for pandas fail, with the first list it is given; other code still finds pandas.

    Only for our own processes: in a user's, pyarrow would then treat a Series like any other sequence.
    """
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(finder)
