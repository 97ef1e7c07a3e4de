"""Where the prompts come from."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from stillhouse.schemas.base import Strict
from stillhouse.schemas.endpoint_url import EndpointUrl
from stillhouse.schemas.location import Location
from stillhouse.schemas.value_types import VALUE_TYPES, ValueType

PASSAGE_CHARS = 4000
"""About a thousand tokens: enough to ask about, and several fit into any context."""

ONE_PROMPT = "one of `prompt` (a text column) and `messages` (a column that holds a conversation)"


def _columns(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _delimiter(value: Any) -> Any:
    value = {"\\t": "\t", "tab": "\t"}.get(value, value) if isinstance(value, str) else value
    if isinstance(value, str) and (len(value) != 1 or value.isalnum() or value in '"\r\n\0'):
        raise ValueError('expected one character, such as ";", "|" or "\\t"')
    return value


class Keep(Strict):
    """A source column copied into every record."""

    name: str
    """Name of the source column."""
    type: ValueType | None = None
    """The column's type; by default the one in the Parquet or Arrow file, and string in JSONL and CSV."""
    rename: Annotated[str, Field(min_length=1)] | None = Field(default=None, alias="as")
    """Name of the column in the records, if its own name is reserved: `{name: messages, as: theirs}`."""

    @property
    def column(self) -> str:
        """The column's name in the records."""
        return self.rename or self.name


class Source(Strict):
    """Where the prompts come from."""

    path: Location | Annotated[tuple[Location, ...], Field(min_length=1)]
    """A path, glob, folder or s3:// URL, or a list of them. Formats: .jsonl, .json, .csv, .tsv, .txt, .md (also with
    .gz or .zst), .parquet, .arrow. For the folder of a Stillhouse dataset, the rows are its records."""
    rejected: bool = False
    """Also read the answers that datasets in `path` rejected; `reject_reason` says why, and is null for records."""
    prompt: str | None = None
    """The text column to send as the user's message. One of `prompt`, `messages` and `ask.template` is required."""
    messages: str | None = None
    """The column with a conversation: a list of {role, content}, or of {from, value} as in ShareGPT."""
    answer: Literal["drop", "refuse"] = "refuse"
    """What to do with a conversation that ends with the assistant's turn: `drop` moves that turn to the column
    `source_answer` and asks the rest, `refuse` makes it a bad row."""
    images: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_columns)] = ()
    """Columns of images, sent at the start of the first user message: bytes, {bytes, path} as `datasets` stores them,
    https:// or data: URLs, or lists of these. PNG, JPEG, GIF or WebP. Needs `pip install 'stillhouse[images]'`."""
    tools: Annotated[str, Field(min_length=1)] | None = None
    """The column with the tools that a row offers: a list in OpenAI's form, or JSON of one; null offers none."""
    id: str | None = None
    """The column with your own id, which becomes `prompt_id`; by default the prompt's key."""
    keep: tuple[Keep, ...] = ()
    """Columns copied into every record: `answer`; `answer: int64` to give a text source's column a type; `{name:
    answer, type: int64, as: known}` to rename it as well."""
    delimiter: Annotated[str, BeforeValidator(_delimiter), Field(min_length=1, max_length=1)] | None = None
    """Field separator of a CSV; by default whichever of comma, semicolon, tab and bar fits the header."""
    passage_chars: Annotated[int, Field(ge=100, le=1_000_000)] = PASSAGE_CHARS
    """Maximum length of a passage in characters: .txt and .md files are cut into passages, rows with the columns `text`
    and `passage` (its number)."""
    endpoint_url: EndpointUrl | None = None
    """Endpoint of the S3-compatible store with the prompts; by default from the standard AWS settings."""
    region: str | None = None
    """The store's region; by default from the standard AWS settings."""
    path_style: bool | None = None
    """Address buckets by path; the default if `endpoint_url` is given."""

    @field_validator("keep", mode="before")
    @classmethod
    def _keep_forms(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise ValueError("expected a list of columns, such as `[answer]` or `[{answer: int64}]`")  # noqa: TRY004
        return tuple(_keep(item) for item in value)

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if self.prompt is not None and self.messages is not None:
            raise ValueError(f"expected {ONE_PROMPT}, got both")
        if self.answer == "drop" and self.messages is None:
            raise ValueError("answer needs `messages`: drop applies to the last turn of a conversation")
        names = [keep.column for keep in self.keep] + ["source_answer"] * (self.answer == "drop")
        if twice := {name for name in self.images if self.images.count(name) > 1}:
            raise ValueError(f"images names the column {', '.join(sorted(twice))} twice; name it once")
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"keep produces the column {', '.join(sorted(twice))} twice; rename one with `as`")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths as a tuple."""
        return (self.path,) if isinstance(self.path, str) else self.path


def _keep(item: Any) -> Any:
    if isinstance(item, str):
        return {"name": item}
    if isinstance(item, Keep) or (isinstance(item, dict) and "name" in item):
        return item
    if not isinstance(item, dict) or len(item) != 1:
        raise ValueError("expected one column per item: its name, or `name: type`, such as `[answer, level: int64]`")
    ((name, kind),) = item.items()
    if kind not in VALUE_TYPES:
        raise ValueError(f"expected a type of {', '.join(VALUE_TYPES)} for column {name!r}, got {kind!r}")
    return {"name": name, "type": kind}
