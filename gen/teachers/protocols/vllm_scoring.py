"""vLLM's way to score given tokens: a completion of their ids with `prompt_logprobs`.

`prompt_logprobs` has one item per token of the prompt. The first is null; each other is an object by token id, with the
most likely tokens and the one that was sent. Source: vLLM's protocol for completions, 2026.
"""

import itertools
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import orjson

from stillhouse.gen.counted import counted
from stillhouse.gen.teachers.given_scores import GivenScores, Misaligned, ScoresReply, Values
from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.long_lists import LongList, TakenOut, in_parts, list_pattern
from stillhouse.gen.teachers.outcome import Ambiguous, Malformed, Outcome
from stillhouse.gen.teachers.protocols.base import Destinations, Framing, Request
from stillhouse.gen.teachers.protocols.chat_answer import answer_document, usage_of
from stillhouse.gen.teachers.protocols.openai_errors import OPENAI_ERRORS
from stillhouse.gen.teachers.protocols.profiles import complete_base, key_headers, profile_of
from stillhouse.gen.teachers.protocols.reply_document import UNKNOWN_SHAPE, document_of, read_with_lists, without_answer
from stillhouse.gen.teachers.protocols.values import merged, text
from stillhouse.gen.teachers.signals import trouble_of
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.scored import Scored
from stillhouse.schemas.teacher import Teacher

_NAMES = ("prompt_logprobs",)
_LISTS = list_pattern(_NAMES)


class VllmScoring:
    """POST /completions with ids as the prompt; one more token is generated, because zero can't be requested."""

    errors = OPENAI_ERRORS
    framing: Framing = "json"

    def __init__(self, teacher: Teacher, ask: Ask) -> None:
        assert ask.score is not None, "this protocol only scores"
        self._destinations = Destinations("/completions", partial(key_headers, profile_of(teacher)), base=complete_base)
        self._top = ask.score.top
        fields = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": ask.score.top, "return_token_ids": True}
        self._head = b'{"model":' + orjson.dumps(teacher.model_name) + b',"prompt":'
        self._tail = b"," + orjson.dumps(merged(fields, ask.extra))[1:]

    def request(self, ask: Request, *, base_url: str, key: Credentials, now: float) -> HttpRequest:
        """Prompt and completion, one after the other."""
        assert ask.scored is not None, "there is nothing to score"
        ids = np.concatenate([ask.scored.prompt_ids, ask.scored.completion_ids])
        body = self._head + orjson.dumps(ids, option=orjson.OPT_SERIALIZE_NUMPY) + self._tail
        return self._destinations.post(base_url, key, body)

    def fold(self, raw: Reply) -> Reply:
        """The reply itself, because nothing is streamed."""
        return raw

    def read(self, reply: Reply) -> Outcome:
        """A completion without text, whose scores are not aligned yet."""
        if not 200 <= reply.status < 300:
            return trouble_of(reply, self.errors)
        return read_with_lists(reply, _LISTS, self._read)

    def _read(self, reply: Reply, taken: TakenOut | None) -> Outcome:
        document = document_of(reply)
        if isinstance(document, (Malformed, Ambiguous)):
            return document
        if (answer := answer_document(document)) is None:
            return trouble_of(reply, self.errors)
        try:
            choice = answer["choices"][0]
            if taken is not None:
                choice = taken.put_back(choice, _NAMES)
            return Completion(
                text=None,
                finish_reason="stop",
                finish_reason_raw=text(choice.get("finish_reason")),
                scores=_Reply(choice.get("prompt_logprobs"), choice.get("prompt_token_ids"), top=self._top),
                model=text(answer.get("model")),
                response_id=text(answer.get("id")),
                usage=usage_of(answer.get("usage")),
            )
        except UNKNOWN_SHAPE:
            return without_answer(reply)


class _Reply(ScoresReply):
    def __init__(self, items: Any, ids: Any, *, top: int) -> None:
        self._items = items
        self._ids = ids
        self._top = top

    def aligned(self, scored: Scored) -> GivenScores:
        """See `ScoresReply`. A position with more tokens than requested includes the one that was sent, which then is
        not an alternative if it is the least likely."""
        items, sent = self._items, len(scored)
        if not isinstance(items, (list, LongList)) or len(items) != sent:
            found = counted(len(items), "item") if isinstance(items, (list, LongList)) else "none"
            raise Misaligned(f"expected prompt_logprobs of {counted(sent, 'item')}, got {found}")
        if isinstance(self._ids, list) and self._ids != [*scored.prompt_ids.tolist(), *scored.completion_ids.tolist()]:
            raise Misaligned("prompt_token_ids differ from the ids that were sent")
        tokens = iter(scored.completion_ids.tolist())
        try:
            parts = in_parts(items, skip=len(scored.prompt_ids))
            return GivenScores.of(self._values(itertools.islice(tokens, len(part)), part) for part in parts)
        except Misaligned:
            raise
        except KeyError:
            raise Misaligned("a position has no score of the token that was sent") from None
        except (TypeError, AttributeError, ValueError):
            raise Misaligned("an item of prompt_logprobs is not an object of log-probabilities by token id") from None

    def _values(self, tokens: Iterable[int], items: list[Any]) -> Values:
        logprobs: list[float] = []
        names: list[str] = []
        top_logprobs: list[float] = []
        lengths: list[int] = []
        for token, item in zip(tokens, items, strict=True):
            logprobs.append(own := item[str(token)]["logprob"])
            kept = item
            if len(item) > self._top and own <= min(each["logprob"] for each in item.values()):
                kept = {name: item[name] for name in item if name != str(token)}
            names += kept
            top_logprobs += [each["logprob"] for each in kept.values()]
            lengths.append(len(kept))
        digits = "".join(names)
        if names and not (digits.isascii() and digits.isdecimal()):  # int() takes "-1", " 1", "1_0" and more
            raise Misaligned("an alternative's id is not a number")
        return Values(logprobs, list(map(int, names)), top_logprobs, lengths)
