"""Makes Python search for garbage rarely: most of what our processes make is freed without a search."""

import gc

COLLECTS_EVERY = 10_000
"""New objects between two searches. Python's 700 would come with every few answers, or imported modules, and find
nothing: a tenth of a start's CPU."""


def collect_rarely() -> None:
    """Search that rarely from now on."""
    gc.set_threshold(COLLECTS_EVERY)
