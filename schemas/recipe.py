"""The Recipe: what to ask, whom, what to keep and where to write.

A recipe's identity is the part that decides what a record is. A dataset is bound to one identity; limits, prices,
endpoints, keys, timeouts, workers and new files under the source's path may change between runs.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, PrivateAttr, field_validator, model_validator

from stillhouse.schemas.asked_schema import SCHEMA_CHECK, AskedSchema
from stillhouse.schemas.base import FieldsFault, Strict
from stillhouse.schemas.budget import Budget
from stillhouse.schemas.carried_file import carried
from stillhouse.schemas.checks import AnyCheck, Check, last_if_whole, unique_names
from stillhouse.schemas.combinations import refused_pairs
from stillhouse.schemas.endpoint_url import EndpointUrl
from stillhouse.schemas.extra import Extra
from stillhouse.schemas.identity import TOOL_FIELDS, identity_of
from stillhouse.schemas.judge_rules import judge_faults, judges_last, with_rivals
from stillhouse.schemas.licences import hosts_of
from stillhouse.schemas.limits import Limits
from stillhouse.schemas.location import canonical_location
from stillhouse.schemas.model_rules import refusals
from stillhouse.schemas.parameters import Parameters
from stillhouse.schemas.places import Places
from stillhouse.schemas.score import SCORING_APIS, Score
from stillhouse.schemas.select import Equality, Select
from stillhouse.schemas.teacher import Teacher
from stillhouse.schemas.tool import Tools, identity_of_tools
from stillhouse.schemas.value_types import VALUE_TYPES, ValueType

Route: TypeAlias = Literal["weighted", "each", "fallback"]
"""Which teachers answer a prompt."""

PASSAGE_CHARS = 4000
"""About a thousand tokens: enough to ask about, and several fit into any context."""

MAX_SAMPLES_PER_SHARD = 2**32 - 1
"""The journal numbers a shard's samples in 32 bits."""

PROMPTS_PER_SHARD = 1000
"""The default for a new dataset."""
SAMPLES_PER_BATCH = 10_000

MESSAGES = False
"""Likewise: a conversation column of GSM8K's questions and answers makes shards larger by half (two fifths with four
samples of each prompt), since texts compress column by column."""


_PLAIN_APIS = ("openai-chat", "vllm", "sglang", "simulator")
"""APIs of servers most of which say nothing about whose words a reasoning is, or why they refuse."""


def _no_controls(value: str) -> str:
    if not value.strip() or re.search(r"[\x00-\x1f\x7f]", value):
        raise ValueError("expected a path or an s3:// URL without control characters")
    return value


