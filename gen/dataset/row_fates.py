"""The fate of each source row, and where a chunk ends: the rules by which `run` indexes and `plan` counts."""

from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias

from stillhouse.gen.source.formats.row import Row
from stillhouse.gen.source.prompt_maker import PromptMaker
from stillhouse.schemas.prompt import Prompt

ROWS_PER_PROMPT = 20
"""A chunk holds at most this many times prompts_per_shard source rows, however many of them are duplicates."""


def is_full(*, asks: int, rows: int, prompts_per_shard: int) -> bool:
    """True if the next row belongs to the next chunk; `asks`, `rows`: the prompts and all rows of the present one."""
    return asks >= prompts_per_shard or rows >= prompts_per_shard * ROWS_PER_PROMPT


class Fate(NamedTuple):
    """The fate of one row; all fields but `prompt` are columns of the index."""

    fate: Literal["ask", "duplicate", "bad"]
    key: bytes | None = None
    prompt_id: str | None = None
    detail: str | None = None
    """For a duplicate, the id of the prompt that is asked; for a bad row, the reason."""
    prompt: Prompt | None = None
    """The prompt to ask."""


Asked: TypeAlias = dict[bytes, str | None]
"""Prompts asked so far: key to prompt id; None if the id is the key as text."""


class Judge:
    """Decides the fate of source rows, in order; remembers each prompt's key."""

    def __init__(self, maker: PromptMaker, *, has_ids: bool, asked: Asked | None = None) -> None:
        """`has_ids`: prompts have their own ids, instead of their keys as text; `asked`: the prompts so far, which are
        added to.
        """
        self._maker = maker
        self._has_ids = has_ids
        self._seen: Asked = {} if asked is None else asked

    @property
    def asked(self) -> int:
        """Number of distinct prompts so far."""
        return len(self._seen)

    def remember(self, keys: Iterable[bytes], ids: Iterable[str | None]) -> None:
        """Add prompts that are already asked; an id is None if it is the key as text."""
        self._seen.update(zip(keys, ids, strict=True))

    def fate(self, row: Row) -> Fate:
        """The fate of the next row."""
        if row.values is None:
            return Fate("bad", detail=row.bad)
        prompt = self._maker.make(row.values)
        if isinstance(prompt, str):
            return Fate("bad", prompt_id=self._maker.id_of(row.values), detail=prompt)
        if prompt.key in self._seen:
            first = self._seen[prompt.key]
            return Fate("duplicate", prompt.key, prompt.id, prompt.key.hex() if first is None else first)
        self._seen[prompt.key] = prompt.id if self._has_ids else None
        return Fate("ask", prompt.key, prompt.id, prompt=prompt)
