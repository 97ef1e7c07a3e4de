"""Finds what to ask in files that nobody has described: the column of prompts or of conversations, ids and answers.

It uses the first rows, and the names that public datasets use, and only decides what it can prove: what it finds makes
a prompt from a row, or is refused with a list of the columns.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from stillhouse.gen.errors import SourceError
from stillhouse.gen.source.columns import instead, listed, names_in, value_of
from stillhouse.gen.source.conversation import Conversation, NoPrompt, conversation
from stillhouse.gen.source.files import SourceFile, kept_fields, read_rows
from stillhouse.gen.source.survey import survey
from stillhouse.schemas.arrow import RECORD
from stillhouse.schemas.source import Keep, Source

FIRST_ROWS = 100

_PROMPTS = ("prompt", "question", "query", "instruction", "problem", "user_prompt", "task", "q")
"""Text columns to ask, most likely first; they are preferred to conversations."""
_CHATS = ("messages", "conversations", "conversation", "chat", "dialogue", "dialog", "prompt", "turns")
_TEXTS = ("input", "inputs", "text", "content", "message", "body")
"""Text columns to ask if there is no conversation either."""
_CONTEXTS = ("input", "context")
"""With an `instruction`, the column with its context, as in Alpaca and Dolly; often empty."""
_TEMPLATE = "{{{{ instruction }}}}{{% if {context} %}}\n\n{{{{ {context} }}}}{{% endif %}}"
_IDS = ("id", "_id", "prompt_id", "question_id", "task_id", "uid", "uuid", "idx", "index")
_ANSWERS = (
    *("answer", "answers", "solution", "label", "target", "reference", "reference_answer", "ground_truth", "gold"),
    *("expected_answer", "correct_answer", "final_answer", "test", "tests", "test_cases"),
)


@dataclass(frozen=True, slots=True)
class Guess:
    """What a recipe for these files can state."""

    prompt: str | None
    """The column of text, or"""
    messages: str | None
    """the column of conversations."""
    drops_answer: bool
    """True if conversations end with the assistant's turn."""
    template: str | None
    """For a prompt that consists of two columns."""
    id: str | None
    keep: tuple[Keep, ...]
    """Columns with known answers; declared as string if the types of the files do not fit together."""
    others: tuple[str, ...]
    """Other columns."""


def guess(source: Source, *, prompt: str | None = None, messages: str | None = None) -> Guess:
    """Look at the first rows of a source that nobody has described.

    `prompt`, `messages`: the column, if the user names it.

    Raises:
        SourceError: there is no file or no row, or no column that is clearly the prompt.
        StoreAway, StoreRefused: the store does not answer, or refuses.
    """
    files = survey(source).files
    rows = _first_rows(files, source)
    columns = list(dict.fromkeys(name for row in rows for name in names_in(row)))
    top = list(dict.fromkeys(name for row in rows for name in row))
    for given in (prompt, messages):
        if given is not None and given not in columns:
            raise SourceError(f"there is no column {given!r}{instead(given, top, likely=columns)}")
    if prompt is None and messages is None:
        prompt, messages = _to_ask(rows, columns)
    drops_answer = messages is not None and any(_ends_with_answer(row, messages) for row in rows)
    context = next((name for name in _CONTEXTS if prompt == "instruction" and all(name in row for row in rows)), None)
    used = {prompt, messages, context}
    own = next((name for name in _named(_IDS, top) if name not in used and _are_ids(rows, name)), None)
    taken = set(RECORD.names)
    keep = [name for name in _named(_ANSWERS, top) if name not in used and name not in taken]
    return Guess(
        prompt=prompt,
        messages=messages,
        drops_answer=drops_answer,
        template=None if context is None else _TEMPLATE.format(context=context),
        id=own,
        keep=tuple(_kept(name, files, source) for name in keep),
        others=tuple(name for name in top if name not in {*used, own, *keep}),
    )


def _first_rows(files: Sequence[SourceFile], source: Source) -> list[dict[str, Any]]:
    rows = (row for file in files for row in read_rows(file, source=source))
    first = list(islice(rows, FIRST_ROWS))
    read = [row.values for row in first if row.values]
    if not read:
        why = f"; the first is bad: {first[0].bad}" if first and first[0].bad else ""
        raise SourceError(f"{files[0].url}: expected rows with columns, got none{why}")
    return read


def _kept(name: str, files: Sequence[SourceFile], source: Source) -> Keep:
    try:
        kept_fields(files, source=source.model_copy(update={"keep": (Keep(name=name),)}))
    except SourceError:
        return Keep(name=name, type="string")
    return Keep(name=name)


def _to_ask(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> tuple[str | None, str | None]:
    """(the column of prompts, the column of conversations), one of them None."""
    found = _plain(rows, dict.fromkeys(columns, rows))
    if isinstance(found, list):  # a column that is often empty is used only if there is no better one
        found = _plain(rows, {name: [row for row in rows if value_of(row, name) is not None] for name in columns})
    if isinstance(found, tuple):
        return found
    likely = found
    which = f"it may be {listed(likely)}" if likely else f"the columns are {listed(list(columns))}"
    raise SourceError(
        f"no column is clearly the prompt: {which}; give --prompt COLUMN for text, or --messages COLUMN for a "
        "conversation (a list of {role, content} or of {from, value})"
    )


def _plain(
    rows: Sequence[dict[str, Any]], judged: Mapping[str, Sequence[dict[str, Any]]]
) -> tuple[str | None, str | None] | list[str]:
    """The result of `_to_ask`, or else the candidates; each column is judged by its own rows."""
    chats = [name for name, own in judged.items() if _most(_chat(row, name) is not None for row in own)]
    chatty = set(chats)
    texts = [name for name, own in judged.items() if name not in chatty and _most(_is_text(row, name) for row in own)]
    for name in _named(_PROMPTS, texts):
        return name, None
    for name in (*_named(_CHATS, chats), *chats):
        return None, name
    for name in _named(_TEXTS, texts):
        return name, None
    others = {*_named(_IDS, texts), *_named(_ANSWERS, texts)}
    likely = [name for name in texts if name not in others]
    at_the_top = [name for name in likely if any(name in row for row in rows)]
    if len(at_the_top or likely) == 1:
        return (at_the_top or likely)[0], None
    return likely


def _named(names: Sequence[str], columns: Sequence[str]) -> Iterator[str]:
    """The columns with these names, also inside structs, in the names' order."""
    for name in names:
        yield from (column for column in columns if column.casefold() == name)
        yield from (column for column in columns if column.casefold().endswith(f".{name}"))


def _most(holds: Iterable[bool]) -> bool:
    each = list(holds)
    return sum(each) * 2 > len(each)


def _is_text(row: dict[str, Any], name: str) -> bool:
    value = value_of(row, name)
    return isinstance(value, str) and bool(value.strip())


def _chat(row: dict[str, Any], name: str) -> Conversation | None:
    value = value_of(row, name)
    if isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
        return None
    try:
        return conversation(value, name, drop_answer=True)
    except NoPrompt:
        return None


def _ends_with_answer(row: dict[str, Any], name: str) -> bool:
    chat = _chat(row, name)
    return chat is not None and chat.answer is not None


def _are_ids(rows: Sequence[dict[str, Any]], name: str) -> bool:
    values = [row.get(name) for row in rows]
    return all(type(value) is int or (isinstance(value, str) and value) for value in values) and len(
        set(map(str, values))
    ) == len(values)
