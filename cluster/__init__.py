"""The thin shell that runs the work on Ray: shared actors, the driver and the command line."""

import sys
from typing import TYPE_CHECKING

if sys.version_info < (3, 11):  # noqa: UP036 - a job's code is shipped to whatever Python its cluster has
    print(
        f"stillhouse: expected Python 3.11 or newer on the cluster, found {sys.version.split()[0]}; renew its image",
        file=sys.stderr,
    )
    sys.exit(2)

if TYPE_CHECKING:
    from cluster.driver import run

__all__ = ["run"]


def __getattr__(name: str) -> object:
    """`from cluster import run`, without loading Ray for those who import the package for less."""
    if name == "run":
        from cluster.driver import run

        return run
    raise AttributeError(name)
