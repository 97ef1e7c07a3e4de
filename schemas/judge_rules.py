"""Rules between a recipe's judges and the checks that ask them."""

from typing import TYPE_CHECKING

from stillhouse.schemas.base import Place
from stillhouse.schemas.checks import Check
from stillhouse.schemas.judge_check import JudgeCheck
from stillhouse.schemas.teacher import Teacher

if TYPE_CHECKING:
    from stillhouse.schemas.recipe import Recipe


def judges_last(teachers: tuple[Teacher, ...]) -> tuple[Teacher, ...]:
    """The teachers, those that answer first: journals refer to teachers by position, which must not change when a judge
    is added.
    """
    if not any(teacher.role == "answer" for teacher in teachers):
        raise ValueError("expected at least one teacher that answers, got only judges; leave out one's `role: judge`")
    return tuple(sorted(teachers, key=lambda teacher: teacher.role == "judge"))


def with_rivals(recipe: "Recipe") -> tuple[Check, ...]:
    """The recipe's checks; judges that compare know whether they compare with a teacher's answer or with a column."""
    names = {teacher.name for teacher in recipe.teachers}
    found = []
    for check in recipe.checks:
        if (judge := check.judge) is not None and judge.against is not None and judge.rival is None:
            rival = "teacher" if judge.against in names else "column"
            check = check.model_copy(update={"judge": judge.model_copy(update={"rival": rival})})
        found.append(check)
    return tuple(found)


def judge_faults(recipe: "Recipe") -> dict[Place, str]:
    """Messages about wrong fields, by field."""
    found: dict[Place, str] = {}
    by_name = {teacher.name: teacher for teacher in recipe.teachers}
    asked = set()
    for number, check in enumerate(recipe.checks):
        if check.judge is None:
            continue
        asked.add(check.judge.teacher)
        for field, words in _check_faults(recipe, check.judge, by_name):
            found["checks", number, "judge", field] = words
    for number, teacher in enumerate(recipe.teachers):
        if teacher.role == "judge" and teacher.name not in asked:
            found["teachers", number, "role"] = (
                f"no check asks the judge {teacher.name}; add one, such as `checks: [judge: {{teacher: {teacher.name}, "
                'template: rubric.j2, accept_if: ">= 4"}]`, or leave it out'
            )
        if teacher.role == "judge" and teacher.mode == "batch-then-online":
            found["teachers", number, "mode"] = (
                "a judge is asked either in batches or online: use `mode: batch`, or leave it out"
            )
        if teacher.role == "judge" and teacher.mode == "batch" and teacher.stream is True:
            found["teachers", number, "stream"] = (
                "answers of a batch come in a file, never as a stream: leave out `stream`, or `mode: batch`"
            )
        if teacher.role == "judge" and teacher.ask.answer_schema is not None:
            found["teachers", number, "ask", "schema"] = "a judge is asked for the format of a verdict: leave it out"
    return found


def _check_faults(recipe: "Recipe", judge: JudgeCheck, by_name: dict[str, Teacher]) -> list[tuple[str, str]]:
    found = []
    teacher = by_name.get(judge.teacher)
    if teacher is None or teacher.role != "judge":
        judges = ", ".join(name for name, each in by_name.items() if each.role == "judge") or "none"
        found.append(
            ("teacher", f"expected the name of a teacher with `role: judge` ({judges}), got {judge.teacher!r}")
        )
    elif teacher.api != "simulator" and teacher.terms is None and judge.judging_allowed_because is None:
        found.append(
            (
                "judging_allowed_because",
                f"missing: the terms of {teacher.name} are not stated, or forbid training on its output, which is "
                "kept beside the answers. Give the judge's `terms`, or say here why it may judge; the card repeats "
                "it",
            )
        )
    if judge.accept_if is None and judge.against is None:
        found.append(("accept_if", 'missing: which scores are accepted, such as `">= 4"`'))
    rival = by_name.get(judge.against or "")
    if rival is not None and rival.role == "judge":
        found.append(
            ("against", (f"{rival.name} is a judge, so it has no answers to compare with; name another teacher"))
        )
    elif rival is not None and recipe.route != "each":
        found.append(("against", f"the answers of {rival.name} can be compared only under `route: each`; set that"))
    elif rival is not None and recipe.ask.accept is not None:
        found.append(
            ("against", f"with `ask.accept`, {rival.name} may not answer the same samples: use `ask.samples` instead")
        )
    return found
