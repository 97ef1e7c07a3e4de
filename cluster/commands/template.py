"""Recipes for common tasks, with what depends on the source filled in, such as the question and answer columns.

A template is a whole recipe in `templates/`, in which `$name` stands for a value. To add one, add a file there and its
name to `TASKS`.
"""

import re
from pathlib import Path
from string import Template
from typing import Literal, TypeAlias, get_args

from stillhouse.cluster.commands.starter_text import HEAD, Asked, scalar, teacher_lines
from stillhouse.gen.errors import UsageError
from stillhouse.gen.source.guess import Guess
from stillhouse.schemas.columns import MEANINGS
from stillhouse.schemas.source import Keep

Task: TypeAlias = Literal["judge", "rewrite", "evolve", "questions"]
TASKS: tuple[Task, ...] = get_args(Task)

_FOLDER = Path(__file__).parent / "templates"
_OF_RECORDS = {
    "question": "prompt | map(attribute='content') | join('\\n\\n')",
    "task": "prompt[-1].content",
    "answer": "completion[0].content",
    "text": "completion[0].content",
}
"""Columns of a Stillhouse dataset."""
_RECORD_COLUMNS = (
    "  id: record_id                         # its own id comes back as `prompt_id`\n"
    "  keep: [{name: prompt, as: source_prompt}, {name: completion, as: source_completion}]\n"
)


def template_text(task: Task, found: Guess, *, file: str, name: str, path: str, dataset: str, asked: Asked) -> str:
    """The task's recipe for a source with these columns; `file` is the recipe's name, quoted for a shell.

    Raises:
        UsageError: the source lacks what the task needs.
    """
    is_dataset = {"record_id", "prompt", "completion"} <= {*found.others, found.id, found.messages}
    expressions = _OF_RECORDS if is_dataset else _of_columns(task, found)
    return Template((_FOLDER / f"{task}.yaml").read_text(encoding="utf-8")).substitute(
        expressions,
        head=HEAD.format(file=file).rstrip(),
        name=scalar(name),
        path=scalar(path),
        columns=_RECORD_COLUMNS if is_dataset else _columns(found),
        teachers="\n".join(teacher_lines(asked)),
        dataset=scalar(dataset),
    )


def _of_columns(task: Task, found: Guess) -> dict[str, str]:
    """Columns of other files: the prompt column holds the question, the first column of known answers the answer."""
    text = f"{_value(found.messages)}[-1].content" if found.messages is not None else _value(found.prompt or "")
    answer = _value(found.keep[0].name) if found.keep else ""
    if task == "judge" and not answer:
        raise UsageError(
            "--template judge: expected a dataset's folder, or files with a column of answers, found none; if "
            "there is one, name it `answer`"
        )
    return {"question": text, "task": text, "answer": answer, "text": text}


def _columns(found: Guess) -> str:
    """The lines of `source` that copy the columns into the records."""
    asked = Keep(name=found.messages or found.prompt or "")
    kept = [_kept(keep) for keep in (asked, *found.keep)]
    own = f"  id: {scalar(found.id)}\n" if found.id is not None else ""
    return f"{own}  keep: [{', '.join(kept)}]\n"


def _kept(keep: Keep) -> str:
    """A name for the copied column that no column of a record has."""
    is_free = re.fullmatch(r"[A-Za-z]\w*", keep.name) and keep.name not in MEANINGS
    label = keep.name if is_free else f"source_{re.sub(r'[^A-Za-z0-9]', '_', keep.name)}"
    kind = f"type: {keep.type}, " if keep.type is not None else ""
    return f"{{name: {scalar(keep.name)}, {kind}as: {label}}}"


def _value(column: str) -> str:
    """The column as a template names it.

    Raises:
        UsageError: a template can't name it.
    """
    if not all(part.isidentifier() for part in column.split(".")):
        raise UsageError(
            f"--template: no template can name the column {column!r}: rename it, or choose another one with --prompt"
        )
    return column
