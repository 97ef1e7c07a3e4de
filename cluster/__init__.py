"""The thin shell that runs the work on Ray: shared actors, the driver and the command line."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.driver import run

__all__ = ["run"]


def __getattr__(name: str) -> object:
    """`from cluster import run`, without loading Ray for those who import the package for less."""
    if name == "run":
        from cluster.driver import run

        return run
    raise AttributeError(name)
