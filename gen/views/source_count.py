"""Counts the rows of a source as the index would; memory holds one key per prompt."""

from pydantic import BaseModel, ConfigDict

from stillhouse.gen.dataset.row_fates import Judge, is_full
from stillhouse.gen.source.files import SourceFile
from stillhouse.gen.source.formats.row import Row
from stillhouse.gen.source.prompt_maker import PromptMaker
from stillhouse.gen.teachers.image_tokens import chars_of
from stillhouse.schemas.prompt import Message, Prompt
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.tool_call import ToolMessage

EXAMPLES = 3
"""Number of prompts shown as they would be asked."""
EXAMPLE_CHARS = 1000
"""Maximum length of a message in them."""
BAD_ROWS = 5
"""Number of bad rows that are named."""


class Example(BaseModel):
    """A prompt as it would be asked."""

    model_config = ConfigDict(frozen=True)

    prompt_id: str
    messages: tuple[tuple[str, str], ...]
    """(role, content), with the content cut to `EXAMPLE_CHARS`."""
    images: int = 0
    """Number of images sent at the start of the first user message."""


class SourceCount:
    """The counts of a source's rows."""

    def __init__(self, recipe: Recipe, maker: PromptMaker) -> None:
        self.maker = maker
        self._teachers = recipe.answering
        self._per_shard = recipe.prompts_per_shard
        self._judge = Judge(maker, has_ids=False)  # the ids that its fates have for duplicates are not needed
        self.rows = self.duplicates = self.bad = self.chars = 0
        self.bad_rows: list[str] = []
        self.examples: list[Example] = []
        self.shards = 1
        """A generation has at least one chunk, as in `gen.dataset.indexer`."""
        self._rows_in_shard = self._asks_in_shard = 0
        """Size of the last shard."""

    @property
    def asked(self) -> int:
        """Prompts."""
        return self._judge.asked

    def add(self, file: SourceFile, row: Row) -> None:
        """Count the next row."""
        if is_full(asks=self._asks_in_shard, rows=self._rows_in_shard, prompts_per_shard=self._per_shard):
            self.shards += 1
            self._rows_in_shard = self._asks_in_shard = 0
        fate = self._judge.fate(row)
        self.rows += 1
        self._rows_in_shard += 1
        match fate.fate:
            case "bad":
                self.bad += 1
                if len(self.bad_rows) < BAD_ROWS:
                    self.bad_rows.append(f"{file.url}:{row.at.line}: {fate.detail}")
            case "duplicate":
                self.duplicates += 1
            case "ask":
                assert fate.prompt is not None
                self._asks_in_shard += 1
                self._ask(fate.prompt)

    def _ask(self, prompt: Prompt) -> None:
        self.chars += max(chars_of(prompt, teacher) for teacher in self._teachers) if prompt.images else prompt.chars
        if len(self.examples) < EXAMPLES:
            messages = tuple((message[0], _cut(_shown(message))) for message in prompt.messages)
            example = Example(prompt_id=_cut(prompt.id), messages=messages, images=len(prompt.images))
            self.examples.append(example)


def _shown(message: Message) -> str:
    """The message's text, and the calls in it."""
    calls = message.calls or () if isinstance(message, ToolMessage) else ()
    return "\n".join([*filter(None, [message[1]]), *(f"{call.name}({call.arguments})" for call in calls)])


def _cut(text: str) -> str:
    more = len(text) - EXAMPLE_CHARS
    return text if more <= 0 else f"{text[:EXAMPLE_CHARS]}… ({more:,} more characters)"
