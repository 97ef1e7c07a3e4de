"""Turns a source row into a Prompt, or a reason why it doesn't make one: nothing in a row stops the run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from stillhouse.gen.source.columns import is_in, value_of
from stillhouse.gen.source.conversation import Conversation, NoPrompt, conversation, json_text, text, without_nulls
from stillhouse.gen.source.images import images_in, require_pillow
from stillhouse.gen.source.kept_columns import converter, kept_field
from stillhouse.gen.source.references import reference
from stillhouse.gen.source.scored_ids import scored_of
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.check_settings import Reference
from stillhouse.schemas.checks import references_of
from stillhouse.schemas.image import Image
from stillhouse.schemas.image_rules import refused_image
from stillhouse.schemas.prompt import Message, Prompt, prompt_key, scored_key
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.source import Source
from stillhouse.schemas.teacher import Teacher
from stillhouse.schemas.tool import Tool, offered, tools_of

if TYPE_CHECKING:
    from stillhouse.gen.source.sandbox import Template

_OWN_SYSTEM = frozenset(("system", "developer"))


class PromptMaker:
    """Makes prompts from rows, according to the recipe.

    `kept` are the kept columns' types as the plan froze them (see `kept_fields`); by default those of a text source: as
    declared, else string. `templates_system`: as in the plan; datasets created before ask.system could be a template
    still send it verbatim. `references`: the columns that the recipe's checks compare answers with. `teachers`: those
    whose APIs must accept the rows' images.

    Raises:
        TemplateError: ask.template or ask.system can't be compiled.
        UsageError: the source has images, and the library that reads them is not installed.
    """

    def __init__(
        self,
        source: Source,
        ask: Ask,
        *,
        kept: Sequence[pa.Field] | None = None,
        templates_system: bool = True,
        references: Sequence[Reference] = (),
        teachers: Sequence[Teacher] = (),
    ) -> None:
        if source.images:
            require_pillow()
        self._score = ask.score
        self._images = source.images
        self._tools_column = source.tools
        self._tools = None if ask.tools is None else offered(ask.tools)
        """The tools that all rows offer."""
        self._teachers = tuple(teachers)
        self._prompt = source.prompt
        self._messages = source.messages
        self._id = source.id
        self._drops_answer = source.answer == "drop"
        is_template = templates_system and ask.system is not None and is_system_template(ask.system)
        self._system: tuple[Message, ...] = () if ask.system is None or is_template else (("system", ask.system),)
        self._system_template = _compiled(ask.system or "", what="ask.system") if is_template else None
        self._template = None if ask.template is None else _compiled(ask.template, what="ask.template")
        fields = [kept_field(keep) for keep in source.keep] if kept is None else kept
        self._kept = [  # source_answer, if there is one, comes after them
            (keep.name, f"column {keep.name!r}", converter(field.type))
            for keep, field in zip(source.keep, fields, strict=False)
        ]
        self._references = tuple(references)
        self.fields = {
            **{each.column: each.field for each in references},
            **{keep.name: f"source.keep.{number}" for number, keep in enumerate(source.keep)},
            **dict.fromkeys(self._template.columns if self._template else (), "ask.template"),
            **dict.fromkeys(self._system_template.columns if self._system_template else (), "ask.system"),
            **{name: f"source.images.{number}" for number, name in enumerate(source.images)},
            **{name: "source.tools" for name in [source.tools] if name is not None},
            **{name: "source.id" for name in [source.id] if name is not None},
            **{name: "source.messages" for name in [source.messages] if name is not None},
            **{name: "source.prompt" for name in [source.prompt] if name is not None},
            **({ask.score.prompt_ids: "ask.score.prompt_ids"} if ask.score is not None else {}),
            **({ask.score.completion_ids: "ask.score.completion_ids"} if ask.score is not None else {}),
        }
        """The columns that it needs, each with a field of the recipe that names it."""
        self.columns = frozenset(self.fields)
        """The columns it needs."""

    @classmethod
    def of(
        cls, recipe: Recipe, *, kept: Sequence[pa.Field] | None = None, templates_system: bool = True
    ) -> "PromptMaker":
        """The prompt maker of a recipe; see the class."""
        return cls(
            recipe.source,
            recipe.ask,
            kept=kept,
            templates_system=templates_system,
            references=references_of(recipe.checks),
            teachers=recipe.answering,
        )

    def make(self, values: Mapping[str, Any]) -> Prompt | str:
        """The row's prompt, or why it doesn't make one, without repeating its content.

        A row that lacks what a check compares with doesn't make a prompt: nothing is asked that could not be checked.
        """
        try:
            references = tuple([reference(values, each) for each in self._references])
        except NoPrompt as error:
            return str(error)
        return self._made(values, references, is_new=True)

    def remake(self, values: Mapping[str, Any]) -> Prompt | str:
        """The prompt of a row that is already planned, whether or not it has what today's checks compare with."""
        references = tuple([_reference_or_none(values, each) for each in self._references])
        return self._made(values, references, is_new=False)

    def _made(
        self, values: Mapping[str, Any], references: tuple[str | tuple[str, ...] | None, ...], *, is_new: bool
    ) -> Prompt | str:
        try:
            scored = None if self._score is None else scored_of(values, self._score)
            images = self._images_of(values, is_new=is_new) if self._images else ()
            tools = self._tools if self._tools_column is None else _tools_of(values, self._tools_column)
            messages, answer = self._asked(values, images, tools) if scored is None else ((), None)
            kept = tuple(
                [
                    None if (value := value_of(values, name)) is None else convert(value, what)
                    for name, what, convert in self._kept
                ]
            )
            if self._drops_answer:
                kept = (*kept, answer)
            own_tools = () if self._tools_column is None else tools or ()
            if scored is None:
                key = prompt_key(messages, [image.key for image in images], own_tools)
            else:
                key = scored_key(scored)
            prompt_id = self._own_id(values) if self._id else key.hex()
            return Prompt(prompt_id, key, messages, kept, references, images, tools, scored)
        except NoPrompt as error:
            return str(error)

    def id_of(self, values: Mapping[str, Any]) -> str | None:
        """The row's own id, if it has one, even if it doesn't make a prompt."""
        try:
            return self._own_id(values) if self._id else None
        except NoPrompt:
            return None

    def _images_of(self, values: Mapping[str, Any], *, is_new: bool) -> tuple[Image, ...]:
        """The row's images; those of a planned row were checked when it was new."""
        images = images_in(values, self._images, decode=is_new)
        if is_new and (why := refused_image(images, self._teachers)) is not None:
            raise NoPrompt(why)
        return images

    def _asked(
        self, values: Mapping[str, Any], images: Sequence[Image], tools: Sequence[Tool] | None
    ) -> tuple[tuple[Message, ...], str | None]:
        """The messages, and the source's answer to them."""
        if self._template is not None:
            if self._prompt is not None:
                _there(values, self._prompt)
            return self._alone(text(self._template.render(values), "ask.template"), values), None
        if self._messages is None:
            assert self._prompt is not None
            return self._alone(_column(values, self._prompt), values), None
        what = f"column {self._messages!r}"
        asked = conversation(
            _there(values, self._messages),
            what,
            drop_answer=self._drops_answer,
            has_images=bool(self._images),
            tools=tools,
        )
        _check_places(images, asked, what)
        if any(message[0] in _OWN_SYSTEM for message in asked.messages):
            return asked.messages, asked.answer
        return (*self._system_of(values), *asked.messages), asked.answer

    def _alone(self, content: str, values: Mapping[str, Any]) -> tuple[Message, ...]:
        if not content or content.isspace():
            raise NoPrompt("empty prompt")
        return (*self._system_of(values), ("user", content))

    def _system_of(self, values: Mapping[str, Any]) -> tuple[Message, ...]:
        """The system message; None if a template renders to nothing."""
        if self._system_template is None:
            return self._system
        rendered = text(self._system_template.render(values), "ask.system")
        return (("system", rendered),) if rendered.strip() else ()

    def _own_id(self, values: Mapping[str, Any]) -> str:
        assert self._id is not None
        value = value_of(values, self._id)
        return str(value) if type(value) is int else _column(values, self._id)


