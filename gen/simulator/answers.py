"""The teacher's answers: a pure function of the settings, the message and the draws of the request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import orjson

from stillhouse.gen.simulator.draws import Draws, draw, unit
from stillhouse.gen.simulator.judge import verdict_of
from stillhouse.gen.simulator.known import KnownAnswers, arithmetic
from stillhouse.gen.simulator.shaped import value_of
from stillhouse.gen.simulator.texts import CHARS_PER_TOKEN, TextBlock, count_tokens
from stillhouse.gen.simulator.tools import Call, Tool, call_of
from stillhouse.schemas.inline_reasoning import with_reasoning
from stillhouse.schemas.simulator import SimulatorSettings

_REASONING_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of a completion, cut to the requested number of tokens."""

    content: str
    reasoning: str | None
    """The reasoning text if it has its own field; else null."""
    reasoning_tokens: int
    completion_tokens: int
    """All tokens of the choice, including reasoning."""
    finish_reason: Literal["stop", "length", "tool_calls"]
    call: Call | None = None
    """The tool that it calls; the content is then empty."""


class Answers:
    """What the teacher knows: known answers, a block of words, and the settings that shape its answers."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self._settings = settings
        self._known = KnownAnswers.read(settings.answers) if settings.answers else KnownAnswers()
        self._block = TextBlock(settings.seed, longest_tokens=settings.output_tokens[1])

    def give(
        self,
        message: str,
        *,
        prompt: bytes,
        serial: int,
        index: int,
        max_tokens: int | None,
        tools: Sequence[Tool] = (),
        must_call: bool = False,
        thinks: bool | None = None,
        seed: int | None = None,
        schema: Mapping[str, Any] | None = None,
        images: Sequence[bytes] = (),
    ) -> Answer:
        """The answer number `index` of the request `serial` to the user's last message.

        Args:
            message: the user's last message.
            prompt: the key of all messages; if the number of distinct answers is limited, they are drawn from it.
            serial: the request's number.
            index: the answer's number in the request.
            max_tokens: the longest answer.
            tools: those that the answer may call.
            must_call: whether it has to call one of them.
            thinks: whether the request switches reasoning on or off; null: as the settings have it.
            seed: the request's; equal prompts with equal seeds get equal answers, whatever their serials.
            schema: the JSON Schema that the answer's text has to fit.
            images: keys of the images, which the answer names in its first words.
        """
        settings = self._settings
        number = serial if seed is None else _seeded(prompt, seed)
        draws = draw(settings.seed, number, stream=1 + index)
        if settings.distinct is not None:
            variant = draws[0] % settings.distinct
            draws = draw(settings.seed, int.from_bytes(prompt[:8], "little"), stream=1 + variant)
        reasoning = None
        if thinks or (thinks is None and settings.reasoning is not None):
            reasoning = self._block.window(draws[::-1], chars=_REASONING_TOKENS * CHARS_PER_TOKEN)
        if tools and (must_call or unit(draws[7]) < settings.tool_calls):
            return _calling(call_of(tools, drawn=draws[6]), reasoning=reasoning)
        if schema is not None and (
            verdict := verdict_of(message, schema, seed=settings.seed, gullible=settings.gullible)
        ):
            return _cut(verdict, reasoning=reasoning, max_tokens=max_tokens)
        right = self._known.find(message) or arithmetic(message)
        if schema is not None:
            said = None if right is None else self._said(right, draws)
            text = orjson.dumps(value_of(schema, drawn=draws[6], answer=said)).decode()
        else:
            text = _seen(images) + self._text(right, draws)
        if reasoning is not None and settings.reasoning == "think":
            return _cut(with_reasoning(reasoning, text), reasoning=None, max_tokens=max_tokens)
        return _cut(text, reasoning=reasoning, max_tokens=max_tokens)

    def _text(self, right: str | None, draws: Draws) -> str:
        least, most = self._settings.output_tokens
        chars = CHARS_PER_TOKEN * (least + draws[3] % (most - least + 1))
        if right is None:
            return self._block.window(draws, chars=chars)
        tail = f"\n#### {self._said(right, draws)}"
        return self._block.window(draws, chars=chars - len(tail)) + tail

    def _said(self, right: str, draws: Draws) -> str:
        """The right answer, or a wrong one."""
        return right if unit(draws[2]) < self._settings.accuracy else _wrong(right, draws)


def _seen(images: Sequence[bytes]) -> str:
    """What the answer says about the images: the first hex digits of each one's SHA-256, or its URL."""
    names = [key.removeprefix(b"url:").decode() if key[:4] == b"url:" else key[7:11].hex() for key in images]
    return f"In view: {', '.join(names)}. " if names else ""


def _seeded(prompt: bytes, seed: int) -> int:
    return int.from_bytes(blake2b(b"%b%d" % (prompt, seed), digest_size=8).digest(), "little")


def _wrong(right: str, draws: Draws) -> str:
    off = 1 + draws[6] % 9
    return str(int(right) + off) if right.lstrip("-").isdecimal() else f"not {right}"


def _calling(call: Call, *, reasoning: str | None) -> Answer:
    thought = 0 if reasoning is None else count_tokens(reasoning)
    tokens = thought + count_tokens(call.name + call.text)
    return Answer("", reasoning, thought, tokens, "tool_calls", call)


def _cut(content: str, *, reasoning: str | None, max_tokens: int | None) -> Answer:
    thought = 0 if reasoning is None else count_tokens(reasoning)
    wanted = thought + count_tokens(content)
    if max_tokens is None or wanted <= max_tokens:
        return Answer(content, reasoning, thought, wanted, "stop")
    thought = min(thought, max_tokens)
    kept = None if reasoning is None else reasoning[: thought * CHARS_PER_TOKEN]
    return Answer(content[: (max_tokens - thought) * CHARS_PER_TOKEN], kept, thought, max_tokens, "length")