Location = Annotated[str, AfterValidator(_no_controls), AfterValidator(canonical_location)]


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
    """A source column carried into every record."""

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

    path: Location | tuple[Location, ...]
    """A path, glob, folder or s3:// URL, or a list of them. Formats: .jsonl, .json, .csv, .tsv, .txt, .md (also with
    .gz or .zst), .parquet, .arrow. The folder of a Stillhouse dataset stands for its records."""
    rejected: bool = False
    """Also read the answers that datasets in `path` rejected; `reject_reason` says why, and is null for records."""
    prompt: str | None = None
    """The text column to send as the user's message. One of `prompt`, `messages` and `ask.template` is required."""
    messages: str | None = None
    """The column that holds a conversation: a list of {role, content}, or of {from, value} as in ShareGPT."""
    answer: Literal["drop", "refuse"] = "refuse"
    """What to do with a conversation that ends with the assistant's turn: `drop` moves that turn into the column
    `source_answer` and asks the rest, `refuse` makes it a bad row."""
    images: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_columns)] = ()
    """Columns of images, sent at the head of the first user message: bytes, {bytes, path} as `datasets` stores them,
    https:// or data: URLs, or lists of these. PNG, JPEG, GIF or WebP. Needs `pip install 'stillhouse[images]'`."""
    tools: Annotated[str, Field(min_length=1)] | None = None
    """The column with the tools that a row offers: a list in OpenAI's form, or JSON of one; null offers none."""
    id: str | None = None
    """The column with your own id, which becomes `prompt_id`; by default the prompt's key."""
    keep: tuple[Keep, ...] = ()
    """Columns carried into every record: `answer`; `answer: int64` to give a text source's column a type;
    `{name: answer, type: int64, as: known}` to rename it as well."""
    delimiter: Annotated[str, BeforeValidator(_delimiter), Field(min_length=1, max_length=1)] | None = None
    """Field separator of a CSV; by default comma, semicolon, tab or bar, whichever fits its header."""
    passage_chars: Annotated[int, Field(ge=100, le=1_000_000)] = PASSAGE_CHARS
    """Most characters of a passage: .txt and .md files are cut into passages, rows with the columns `text` and
    `passage` (its number)."""
    endpoint_url: EndpointUrl | None = None
    """Endpoint of the S3-compatible store that holds the prompts; by default from the standard AWS settings."""
    region: str | None = None
    """The store's region; by default the standard AWS settings."""
    path_style: bool | None = None
    """Address buckets by path; by default with an `endpoint_url`."""

    @field_validator("keep", mode="before")
    @classmethod
    def _keep_forms(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise ValueError("expected a list of columns, such as `[answer]` or `[{answer: int64}]`")  # noqa: TRY004
        return tuple(_keep(item) for item in value)

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if self.prompt is not None and self.messages is not None:
            raise ValueError(f"expected {_ONE_PROMPT}, got both")
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


_ONE_PROMPT = "one of `prompt` (a text column) and `messages` (a column that holds a conversation)"


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


class Ask(Parameters):
    """What the teacher is asked for every prompt."""

    system: str | None = None
    """The system message; may be a Jinja template over the row's columns. A conversation that has its own keeps it."""
    template: str | None = None
    """A Jinja template of the user's message over the row's columns; by default the prompt column."""
    samples: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Number of answers wanted per prompt."""
    accept: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Instead of `samples`: ask until this many answers to a prompt are accepted; equal ones count once. Needs
    `at_most`."""
    at_most: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """With `accept`: the most answers asked for a prompt, whatever becomes of them."""
    tools: Tools | None = None
    """Tools that answers may call: a list in OpenAI's form, or the path of a JSON file that holds one. Calls come back
    inside the assistant's message, checked against the tools' schemas."""
    score: Score | None = None
    """In place of an answer: the teacher's log-probabilities of tokens that the row gives, by their ids. Takes `api:
    vllm` or `sglang`."""
    extra: Extra = Field(default_factory=dict)
    """Merged into the body of every request as is."""

    @model_validator(mode="after")
    def _samples_or_accept(self) -> Self:
        if self.accept is None and self.at_most is None:
            return self
        if self.at_most is None:
            raise ValueError(f"accept: {self.accept} needs `at_most`, the most answers asked for a prompt; add it")
        if self.accept is None:
            raise ValueError(f"at_most: {self.at_most} needs `accept`, the answers wanted for each prompt; add it")
        if self.accept > self.at_most:
            raise ValueError(f"expected accept to be no more than at_most, got {self.accept} and {self.at_most}")
        if self.samples > 1:
            raise ValueError("expected either `samples` or `accept` with `at_most`, got both; leave one out")
        return self

    @property
    def most_samples(self) -> int:
        """The most answers asked for a prompt: `samples` or `at_most`."""
        return self.samples if self.at_most is None else self.at_most

    def wanted(self) -> dict[str, JsonValue]:
        """How many answers are wanted for each prompt, by the names of the fields that say it."""
        return {"samples": self.samples} if self.accept is None else {"accept": self.accept, "at_most": self.at_most}

    def identity(self) -> dict[str, Any]:
        """All fields as JSON, with files by their SHA-256."""
        tools = {} if self.tools is None else {"tools": identity_of_tools(self.tools)}
        return super().identity() | tools

    def parameters(self) -> dict[str, JsonValue]:
        """What shapes an answer beside its prompt, unset ones left out: part of a record's id."""
        tools = {} if self.tools is None else {"tools": identity_of_tools(self.tools)}
        score: dict[str, JsonValue] = {} if self.score is None else {"score": {"top": self.score.top}}
        return self.given() | tools | score | ({"extra": self.extra} if self.extra else {})

    def changed(self, changes: Mapping[str, Any], extra: Mapping[str, JsonValue]) -> Self:
        """The same with these parameters changed, those of null removed, and `extra` over what `extra` holds."""
        return self.model_copy(update={**changes, "extra": {**self.extra, **extra}})

    def of(self, teacher: Teacher) -> Self:
        """What this teacher is asked; a judge, nothing of the recipe's own."""
        asked = self if teacher.role == "answer" else type(self)()
        return asked.changed(teacher.ask.changes(), teacher.extra)


class Dedup(Strict):
    """Which duplicates are removed; duplicate prompts always are."""

    answers: bool = True
    """Keep only the first of several equal answers to a prompt."""


class Dataset(Strict):
    """Where the records go and how."""

    path: Location
    """A local folder or s3://bucket/prefix."""
    prompts_per_shard: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Prompts per chunk: the unit of lease, work and commit. By default the dataset's own value; for a new one
    1000, or with `mode: batch` for all teachers as many as make 10,000 samples."""
    reasoning: Literal["column", "inline"] = "column"
    """Where reasoning goes: a `column` of its own, or `inline` as <think>…</think> at the start of the completion."""
    messages: bool | None = None
    """Add the column `messages`: prompt and completion as one conversation, as LLaMA-Factory, axolotl, verl and
    torchtune want it (TRL and OpenRLHF take `prompt` and `completion`). Shards grow by about half. By default the
    dataset's own value, false for a new one."""
    provider_details: bool | None = None
    """Add what only some providers report: the columns `reasoning_is_summary`, `reasoning_signatures`,
    `refusal_category` and `cache_write_tokens`. By default the dataset's own value; for a new one, true unless all
    teachers are `openai-chat` or `simulator`."""
    images: Literal["reference", "embed"] = "reference"
    """What the column `images` holds of the prompts' images: a `reference` to where each is in the source, or the image
    itself, as TRL's vision SFT takes it (`embed`: once for every record)."""
    keep_raw: bool = True
    """Keep the providers' response bodies, in `_stillhouse/raw/`."""
    endpoint_url: EndpointUrl | None = None
    """Endpoint of the S3-compatible store that holds the dataset; by default from the standard AWS settings."""
    region: str | None = None
    """The store's region; by default the standard AWS settings."""
    path_style: bool | None = None
    """Address buckets by path; by default with an `endpoint_url`."""
    encryption: Annotated[str, Field(pattern=r"^(AES256|aws:kms(:dsse)?(:.+)?)$")] | None = None
    """Server-side encryption to request: AES256, aws:kms, or aws:kms:<key id>; by default the bucket's own."""


class RunSettings(Strict):
    """How a run works; none of it is part of the dataset."""

    workers: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = "auto"
    """Number of TeacherWorkers; `auto` chooses by CPUs, `in_flight` and chunks."""
    ship_every_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Seconds between copies of a journal to the store: the answers that losing a node's disk can cost."""
    give_up_after_s: Annotated[float, Field(gt=0)] = 600.0
    """Seconds to wait for a teacher that has never answered; the time it says that it is loading does not count."""
    keep_going: bool = False
    """Continue though a check rejected all of its first 500 answers, or batches of another key or URL can't be found:
    their answers are then paid for again. The option --keep-going sets it."""
    journal_dir: str | None = None
    """Folder on each node for the journals of datasets on S3; by default the user's state folder."""


class Recipe(Strict):
    """A recipe: what to ask, whom, what to keep and where to write."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """The dataset's name: letters, digits, dot, dash, underscore."""
    source: Source
    ask: Ask = Ask()
    route: Route = "weighted"
    """Which teachers answer a prompt: its samples are shared out by `weight`; or `each` teacher answers all of them; or
    `fallback`: the first teacher, and the next in order where that one can't."""
    teachers: Annotated[tuple[Teacher, ...], Field(min_length=1), AfterValidator(judges_last)]
    """The models that answer the prompts, and those that judge their answers."""
    checks: Annotated[tuple[Check, ...], AfterValidator(unique_names), AfterValidator(last_if_whole)] = ()
    """What makes an answer worth keeping, in order: the first check that rejects it decides."""
    select: Select | None = None
    """What is kept of the accepted answers to a prompt; by default all of them."""
    dedup: Dedup = Dedup()
    budget: Budget | None = None
    dataset: Dataset
    run: RunSettings = RunSettings()
    _places: Places = PrivateAttr(default_factory=Places)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        names = [teacher.name for teacher in self.teachers]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"teachers: the name {', '.join(sorted(twice))} is given twice")
        if self.ask.template is not None and self.source.messages is not None:
            raise ValueError("ask.template goes with source.prompt: a conversation is asked as it is")
        if (
            self.ask.score is None
            and self.ask.template is None
            and self.source.prompt is None
            and self.source.messages is None
        ):
            raise ValueError(f"source: expected {_ONE_PROMPT}, or ask.template, got none")
        if self.asked_schema is not None and (same := [c for c in self.checks if c.name == SCHEMA_CHECK]):
            place = ("checks", self.checks.index(same[0]), same[0].kind, "name")
            raise FieldsFault(
                {place: f"the name {SCHEMA_CHECK} belongs to the check that `ask.schema` brings; give another"}
            )
        if fault := self._tools_fault():
            raise ValueError(fault)
        if self.dataset.images == "embed" and not self.source.images:
            raise ValueError("dataset.images: embed needs `source.images`: the prompts have no images otherwise")
        if (shard := self.prompts_per_shard * self.samples_per_prompt) > MAX_SAMPLES_PER_SHARD:
            raise FieldsFault(
                {
                    ("dataset", "prompts_per_shard"): f"expected at most {MAX_SAMPLES_PER_SHARD:,} samples in a shard, "
                    f"got {shard:,} ({self.samples_per_prompt:,} per prompt); make it smaller"
                }
            )
        misfits = judge_faults(self) or refused_pairs(self) or self._score_faults()
        if refused := misfits or self._refused_parameters() | self._misfits() | self._unbounded():
            raise FieldsFault(refused)
        checks = with_rivals(self)
        return self if checks == self.checks else self.model_copy(update={"checks": checks})

    @property
    def answering(self) -> tuple[Teacher, ...]:
        """The teachers that answer prompts: the first of `teachers`, as judges come last."""
        return tuple(teacher for teacher in self.teachers if teacher.role == "answer")

    def _score_faults(self) -> dict[tuple[str | int, ...], str]:
        """By the place where each is written: what can't go together with `ask.score`."""
        found: dict[tuple[str | int, ...], str] = {}
        if (score := self.ask.score) is None:
            return found
        for number, teacher in enumerate(self.teachers):
            if teacher.api not in SCORING_APIS:
                found["teachers", number, "api"] = (
                    f"`ask.score` takes {' or '.join(f'`{api}`' for api in SCORING_APIS)}, got `{teacher.api}`"
                )
            for name in sorted(self.ask.of(teacher).given()):
                place = ("teachers", number, "ask", name) if name in teacher.ask.written() else ("ask", name)
                found[place] = "`ask.score` asks for no answer, and takes no parameters of one: leave it out"
        sections = (("ask", self.ask, ("system", "template")), ("source", self.source, ("prompt", "messages")))
        for section, holder, names in sections:
            for name in names:
                if getattr(holder, name) is not None:
                    found[section, name] = "`ask.score` sends the row's token ids and no text: leave it out"
        if self.ask.samples > 1:
            found["ask", "samples"] = f"`ask.score` gives the same scores each time: expected 1, got {self.ask.samples}"
        if self.dataset.messages:
            found["dataset", "messages"] = "`ask.score` makes records without messages: leave it out"
        if score.prompt_ids == score.completion_ids:
            found["ask", "score", "completion_ids"] = "expected another column than `prompt_ids` names"
        return found

    def _tools_fault(self) -> str | None:
        """What is wrong with the places where tools are given."""
        own = [name for name, value in (("ask.tools", self.ask.tools), ("source.tools", self.source.tools)) if value]
        if len(own) == 2:
            return "expected tools in one of `ask.tools` (for all rows) and `source.tools` (for each row), got both"
        extras = (self.ask.extra, *(teacher.extra for teacher in self.teachers))
        if own and any(name in extra for extra in extras for name in TOOL_FIELDS):
            return f"expected tools in {own[0]} or in `extra`, got both; leave them out of `extra`"
        return None

    def _misfits(self) -> dict[tuple[str | int, ...], str]:
        """By the place where each is written: what `select` can't go together with."""
        if self.select is None:
            return {}
        names, ask = [check.name for check in self.all_checks], self.ask
        misfit = self.select.misfit(checks=names, samples=ask.most_samples, accept=ask.accept)
        return {} if misfit is None else {("select", *misfit[0].split(".")): misfit[1]}

    def _unbounded(self) -> dict[tuple[str | int, ...], str]:
        """The limits of the budget that can't be kept, as an answer may be of any length."""
        unbounded = [teacher.name for teacher in self.teachers if self.ask.of(teacher).max_tokens is None]
        if self.budget is None or self.ask.score is not None or not unbounded:
            return {}
        words = (
            f"needs `max_tokens` for every teacher, which bounds what an answer can cost: {', '.join(unbounded)} "
            "has none; add it to `ask`"
        )
        stated = [name for name in ("usd", "output_tokens") if getattr(self.budget, name) is not None]
        return {("budget", name): words for name in stated}

    def _refused_parameters(self) -> dict[tuple[str | int, ...], str]:
        """By the place where each is written: which teacher's API or model refuses it, and what to do."""
        found: dict[tuple[str | int, ...], str] = {}
        for number, teacher in enumerate(self.teachers):
            ask = self.ask.of(teacher)
            hosts = hosts_of(teacher.urls)
            schema = ask.schema_document
            offers = teacher.role == "answer" and (self.ask.tools or self.source.tools)
            extra = ask.extra | ({"tools": True} if offers else {})
            for name, why in refusals(teacher.api, teacher.model_name, ask.given(), extra, hosts=hosts, schema=schema):
                place: tuple[str | int, ...] = ("teachers", number)
                if name in teacher.ask.written():
                    place = ("teachers", number, "ask", name)
                elif name in ask.given() and teacher.role == "answer":
                    place = ("ask", name)
                words = f"teacher {teacher.name}: {why}"
                found[place] = f"{found[place]}\n{words}" if place in found else words
        return found

    @property
    def asked_schema(self) -> AskedSchema | None:
        """The check that comes with `ask.schema`; None if no teacher is asked for one."""
        asked = [self.ask.of(teacher) for teacher in self.answering]
        by_key = {ask.schema_key: ask.schema_document for ask in asked}
        found = {key: document for key, document in by_key.items() if key is not None and document is not None}
        return AskedSchema(by_key=found) if found else None

    @property
    def all_checks(self) -> tuple[AnyCheck, ...]:
        """What judges answers, in order: the check that comes with `ask.schema`, then the recipe's own."""
        return (*filter(None, [self.asked_schema]), *self.checks)

    @property
    def samples_per_prompt(self) -> int:
        """The most answers asked for a prompt, all teachers' together."""
        return self.ask.most_samples * (len(self.answering) if self.route == "each" else 1)

    @property
    def equality(self) -> Equality | None:
        """When answers are equal, for the vote on them; None where there is none."""
        return self.select.majority.answer if self.select is not None and self.select.majority is not None else None

    @property
    def accounts(self) -> dict[str, Limits]:
        """The limits of each account; where teachers share one, the lower of two stated limits holds."""
        accounts: dict[str, dict[str, int]] = {}
        for teacher in self.teachers:
            known = accounts.setdefault(teacher.limits_key, {})
            stated = teacher.limits.model_dump(exclude_none=True)
            known |= {name: min(value, known.get(name, value)) for name, value in stated.items()}
        return {key: Limits(**known) for key, known in accounts.items()}

    @property
    def prompts_per_shard(self) -> int:
        """Prompts in a chunk; a recipe that leaves it out is resolved when it is bound (`gen.dataset.binding`)."""
        if self.dataset.prompts_per_shard is not None:
            return self.dataset.prompts_per_shard
        if all(teacher.mode == "batch" for teacher in self.answering):
            return max(1, SAMPLES_PER_BATCH // self.samples_per_prompt)
        return PROMPTS_PER_SHARD

    @property
    def messages(self) -> bool:
        """True for a `messages` column; resolved like `prompts_per_shard`."""
        return MESSAGES if self.dataset.messages is None else self.dataset.messages

    @property
    def provider_details(self) -> bool:
        """True for the columns that only some providers fill; resolved like `prompts_per_shard`."""
        if self.dataset.provider_details is not None:
            return self.dataset.provider_details
        return any(teacher.api not in _PLAIN_APIS for teacher in self.answering)

    def where(self, path: str) -> str:
        """What a message about the field at the dotted path begins with; see `Places.before`."""
        return self._places.before(path)

    def placed(self, places: Places) -> Self:
        """The same recipe, with the places of its fields for messages."""
        copy = self.model_copy()
        copy._places = places  # noqa: SLF001 - a copy of itself
        return copy

    def with_files(self) -> Self:
        """The recipe with the files that it names inside it, so that it can be used where they are not."""
        teachers = []
        for teacher in self.teachers:
            if teacher.simulator is not None and teacher.simulator.answers is not None:
                settings = teacher.simulator.model_copy(update={"answers": carried(teacher.simulator.answers)})
                teacher = teacher.model_copy(update={"simulator": settings})
            teachers.append(teacher)
        return self.model_copy(update={"teachers": tuple(teachers)})

    def identity(self) -> dict[str, Any]:
        """What a dataset is bound to; see `schemas.identity`."""
        return identity_of(self)
