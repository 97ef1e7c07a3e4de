"""Pseudo-text at the cost of a slice: one block of words is made at the start, and an answer is a window of it.

A token is four characters, so texts are cut, counted and split into tokens exactly and without a vocabulary.
"""

import random

from stillhouse.gen.simulator.draws import Draws

CHARS_PER_TOKEN = 4
"""The token rule for both prompts and completions."""

_WINDOW_CHARS = 1 << 17
_WORDS = (  # noqa: SIM905 - as a list it would be 120 lines
    "add again all also and angle answer apply area both by case check choose claim clear combine compare compute "
    "count cut divide double draw each equal even every expand express fact find first fit follow form from give "
    "group half hence hold keep known last left let limit line list long make match mean measure more move multiply "
    "next note now number odd one order other over part pick place plan point prove pull rate read result right root "
    "rule same second set share side sign simple size solve split square start state step sum take term test then "
    "third total trace try turn two under unit use value verify way weigh whole with work write yield zero"
).split()


def count_tokens(text: str) -> int:
    """Tokens of a text: a quarter of its characters, rounded up."""
    return -(-len(text) // CHARS_PER_TOKEN)


class TextBlock:
    """Words in a seeded order, from which windows are cut.

    A window's opening has six drawn words and its position is drawn from 20,000, so two windows are equal with a
    probability below 2**-50.
    """

    def __init__(self, seed: int, *, longest_tokens: int) -> None:
        rng = random.Random(seed)
        words = rng.choices(_WORDS, k=_WINDOW_CHARS // 6)
        for place in range(8, len(words), 9):
            words[place] += "."
        block = " ".join(words) + " "
        self._starts = [place + 1 for place, char in enumerate(block) if char == " "][:-1]
        self._pairs = [f"{one} {other}" for one in _WORDS for other in _WORDS]
        copies = 2 + longest_tokens * CHARS_PER_TOKEN // len(block)
        self._block = block * copies

    def window(self, draws: Draws, *, chars: int) -> str:
        """A text of exactly `chars` characters that ends in a full stop; draws 4 to 6 of the eight are used."""
        pairs, opening = self._pairs, draws[5]
        size = len(pairs)
        head = f"Let us {pairs[opening % size]} {pairs[(opening >> 20) % size]} {pairs[(opening >> 40) % size]}: "
        start = self._starts[draws[4] % len(self._starts)]
        text = head + self._block[start : start + max(0, chars - len(head))]
        return text[: chars - 1] + "." if chars > 0 else ""
