"""Interprets one teacher's replies without a network: their meaning, their cost, and the ids of records."""

import hashlib
import re
from dataclasses import replace
from typing import TypeAlias

import orjson

from stillhouse.gen.teachers.expense import Expense, nano_usd
from stillhouse.gen.teachers.image_tokens import chars_of, image_tokens
from stillhouse.gen.teachers.keys import redacted, without_keys
from stillhouse.gen.teachers.outcome import Ambiguous, Malformed, Outcome
from stillhouse.gen.teachers.prices import cost_usd, worst_usd
from stillhouse.gen.teachers.protocols import protocol_of
from stillhouse.gen.teachers.streaming import Streaming
from stillhouse.gen.teachers.transport import Reply
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.prompt import Prompt
from stillhouse.schemas.record import RecordIds
from stillhouse.schemas.teacher import Teacher

_SERIALS = re.compile(rb"[0-9A-Fa-f-]*[0-9][0-9A-Fa-f-]*")
_SHAPED_BYTES = 2**16

Origin: TypeAlias = tuple[Teacher, Ask]
"""The arguments that make an interpreter, except its place."""

SPARE_TOKENS = 1024
"""Maximum input tokens of a request that are not in its texts: roles, separators, a chat template's own text."""


class Interpreter:
    """Reads one teacher's replies, live or from a journal, in the same way."""

    def __init__(self, teacher: Teacher, ask: Ask, *, place: int | None = None) -> None:
        """`ask`: the recipe's. `place`: position in the recipe's `teachers`; None if the teacher is not from a
        recipe."""
        self.origin: Origin = (teacher, ask)
        self.teacher = teacher
        self.place = place
        self.ask = ask = ask.of(teacher)
        """What this teacher is asked."""
        self.protocol = protocol_of(teacher, ask)
        beside = [each for each in (ask.extra, ask.schema_document) if each]
        self._extra_bytes = sum(len(orjson.dumps(each)) for each in beside)  # tools and schemas are input too
        self.streaming = Streaming(teacher, ask)
        self._most_output = ask.max_tokens if ask.score is None else 1
        self.wants_logprobs = ask.top_logprobs is not None
        self.wants_token_ids = bool(ask.token_ids)
        self._schema_key = ask.schema_key
        self.ids = RecordIds(teacher=teacher.name, model=teacher.model_name, parameters=ask.parameters())
        self.keys: tuple[str, ...] = ()
        """Every key and other secret used so far; all are redacted from any text returned here."""

    def fold(self, reply: Reply) -> Reply:
        """The reply that a raw stream adds up to, without keys that its pieces form; any other reply unchanged."""
        folded = self.protocol.fold(reply)
        return folded if folded is reply else folded._replace(body=without_keys(folded.body, keys=self.keys))

    def read(self, reply: Reply) -> Outcome:
        """The reply's outcome, with keys redacted from its message."""
        return self.read_folded(self.fold(reply))

    def read_folded(self, reply: Reply) -> Outcome:
        """See `read`; the reply comes from `fold`."""
        outcome = self.protocol.read(reply)
        if isinstance(outcome, Completion):
            return outcome if self._schema_key is None else outcome._replace(schema_key=self._schema_key)
        outcome = self.streaming.advised(outcome)
        if isinstance(outcome, (Malformed, Ambiguous)) and not 300 <= reply.status < 600:
            outcome = replace(outcome, shape=_shape(reply.body))
        return replace(outcome, message=self.redact(outcome.message))

    def redact(self, text: str) -> str:
        """The text without this teacher's keys."""
        return redacted(text, keys=self.keys)

    def chars_of(self, prompt: Prompt) -> int:
        """The prompt's size; see `gen.teachers.image_tokens.chars_of`."""
        return chars_of(prompt, self.teacher) if prompt.images else prompt.chars

    def worst_case(self, prompt: Prompt) -> Expense:
        """The maximum cost of asking this prompt once; 0 in a measure without a bound, see `bounds_usd`.

        In every tokenizer in use, a token is at least one byte of UTF-8; `SPARE_TOKENS` are for what a template adds.
        """
        texts = [text for message in prompt.messages for text in (message[1], *map(str, message[2:]))]
        texts += [tool.text for tool in prompt.tools or ()]
        sent = sum(len(text.encode("utf-8", "replace")) for text in texts)
        model = self.teacher.model_name
        images = sum(image_tokens(image, api=self.teacher.api, model=model) for image in prompt.images)
        sent += 0 if prompt.scored is None else len(prompt.scored)
        most_output = self._most_output or 0
        usd = 0.0
        if self.teacher.price is not None and self.bounds_usd:
            most_input = sent + images + self._extra_bytes + SPARE_TOKENS
            usd = worst_usd(self.teacher.price, input_tokens=most_input, output_tokens=most_output)
        return Expense(1, most_output, nano_usd(usd))

    @property
    def bounds_usd(self) -> bool:
        """True if the cost of a request has a bound: the price is known, and `max_tokens` or that output is free."""
        price = self.teacher.price
        if price is None:
            return False
        return self._most_output is not None or worst_usd(price, input_tokens=0, output_tokens=1) == 0.0

    def cost_usd(self, completion: Completion) -> float | None:
        """What the answer costs; None if its price or its usage is unknown."""
        price = self.teacher.price
        return None if price is None else cost_usd(price, completion.usage)


def _shape(body: bytes) -> str:
    """A hash of the body that ignores ids and numbers."""
    plain = _SERIALS.sub(b"#", body[:_SHAPED_BYTES])
    return hashlib.blake2b(plain, digest_size=8).hexdigest()
