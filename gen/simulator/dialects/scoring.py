"""Scores of given tokens, as vLLM's completions and SGLang's own API return them.

The log-probabilities follow from the ids alone: at each position, rank r has the probability 2**-r, so those of the
first k ranks sum to 1 - 2**-k.
"""

import math
from collections.abc import Sequence
from typing import Any

import orjson

from stillhouse.gen.simulator.dialects.base import Asked, BadRequest, Error, Spoken
from stillhouse.gen.simulator.dialects.openai_chat import OpenAIChat, integer
from stillhouse.gen.simulator.wire import Request
from stillhouse.schemas.prompt import scored_key
from stillhouse.schemas.scored import Scored

VOCABULARY = 32_000
MOST_TOP = 64
"""More alternatives are refused, as vLLM refuses more than its --max-logprobs."""
_RANKS = 40


def rank_of(token: int, place: int) -> int:
    """The rank of a token at a position, from 1."""
    return 1 + (token * 31 + place * 17) % _RANKS


def logprob_of(rank: int) -> float:
    """The log-probability of a rank."""
    return -rank * math.log(2)


def likeliest(token: int, place: int, top: int) -> list[tuple[int, int]]:
    """(id, rank) of the first `top` ranks at a position with this token."""
    own = rank_of(token, place)
    return [(token if rank == own else (token + 1 + rank) % VOCABULARY, rank) for rank in range(1, top + 1)]


class Completions(OpenAIChat):
    """POST /v1/completions with ids as the prompt and `prompt_logprobs`; no text is completed."""

    def takes(self, path: str) -> bool:
        """True for a path of this API, with or without the version."""
        return path in ("/v1/completions", "/completions")

    def parse(self, request: Request) -> Asked:
        """Parse the tokens to score."""
        payload = _payload(request)
        top = integer(payload, "prompt_logprobs", least=0, most=None)
        if top is None:
            raise BadRequest("This server only scores prompts: ask for prompt_logprobs.", param="prompt_logprobs")
        if top > MOST_TOP:
            raise BadRequest(
                f"Requested prompt logprobs of {top}, which is greater than max allowed: {MOST_TOP}",
                param="prompt_logprobs",
            )
        return _asked(payload, _ids(payload, "prompt"), start=1, top=top)

    def answer(self, spoken: Spoken) -> bytes:
        """A completion of one token, with an item per token of the prompt."""
        asked = spoken.asked
        items: list[Any] = [None]
        for place, token in enumerate(asked.scored[1:], 1):
            ranks = dict([(token, rank_of(token, place)), *likeliest(token, place, asked.top_logprobs or 0)])
            items.append(
                {
                    str(each): {"logprob": logprob_of(rank), "rank": rank, "decoded_token": f" t{each}"}
                    for each, rank in ranks.items()
                }
            )
        choice = {"index": 0, "text": " a", "logprobs": None, "finish_reason": "length", "stop_reason": None}
        choice |= {"prompt_logprobs": items, "prompt_token_ids": list(asked.scored), "token_ids": [64]}
        usage = {"prompt_tokens": asked.prompt_tokens, "completion_tokens": 1, "total_tokens": asked.prompt_tokens + 1}
        found = {"id": f"cmpl-{spoken.serial}", "object": "text_completion", "created": spoken.created}
        return orjson.dumps(found | {"model": asked.model, "choices": [choice], "usage": usage})


class Generate(OpenAIChat):
    """POST /generate with `input_ids` and `return_logprob`."""

    def takes(self, path: str) -> bool:
        """True for a path of this API, which has no version."""
        return path == "/generate"

    def parse(self, request: Request) -> Asked:
        """Parse the tokens to score."""
        payload = _payload(request)
        ids = _ids(payload, "input_ids")
        if payload.get("return_logprob") is not True:
            raise BadRequest("This server only scores: ask for return_logprob.", param="return_logprob")
        start = integer(payload, "logprob_start_len", least=0, most=len(ids) - 1)
        top = integer(payload, "top_logprobs_num", least=0, most=None)
        return _asked(payload | {"model": "simulator"}, ids, start=start or 0, top=top or 0)

    def answer(self, spoken: Spoken) -> bytes:
        """Rows from the start position; the first is null."""
        asked = spoken.asked
        start, top = asked.score_start, asked.top_logprobs or 0
        places = list(enumerate(asked.scored))[start + 1 :]
        rows: list[Any] = [[None, asked.scored[start], None]]
        rows += [[logprob_of(rank_of(token, place)), token, None] for place, token in places]
        tops: list[Any] = [None]
        for place, token in places:
            tops.append([[logprob_of(rank), each, None] for each, rank in likeliest(token, place, top)])
        meta = {
            "id": f"{spoken.serial:032x}",
            "finish_reason": {"type": "length", "length": 0},
            "prompt_tokens": asked.prompt_tokens,
            "completion_tokens": 0,
            "cached_tokens": 0,
            "input_token_logprobs": rows,
            "input_top_logprobs": tops if top else None,
        }
        return orjson.dumps({"text": "", "output_ids": [], "meta_info": meta})

    def bad_request(self, error: BadRequest) -> Error:
        """A 400 with only a message."""
        return Error(400, orjson.dumps({"error": {"message": str(error)}}))


def _payload(request: Request) -> dict[str, Any]:
    try:
        payload = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        raise BadRequest("The body is not JSON.") from None
    if not isinstance(payload, dict):
        raise BadRequest("The body must be a JSON object.")
    return payload


def _ids(payload: dict[str, Any], name: str) -> Sequence[int]:
    ids = payload.get(name)
    if not isinstance(ids, list) or not ids or not all(type(each) is int and 0 <= each < VOCABULARY for each in ids):
        raise BadRequest(f"'{name}' must be a list of token ids below {VOCABULARY}.", param=name)
    return ids


def _asked(payload: dict[str, Any], ids: Sequence[int], *, start: int, top: int) -> Asked:
    return Asked(
        model=str(payload.get("model") or "simulator"),
        message="",
        prompt=scored_key(Scored.of(list(ids), [])),
        prompt_tokens=len(ids),
        max_tokens=1,
        top_logprobs=top,
        scored=tuple(ids),
        score_start=start,
    )
