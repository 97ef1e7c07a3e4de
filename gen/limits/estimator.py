"""Learns what requests to a teacher cost: tokens per character of input, and tokens of output."""

import math
from dataclasses import dataclass

from stillhouse.gen.limits.shares import Cost

FIRST_OUTPUT = 1000.0
"""Output tokens assumed before the first answer, unless `max_tokens` is lower."""

FORGET = 0.02
"""Weight of the newest answer, once there are enough answers."""

CAUTION = 3.0
"""Standard deviations by which the sum of the requests in flight may exceed their estimates."""

_LEAST_ERROR = FORGET / (2 - FORGET)
"""Variance of such a mean after many answers, as a part of the variance of one."""


@dataclass(slots=True)
class _Mean:
    """A mean of recent values, and their variance."""

    value: float
    most: float
    variance: float = 0.0
    count: int = 0

    def learn(self, value: float) -> None:
        self.count += 1
        if self.count == 1:
            self.variance, self.value = value**2, value  # lengths of answers seldom vary by more than their mean
            return
        weight, off = max(FORGET, 1 / self.count), value - self.value
        self.variance += weight * (off * off - self.variance)
        self.value += weight * off

    def margin(self, beside: int) -> float:
        """How much more than the mean to allow for a request, given the number of other requests in flight.

        Their deviations partly cancel out; the error of the mean itself is common to all of them.
        """
        if self.count == 0:
            return self.most - self.value
        of_mean = max(_LEAST_ERROR, 1 / self.count)
        return CAUTION * math.sqrt(self.variance * (1 / (beside + 1) + of_mean))


class Estimator:
    """Estimates the tokens of requests to one teacher. `max_output`: the recipe's `max_tokens`."""

    def __init__(self, *, max_output: int | None) -> None:
        self._most = float(max_output) if max_output is not None else math.inf
        first = min(FIRST_OUTPUT, self._most)
        self._output = _Mean(first, self._most if max_output is not None else 4 * first)
        self._per_char = _Mean(0.25, 1.0)

    def estimate(self, chars: int, *, beside: int = 0) -> Cost:
        """The expected cost of a prompt with this many characters, and how much more it may be.

        `beside`: number of other requests in flight.
        """
        output = min(self._output.value, self._most)
        return Cost(
            chars * self._per_char.value + 8,
            output,
            chars * self._per_char.margin(beside),
            min(self._output.margin(beside), self._most - output),
        )

    def learn(self, chars: int, used: Cost) -> None:
        """Learn from the usage of an answer."""
        if chars:
            self._per_char.learn(used.input / chars)
        self._output.learn(used.output)