def _check_places(images: Sequence[Image], asked: Conversation, what: str) -> None:
    """Refuse images that the conversation has no place for."""
    if asked.images and asked.images != len(images):
        raise NoPrompt(
            f"{what}: expected a content part {{type: image}} per image, got {asked.images} of {len(images)}"
        )
    if images and all(message[0] != "user" for message in asked.messages):
        raise NoPrompt(f"{what}: images are sent with the first user message, and there is none")


def is_system_template(system: str) -> bool:
    """True if ask.system is a template, not a fixed text."""
    return "{{" in system or "{%" in system


def _tools_of(values: Mapping[str, Any], name: str) -> tuple[Tool, ...]:
    """The tools that a row offers; none if the column is null."""
    value = value_of(values, name)
    if value is None:
        return ()
    what = f"source.tools: column {name!r}"
    try:
        if isinstance(value, list):
            value = f"[{','.join(each if isinstance(each, str) else json_text(_given(each), what) for each in value)}]"
        return tools_of(text(value, what))
    except RecursionError:
        raise NoPrompt(f"{what}: expected a list of tools, got a value that is nested too deeply") from None
    except ValueError as error:
        raise NoPrompt(f"{what}: {error}") from None


def _given(value: Any) -> Any:
    """The value without its null keys: a Parquet column gives every tool the keys of all."""
    if isinstance(value, dict):
        return {key: _given(each) for key, each in without_nulls(value).items()}
    return [_given(each) for each in value] if isinstance(value, list) else value


def _reference_or_none(values: Mapping[str, Any], wanted: Reference) -> str | tuple[str, ...] | None:
    try:
        return reference(values, wanted)
    except NoPrompt:
        return None


def _column(values: Mapping[str, Any], name: str) -> str:
    value = _there(values, name)
    if type(value) is str and value.isascii():
        return value  # nearly always; to name the column for `text` takes longer than all of this
    return text(value, f"column {name!r}")


def _there(values: Mapping[str, Any], name: str) -> Any:
    value = value_of(values, name)
    if value is None:
        raise NoPrompt(f"column {name!r} is {'null' if is_in(values, name) else 'missing'}")
    return value


def _compiled(source: str, *, what: Literal["ask.template", "ask.system"]) -> "Template":
    # Jinja takes a while to import, and most recipes have no template.
    from stillhouse.gen.source.sandbox import Template

    return Template(source, what=what)
