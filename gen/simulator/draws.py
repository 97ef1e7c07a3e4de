"""Randomness without state: equal (seed, serial, stream) give equal draws, in any order and on any machine."""

from hashlib import blake2b
from math import exp
from statistics import NormalDist
from struct import Struct

_KEY = Struct("<QQQ")
_DRAWS = Struct("<8Q")
_NORMAL = NormalDist()

Draws = tuple[int, ...]
"""Eight independent integers, each uniform over 0 .. 2**64 - 1."""


def draw(seed: int, serial: int, *, stream: int) -> Draws:
    """Eight draws for one purpose (`stream`) of one request; each argument is below 2**64."""
    return _DRAWS.unpack(blake2b(_KEY.pack(seed, serial, stream), digest_size=64).digest())


def unit(drawn: int) -> float:
    """A draw as a float in [0, 1)."""
    return (drawn >> 11) * 2.0**-53


def lognormal(drawn: int, *, median: float, sigma: float) -> float:
    """A draw as a log-normal value with this median; `sigma` 0 gives the median itself."""
    if not sigma or not median:
        return median
    # Half a step keeps the quantile off 0, where the normal distribution has no value.
    normal = _NORMAL.inv_cdf((drawn >> 12) * 2.0**-52 + 2.0**-53)
    return median * exp(sigma * normal)
