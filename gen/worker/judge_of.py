"""The judges of a recipe: the checks that ask one, each with the teacher that judges and what it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass

from stillhouse.gen.checks.judge import Rubric, judging
from stillhouse.gen.teachers.interpreter import Interpreter
from stillhouse.schemas.check_settings import Reference
from stillhouse.schemas.checks import references_of
from stillhouse.schemas.recipe import Recipe


@dataclass(frozen=True, slots=True)
class JudgeOf:
    """A check of the recipe that asks a judge."""

    stage: int
    """The check's number, from 1."""
    interpreter: Interpreter
    rubric: Rubric
    references: Sequence[Reference]
    """The names of all of the recipe's checks."""
    rival_column: str | None
    rival_teacher: str | None


def judges_of(recipe: Recipe) -> tuple[JudgeOf, ...]:
    """The recipe's judges, in the order of its checks.

    Raises:
        TemplateError: a template can't be compiled.
    """
    places = {teacher.name: place for place, teacher in enumerate(recipe.teachers)}
    found = []
    for stage, settings, asked in recipe.judges:
        found.append(
            JudgeOf(
                stage,
                Interpreter(judging(asked, settings), recipe.ask, place=places[asked.name]),
                Rubric(settings),
                references_of(recipe.checks),
                settings.against if settings.rival == "column" else None,
                settings.against if settings.rival == "teacher" else None,
            )
        )
    return tuple(found)
