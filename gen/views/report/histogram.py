"""A histogram of positive numbers over many decades, in constant memory: bins of equal ratio.

A quantile is that of its bin, whose edges are 2.3 % from its middle.
"""

import math
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

PER_DECADE = 50
"""Bins per decade in which values are counted."""
BARS_PER_DECADE = 10
"""Bars per decade in the drawing."""
_LEAST = 1e-4
"""Smaller numbers, including zero, are counted as this."""


class Histogram:
    """Collects columns; computes quantiles and bars."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self.count = 0
        self.total = 0.0

    def add(self, values: pa.ChunkedArray) -> None:
        """Count the numbers in a column; nulls and NaN are ignored."""
        values = pc.cast(values, pa.float64()).drop_null()
        values = values.filter(pc.is_finite(values))
        logs = pc.log10(pc.max_element_wise(values, _LEAST))
        bins = pc.cast(pc.floor(pc.multiply(logs, PER_DECADE)), pa.int32())
        for each in pc.value_counts(bins).to_pylist():
            self._bins[each["values"]] += each["counts"]
        self.count += len(values)
        self.total += pc.sum(values).as_py() or 0.0

    @property
    def mean(self) -> float:
        """The mean; there must be a number."""
        return self.total / self.count

    def quantile(self, share: float) -> float:
        """The number that this share of all numbers does not exceed; there must be a number."""
        wanted = math.ceil(share * self.count)
        number = next(number for number, seen in _running(self._bins) if seen >= wanted)
        return float(10 ** ((number + 0.5) / PER_DECADE))

    def bars(self) -> Iterator[tuple[float, float, int]]:
        """(from, to, count) without gaps, from the smallest to the largest."""
        step = PER_DECADE // BARS_PER_DECADE
        coarse: Counter[int] = Counter()
        for number, count in self._bins.items():
            coarse[number // step] += count
        for number in range(min(coarse), max(coarse) + 1) if coarse else ():
            yield 10 ** (number / BARS_PER_DECADE), 10 ** ((number + 1) / BARS_PER_DECADE), coarse[number]


def _running(bins: Counter[int]) -> Iterator[tuple[int, int]]:
    seen = 0
    for number in sorted(bins):
        seen += bins[number]
        yield number, seen
