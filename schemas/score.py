"""Scoring: the request is not for an answer but for the teacher's log-probabilities of tokens that a row gives."""

from typing import Annotated

from pydantic import Field

from stillhouse.schemas.base import Strict

SCORING_APIS = ("vllm", "sglang", "simulator")
"""The APIs that score given tokens."""


class Score(Strict):
    """The teacher's log-probabilities of given tokens, in place of an answer."""

    prompt_ids: Annotated[str, Field(min_length=1)]
    """The column with the prompt's token ids: a list of integers, from the teacher's tokenizer."""
    completion_ids: Annotated[str, Field(min_length=1)]
    """The column with the ids of the tokens to score."""
    top: Annotated[int, Field(ge=0, le=100_000)] = 20
    """How many of the most likely tokens to store at each position, besides the given one; vLLM allows 20 unless
    started with --max-logprobs."""
