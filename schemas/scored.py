"""The tokens of one row to score; apart from `score.py`, so that reading a recipe does not load numpy."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
"""Token ids."""


class Scored(NamedTuple):
    """The tokens to score, as int32 in little-endian order."""

    prompt: bytes
    completion: bytes

    @classmethod
    def of(cls, prompt: list[int], completion: list[int]) -> "Scored":
        """Pack ids from 0 to 2**31 - 1."""
        return cls(*(np.array(ids, "<i4").tobytes() for ids in (prompt, completion)))

    @property
    def prompt_ids(self) -> Ids:
        """Ids of the prompt's tokens."""
        return np.frombuffer(self.prompt, "<i4")

    @property
    def completion_ids(self) -> Ids:
        """Ids of the tokens to score."""
        return np.frombuffer(self.completion, "<i4")

    def __len__(self) -> int:
        """Number of tokens of both."""
        return (len(self.prompt) + len(self.completion)) // 4
