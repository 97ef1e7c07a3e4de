"""Creates a first recipe: looks at the prompts, tries the recipe on the first rows, and only then writes it."""

import os
import re
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
from pydantic import ValidationError

from stillhouse.cluster.commands.starter_text import Asked, key_for, recipe_text, slug
from stillhouse.cluster.commands.template import Task, template_text
from stillhouse.gen.errors import DatasetError, SourceError, UsageError
from stillhouse.gen.inert import inert
from stillhouse.gen.source.guess import Guess, guess
from stillhouse.gen.views.preview import Preview, preview
from stillhouse.schemas.licences import hosts_of, known_terms
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.recipe_file import RecipeError, load_recipe
from stillhouse.schemas.source import Source

_TRIED_ROWS = 300
_SHOWN = 100
"""Maximum number of characters shown of what can't be a path."""

_FLAGS = {
    "source.path": "PROMPTS",
    "teachers.0.base_url": "--url",
    "teachers.0.model": "--model",
    "teachers.0.api_key": "--api-key",
    "teachers.0.terms": "--training-use",
    "dataset.path": "--dataset",
}
"""The option that sets each field of the recipe, for messages."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The teacher's terms as the user stated them."""

    training_use: str | None
    license: str | None
    authorisation: str | None

    def given(self) -> dict[str, str]:
        """The fields of `terms` that the user stated."""
        fields = {"training_use": self.training_use, "license": self.license, "authorisation": self.authorisation}
        return {name: value for name, value in fields.items() if value is not None}


def whom(*, url: str | None, model: str | None, api: str | None, api_key: str | None, terms: Terms) -> Asked:
    """The teacher that the flags describe.

    Raises:
        UsageError: a flag is missing, or flags contradict each other.
    """
    if url is None:
        flags = {
            "--model": model,
            "--api-key": api_key,
            "--training-use": terms.training_use,
            "--license": terms.license,
        }
        flags["--api openai-chat"] = api if api != "simulator" else None
        if given := [flag for flag, value in flags.items() if value is not None]:
            raise UsageError(f"{given[0]} needs --url, the teacher's base URL such as http://vllm-0:8000/v1")
        return Asked(None, "simulator", None, {})
    if api == "simulator":
        raise UsageError("--api simulator starts its own server: leave out --url")
    if not model:
        raise UsageError(
            f"--model is missing: give the model's name on the server; `curl {url.rstrip('/')}/models` lists them"
        )
    known = known_terms(model, hosts=hosts_of([url]))
    if known is not None and known.prohibits and terms.training_use != "by-authorisation":
        raise UsageError(
            f"--url: training on its answers is prohibited by the {known.license} ({known.says}): use another teacher "
            "or, with a written permission, give `--training-use by-authorisation --authorisation REFERENCE`, which is "
            "recorded in every shard"
        )
    if terms.training_use is None and known is None:
        raise UsageError(
            f"--training-use is missing: the terms of {model} are unknown. Read whether a model may be trained on "
            "its answers, and give `--training-use permitted --license NAME` or whatever applies"
        )
    return Asked(url, model, api_key or key_for(url), terms.given())


def write_recipe(
    prompts: str,
    asked: Asked,
    *,
    out: str,
    dataset: str | None,
    prompt: str | None,
    messages: str | None,
    task: Task | None = None,
) -> str:
    """Try the recipe on the first rows as `plan` would, then write it; returns a summary for people.

    Raises:
        UsageError: the file exists, a flag is wrong, or no column is clearly the prompt; see also `preview`.
    """
    if not out:
        raise UsageError("--out: expected the path of a file, got ''")
    if out != "-" and os.path.lexists(out):
        raise UsageError(f"{out} exists and is not overwritten; give another --out FILE, or remove it")
    if prompt is not None and messages is not None:
        raise UsageError("expected --prompt or --messages, got both")
    try:
        source = Source(path=prompts)
    except ValidationError:
        raise UsageError(f"PROMPTS: expected a path or an s3:// URL, got {prompts[:_SHOWN]!r}") from None
    try:
        found = guess(source, prompt=prompt, messages=messages)
    except SourceError as error:
        raise SourceError(str(error).replace("source.path", "PROMPTS")) from None
    name = "-".join(filter(None, (_name_of(prompts), task)))
    make = recipe_text if task is None else partial(template_text, task)
    text = make(
        file=shlex.quote("recipe.yaml" if out == "-" else out),
        name=name,
        path=prompts,
        dataset=dataset or f"out/{name}",
        found=found,
        asked=asked,
    )
    recipe = _read(text, origin=out)
    try:
        shown = preview(recipe, limit=_TRIED_ROWS)
    except DatasetError as error:
        raise DatasetError(f"{error}: --dataset PATH") from None
    _write(text, out)
    return _summary(shown, recipe, found, out)


def _name_of(prompts: str) -> str:
    """A dataset's name, from the last part of the path that is not a wildcard."""
    parts = [part.partition(".")[0] for part in reversed(prompts.split("/"))]
    return next((name for part in parts if "*" not in part and (name := slug(part))), "dataset")


def _read(text: str, *, origin: str) -> Recipe:
    """The recipe; errors in it come from the flags, so messages name the flags in place of lines."""
    try:
        return load_recipe(text, origin=origin)
    except RecipeError as error:
        raise UsageError("\n".join(_by_flag(line.removeprefix(origin)) for line in str(error).splitlines())) from None


def _by_flag(message: str) -> str:
    place = re.match(r":\d+: ([\w.]+): ", message)
    if place is None:
        return message
    return f"{_FLAGS.get(place[1], place[1])}: {message[place.end() :]}"


def _write(text: str, out: str) -> None:
    if out == "-":
        click.echo(text, nl=False)
        return
    try:
        with Path(out).open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{out}: can't be written ({error.strerror}); give another --out FILE") from None


def _summary(shown: Preview, recipe: Recipe, found: Guess, out: str) -> str:
    column = found.prompt or found.messages or ""
    teacher = recipe.teachers[0]
    simulator = "the built-in simulator; --url and --model set a real one"
    tried = f"rows tried: {shown.prompts:,} ({shown.bad:,} bad)"
    lines = [
        f"column   {inert(column)} of {inert(recipe.source.paths[0])}; {tried}",
        *(f"  bad: {inert(row)}" for row in shown.bad_rows),
        f"teacher  {f'{teacher.model_name} at {teacher.base_url}' if teacher.base_url else simulator}",
        *(f"warning: {inert(warning)}" for warning in shown.warnings),
    ]
    if out != "-":
        file = shlex.quote(out)
        lines += [f"wrote {out}; next:", f"  stillhouse plan {file}", f"  stillhouse run {file} --limit 20"]
    return "\n".join(lines)
