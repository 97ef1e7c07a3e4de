"""SGLang's way to score given tokens: its own /generate, with `logprob_start_len` at the prompt's last token.

Rows are [log-probability, id, text]; the first is null at the start position. Source: SGLang's own API, 2026.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import orjson

from stillhouse.gen.teachers.given_scores import GivenScores, Misaligned, ScoresReply, Values
from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.long_lists import LongList, TakenOut, in_parts, list_pattern
from stillhouse.gen.teachers.outcome import Ambiguous, Malformed, Outcome, ServerError
from stillhouse.gen.teachers.protocols.base import Destinations, Framing, Request
from stillhouse.gen.teachers.protocols.counts import count_in
from stillhouse.gen.teachers.protocols.openai_errors import OPENAI_ERRORS
from stillhouse.gen.teachers.protocols.profiles import key_headers, profile_of
from stillhouse.gen.teachers.protocols.reply_document import document_of, read_with_lists
from stillhouse.gen.teachers.protocols.values import merged, text
from stillhouse.gen.teachers.signals import trouble_of
from stillhouse.gen.teachers.transport import HttpRequest, Reply
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion, Usage
from stillhouse.schemas.scored import Scored
from stillhouse.schemas.teacher import Teacher

_NAMES = ("input_token_logprobs", "input_top_logprobs")
_LISTS = list_pattern(_NAMES)


class SglangScoring:
    """POST /generate of the server; the base URL may end in /v1, as for its chat completions."""

    errors = OPENAI_ERRORS
    framing: Framing = "json"

    def __init__(self, teacher: Teacher, ask: Ask) -> None:
        assert ask.score is not None, "this protocol only scores"
        self._destinations = Destinations(
            "/generate",
            partial(key_headers, profile_of(teacher)),
            base=lambda url: url.rstrip("/").removesuffix("/v1"),
        )
        fields = {
            "sampling_params": {"max_new_tokens": 0, "temperature": 0, "skip_special_tokens": False},
            "return_logprob": True,
            "top_logprobs_num": ask.score.top,
            "return_text_in_logprobs": False,
            "stream": False,
        }
        self._wants_top = ask.score.top > 0
        self._tail = b"," + orjson.dumps(merged(fields, ask.extra))[1:]

    def request(self, ask: Request, *, base_url: str, key: Credentials, now: float) -> HttpRequest:
        """Scores begin at the prompt's last token, so everything before it may come from the server's cache."""
        assert ask.scored is not None, "there is nothing to score"
        prompt, completion = ask.scored.prompt_ids, ask.scored.completion_ids
        ids = orjson.dumps(np.concatenate([prompt, completion]), option=orjson.OPT_SERIALIZE_NUMPY)
        body = b'{"input_ids":%b,"logprob_start_len":%d%b' % (ids, len(prompt) - 1, self._tail)
        return self._destinations.post(base_url, key, body)

    def fold(self, raw: Reply) -> Reply:
        """The reply itself, because nothing is streamed."""
        return raw

    def read(self, reply: Reply) -> Outcome:
        """A completion without text, whose scores are not aligned yet; an abort is a failure, even as a 200."""
        if not 200 <= reply.status < 300:
            return trouble_of(reply, self.errors)
        return read_with_lists(reply, _LISTS, self._read)

    def _read(self, reply: Reply, taken: TakenOut | None) -> Outcome:
        document = document_of(reply)
        if isinstance(document, (Malformed, Ambiguous)):
            return document
        found = document[0] if isinstance(document, list) and document else document
        meta = found.get("meta_info") if isinstance(found, dict) else None
        if taken is not None:
            meta = taken.put_back(meta, _NAMES)
        if not isinstance(meta, dict):
            return trouble_of(reply, self.errors)
        usage = Usage(
            input_tokens=count_in(meta.get("prompt_tokens")),
            cached_tokens=count_in(meta.get("cached_tokens")),
            output_tokens=count_in(meta.get("completion_tokens")),
        )
        finish = meta.get("finish_reason")
        kind = text(finish.get("type")) if isinstance(finish, dict) else text(finish)
        if kind == "abort":
            said = text(finish.get("message")) if isinstance(finish, dict) else None
            return ServerError(f"the request was aborted{f': {said[:300]}' if said else ''}", 200, usage)
        return Completion(
            text=None,
            finish_reason="stop",
            finish_reason_raw=kind,
            scores=_Reply(meta.get("input_token_logprobs"), meta.get("input_top_logprobs"), wants_top=self._wants_top),
            model=None,
            response_id=text(meta.get("id")),
            usage=usage,
        )


class _Reply(ScoresReply):
    def __init__(self, tokens: Any, tops: Any, *, wants_top: bool) -> None:
        self._tokens = tokens
        self._tops = tops
        self._wants_top = wants_top

    def aligned(self, scored: Scored) -> GivenScores:
        """See `ScoresReply`."""
        count = len(scored.completion_ids)
        tokens = self._checked(self._tokens, count, "input_token_logprobs")
        tops = self._checked(self._tops, count, "input_top_logprobs") if self._wants_top else None
        ids: list[Any] = []
        try:
            scores = GivenScores.of(_values(tokens, tops, ids, count))
        except Misaligned:
            raise
        except (TypeError, LookupError, ValueError):
            raise Misaligned("a row of its log-probabilities is not [log-probability, id, text]") from None
        if ids != scored.completion_ids.tolist():
            raise Misaligned("the ids in input_token_logprobs differ from those that were sent")
        if not scores.agree_with(scored):
            raise Misaligned("a token has another log-probability in input_top_logprobs than in input_token_logprobs")
        return scores

    @staticmethod
    def _checked(rows: Any, count: int, name: str) -> list[Any] | LongList:
        """The rows of the completion's tokens, after one row for the prompt's last token."""
        if not isinstance(rows, (list, LongList)) or len(rows) != count + 1:
            found = f"{len(rows):,}" if isinstance(rows, (list, LongList)) else "none"
            raise Misaligned(f"expected {count + 1:,} rows of {name}, got {found}")
        return rows


def _values(
    tokens: list[Any] | LongList, tops: list[Any] | LongList | None, ids: list[Any], count: int
) -> Iterator[Values]:
    """Fills `ids` with those of the tokens."""
    for rows in in_parts(tokens, skip=1):
        ids += [row[1] for row in rows]
        yield Values([row[0] for row in rows])
    if tops is None:
        yield Values(lengths=[0] * count)
        return
    for part in in_parts(tops, skip=1):
        yield Values(
            top_ids=[row[1] for top in part for row in top],
            top_logprobs=[row[0] for top in part for row in top],
            lengths=[len(top) for top in part],
        )
