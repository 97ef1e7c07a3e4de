"""The Recipe: what to ask, whom, what to keep and where to write.

A recipe's identity is the part that decides what a record is. A dataset is bound to one identity; limits, prices,
endpoints, keys, timeouts, workers and new files under the source's path may change between runs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from stillhouse.schemas.ask import Ask
from stillhouse.schemas.asked_schema import AskedSchema
from stillhouse.schemas.base import FieldsFault, Strict
from stillhouse.schemas.budget import Budget
from stillhouse.schemas.carried_file import CarriedFile, carried
from stillhouse.schemas.checks import AnyCheck, Check, last_if_whole, unique_names
from stillhouse.schemas.dataset import MESSAGES, PROMPTS_PER_SHARD, SAMPLES_PER_BATCH, Dataset, Dedup
from stillhouse.schemas.identity import identity_of
from stillhouse.schemas.judge_check import JudgeCheck
from stillhouse.schemas.judge_rules import judges_last, with_rivals
from stillhouse.schemas.limits import Limits
from stillhouse.schemas.places import Places
from stillhouse.schemas.recipe_rules import contradiction, field_faults
from stillhouse.schemas.run_settings import RunSettings
from stillhouse.schemas.select import Equality, Select
from stillhouse.schemas.source import Source
from stillhouse.schemas.teacher import Teacher

Route: TypeAlias = Literal["weighted", "each", "fallback"]
"""Which teachers answer a prompt."""

_PLAIN_APIS = ("openai-chat", "vllm", "sglang", "simulator")
"""APIs of servers that mostly don't say whether reasoning is a summary, or why they refuse."""


class Recipe(Strict):
    """A recipe: what to ask, whom, what to keep and where to write."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """The dataset's name: letters, digits, dot, dash, underscore."""
    source: Source
    ask: Ask = Ask()
    route: Route = "weighted"
    """Which teachers answer a prompt: `weighted` divides its samples by `weight`; `each` has every teacher answer all
    of them; `fallback` asks the first teacher, and the next in order if that one can't answer."""
    teachers: Annotated[tuple[Teacher, ...], Field(min_length=1), AfterValidator(judges_last)]
    """The models that answer the prompts, and those that judge the answers."""
    checks: Annotated[tuple[Check, ...], AfterValidator(unique_names), AfterValidator(last_if_whole)] = ()
    """Which answers to keep: the checks run in order, and the first that rejects an answer decides."""
    select: Select | None = None
    """Which accepted answers to a prompt are kept; by default all of them."""
    dedup: Dedup = Dedup()
    budget: Budget | None = None
    dataset: Dataset
    run: RunSettings = RunSettings()
    _places: Places = PrivateAttr(default_factory=Places)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (words := contradiction(self)) is not None:
            raise ValueError(words)
        if faults := field_faults(self):
            raise FieldsFault(faults)
        checks = with_rivals(self)
        return self if checks == self.checks else self.model_copy(update={"checks": checks})

    @property
    def answering(self) -> tuple[Teacher, ...]:
        """The teachers that answer prompts: the first ones in `teachers`, because judges come last."""
        return tuple(teacher for teacher in self.teachers if teacher.role == "answer")

    @property
    def asked_schema(self) -> AskedSchema | None:
        """The check that comes with `ask.schema`; None if no teacher is asked for one."""
        asked = [self.ask.of(teacher) for teacher in self.answering]
        by_key = {ask.schema_key: ask.schema_document for ask in asked}
        found = {key: document for key, document in by_key.items() if key is not None and document is not None}
        return AskedSchema(by_key=found) if found else None

    @property
    def all_checks(self) -> tuple[AnyCheck, ...]:
        """The checks in order: the one of `ask.schema`, then the recipe's own."""
        return (*filter(None, [self.asked_schema]), *self.checks)

    @property
    def judges(self) -> tuple[tuple[int, JudgeCheck, Teacher], ...]:
        """For each check that asks a judge: its number among all checks, from 1; its settings; the judging teacher."""
        by_name = {teacher.name: teacher for teacher in self.teachers}
        numbered = enumerate(self.all_checks, 1)
        asked = ((number, each.judge) for number, each in numbered if isinstance(each, Check))
        return tuple((number, judge, by_name[judge.teacher]) for number, judge in asked if judge is not None)

    @property
    def samples_per_prompt(self) -> int:
        """The maximum number of answers asked for a prompt, of all teachers together."""
        return self.ask.most_samples * (len(self.answering) if self.route == "each" else 1)

    @property
    def equality(self) -> Equality | None:
        """How a vote compares answers; None if there is no vote."""
        return self.select.majority.answer if self.select is not None and self.select.majority is not None else None

    @property
    def accounts(self) -> dict[str, Limits]:
        """The limits of each account; if teachers share one, the lower of two declared limits applies."""
        accounts: dict[str, dict[str, int]] = {}
        for teacher in self.teachers:
            known = accounts.setdefault(teacher.limits_key, {})
            stated = teacher.limits.model_dump(exclude_none=True)
            known |= {name: min(value, known.get(name, value)) for name, value in stated.items()}
        return {key: Limits(**known) for key, known in accounts.items()}

    @property
    def prompts_per_shard(self) -> int:
        """Prompts in a chunk; if a recipe leaves it out, it is resolved when the dataset is bound
        (`gen.dataset.binding`).
        """
        if self.dataset.prompts_per_shard is not None:
            return self.dataset.prompts_per_shard
        if all(teacher.mode != "online" for teacher in self.answering):
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
        """Prefix of a message about the field at the dotted path; see `Places.before`."""
        return self._places.before(path)

    def placed(self, places: Places) -> Self:
        """The same recipe, with the places of its fields for messages."""
        copy = self.model_copy()
        copy._places = places  # noqa: SLF001 - a copy of itself
        return copy

    def with_files(self) -> Self:
        """The recipe with the files that it names inside it, so that it can be used where they do not exist."""
        return self._with_answers(carried)

    def with_absolute_paths(self) -> Self:
        """The recipe with absolute local paths, for processes in other folders."""
        paths = tuple(map(_absolute, self.source.paths))
        source = self.source.model_copy(update={"path": paths[0] if isinstance(self.source.path, str) else paths})
        dataset = self.dataset.model_copy(update={"path": _absolute(self.dataset.path)})
        run = self.run
        if run.journal_dir is not None:
            run = run.model_copy(update={"journal_dir": _absolute(run.journal_dir)})
        moved = self._with_answers(lambda file: _absolute(file) if isinstance(file, str) else file)
        return moved.model_copy(update={"source": source, "dataset": dataset, "run": run})

    def _with_answers(self, change: Callable[[str | CarriedFile], str | CarriedFile]) -> Self:
        """The recipe with `change` applied to the files of its simulators' answers."""
        teachers = []
        for teacher in self.teachers:
            if teacher.simulator is not None and teacher.simulator.answers is not None:
                settings = teacher.simulator.model_copy(update={"answers": change(teacher.simulator.answers)})
                teacher = teacher.model_copy(update={"simulator": settings})
            teachers.append(teacher)
        return self.model_copy(update={"teachers": tuple(teachers)})

    def identity(self) -> dict[str, Any]:
        """The identity that a dataset is bound to; see `schemas.identity`."""
        return identity_of(self)


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())
