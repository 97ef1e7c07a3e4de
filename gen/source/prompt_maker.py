"""A source row becomes a Prompt, or the reason why it is none: nothing a row holds stops the run."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from stillhouse.gen.source.conversation import NoPrompt, conversation, text
from stillhouse.gen.source.kept_columns import converter, kept_field
from stillhouse.gen.source.sandbox import Template
from stillhouse.schemas.prompt import Message, Prompt, prompt_key
from stillhouse.schemas.recipe import Ask, Source

_OWN_SYSTEM = frozenset(("system", "developer"))


class PromptMaker:
    """Makes prompts as the recipe says.

    `kept` are the kept columns' types as the plan froze them (see `kept_fields`); by default those of a text
    source: as declared, else string.

    Raises:
        UsageError: ask.template can't be compiled.
    """

    def __init__(self, source: Source, ask: Ask, *, kept: Sequence[pa.Field] | None = None) -> None:
        self._prompt = source.prompt
        self._messages = source.messages
        self._id = source.id
        self._system: tuple[Message, ...] = () if ask.system is None else (("system", ask.system),)
        self._template = None if ask.template is None else Template(ask.template)
        fields = [kept_field(keep) for keep in source.keep] if kept is None else kept
        self._kept = [
            (keep.name, f"column {keep.name!r}", converter(field.type))
            for keep, field in zip(source.keep, fields, strict=True)
        ]
        named = (source.prompt, source.messages, source.id, *(keep.name for keep in source.keep))
        self.columns = frozenset(name for name in named if name is not None)
        if self._template is not None:
            self.columns |= self._template.columns
        """The columns it needs."""

    def make(self, values: Mapping[str, Any]) -> Prompt | str:
        """The row's prompt, or why it is none, in words that do not repeat its content."""
        try:
            messages = self._asked(values)
            kept = tuple(
                None if (value := values.get(name)) is None else convert(value, what)
                for name, what, convert in self._kept
            )
            key = prompt_key(messages)
            return Prompt(self._own_id(values) if self._id else key.hex(), key, messages, kept)
        except NoPrompt as error:
            return str(error)

    def id_of(self, values: Mapping[str, Any]) -> str | None:
        """The own id of a row that may be no prompt, where it has one."""
        try:
            return self._own_id(values) if self._id else None
        except NoPrompt:
            return None

    def _asked(self, values: Mapping[str, Any]) -> tuple[Message, ...]:
        if self._template is not None:
            if self._prompt is not None and values.get(self._prompt) is None:
                raise NoPrompt(f"column {self._prompt!r} is {'null' if self._prompt in values else 'missing'}")
            return self._alone(text(self._template.render(values), "ask.template"))
        if self._messages is None:
            assert self._prompt is not None
            return self._alone(_column(values, self._prompt))
        what = f"column {self._messages!r}"
        if values.get(self._messages) is None:
            raise NoPrompt(f"{what} is {'null' if self._messages in values else 'missing'}")
        messages = conversation(values[self._messages], what)
        return messages if any(role in _OWN_SYSTEM for role, _ in messages) else (*self._system, *messages)

    def _alone(self, content: str) -> tuple[Message, ...]:
        if not content or content.isspace():
            raise NoPrompt("empty prompt")
        return (*self._system, ("user", content))

    def _own_id(self, values: Mapping[str, Any]) -> str:
        assert self._id is not None
        value = values.get(self._id)
        return str(value) if type(value) is int else _column(values, self._id)


def _column(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if value is None:
        raise NoPrompt(f"column {name!r} is {'null' if name in values else 'missing'}")
    return text(value, f"column {name!r}")
