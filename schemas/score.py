"""Scoring: the request is not for an answer but for the teacher's log-probabilities of tokens that a row gives."""

from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from stillhouse.schemas.base import Strict

SCORING_APIS = ("vllm", "sglang", "simulator")
"""The APIs that score given tokens."""

Ids = npt.NDArray[np.int32]
"""Token ids."""


class Score(Strict):
    """The teacher's log-probabilities of given tokens, in place of an answer."""

    prompt_ids: Annotated[str, Field(min_length=1)]
    """The column with the prompt's token ids: a list of integers, from the teacher's tokenizer."""
    completion_ids: Annotated[str, Field(min_length=1)]
    """The column with the ids of the tokens to score."""
    top: Annotated[int, Field(ge=0, le=100_000)] = 20
    """How many of the most likely tokens to store at each position, besides the given one; vLLM allows 20 unless
    started with --max-logprobs."""


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
