"""Shared by the commands: exit codes, and the arguments and options that several of them take."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import click

from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import StillhouseError, UsageError
from stillhouse.gen.store import open_store
from stillhouse.gen.store.base import Store
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.recipe_file import RecipeError, read_recipe

QUICKSTART = Path(__file__).parents[1] / "quickstart"

_P = ParamSpec("_P")
_R = TypeVar("_R")


def clean(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turn an error that the user can act on into one clear message and the right exit code."""

    @wraps(command)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return command(*args, **kwargs)
        except RecipeError as error:
            die(str(error), 2)
        except StillhouseError as error:
            die("\n".join([str(error), *getattr(error, "__notes__", ())]), error.exit_code)
        except KeyboardInterrupt:
            die("stopped at once; the same command resumes", 3)
        except BrokenPipeError:
            os._exit(0)  # whoever reads our output has closed it

    return wrapped


def with_keep_going(overrides: tuple[str, ...], *, keep_going: bool) -> tuple[str, ...]:
    """The overrides, including those that --keep-going implies."""
    return (*overrides, "run.keep_going=true") if keep_going else overrides


def check_modes(*, finish: bool, limit: int | None, follow: str | None) -> None:
    """Reject options that contradict each other; `follow`: the option that follows the source, if given."""
    if finish and limit is not None:
        raise UsageError("expected --finish or --limit, got both: --finish asks nothing, --limit asks the next rows")
    if follow is not None and (finish or limit is not None):
        other = "--finish" if finish else "--limit"
        why = "--finish asks nothing" if finish else "--limit ends after that many rows"
        raise UsageError(f"expected {follow} or {other}, got both: {why}, {follow} asks whatever appears")


def die(message: str, code: int) -> NoReturn:
    """Print the reason on stderr, and exit."""
    click.echo(f"stillhouse: {message}", err=True)
    sys.exit(code)


recipe_argument = click.argument("recipe")
override_option = click.option(
    "-o",
    "--override",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help=("Override a field, such as -o dataset.path=out/x."),
)
keep_going_option = click.option(
    "--keep-going",
    is_flag=True,
    help="Continue even if a check rejected all of its first 500 answers, or if batches created with another key or "
    "URL can't be found; their answers are then paid for again.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document to stdout.")


def _not_empty(_context: click.Context, _parameter: click.Parameter, address: str | None) -> str | None:
    """An unset shell variable is not a request for a local Ray."""
    if address == "":
        raise click.BadParameter(
            "expected a cluster's address, got an empty one; leave the option out to start a Ray here"
        )
    return address


address_option = click.option(
    "--address",
    callback=_not_empty,
    metavar="A",
    help="A running Ray cluster: auto, or host:port. By default one is started locally.",
)
finish_option = click.option(
    "--finish",
    "only_finish",
    is_flag=True,
    help=(
        "Send no more requests: seal what is there, and record what was not asked as Failures of the kind `stopped`."
    ),
)
FOLLOW_HELP = "Also ask the rows of files that are added to the source, until the run is stopped."
limit_option = click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="A pilot: only the next N source rows."
)
quiet_option = click.option("--quiet", is_flag=True, help="Print only problems on stderr, not progress.")


def read(recipe: str, overrides: tuple[str, ...]) -> Recipe:
    """Read the recipe in a file, or `quickstart`."""
    if recipe == "quickstart" and not Path(recipe).exists():
        prompts = QUICKSTART / "prompts.jsonl"
        here = [f"source.path={prompts}", f"teachers.0.simulator.answers={prompts}"]
        return read_recipe(QUICKSTART / "recipe.yaml", overrides=[*here, *overrides])
    return read_recipe(recipe, overrides=overrides)


_store_options = [
    click.option(
        "--endpoint-url",
        metavar="URL",
        help=("Endpoint of an S3-compatible store; by default from the standard AWS settings."),
    ),
    click.option("--region", metavar="NAME", help="The store's region."),
    click.option("--path-style/--virtual-style", default=None, help="How buckets are addressed."),
]


@dataclass(frozen=True, slots=True)
class Given:
    """A dataset as the command line names it: by its path, or by a recipe that writes it."""

    text: str
    overrides: tuple[str, ...]
    """Overrides of the recipe's fields."""
    store: Mapping[str, str | bool]
    """Options of the dataset's store; they take precedence over the recipe's."""

    def recipe(self) -> Recipe | None:
        """The recipe, if one is given.

        Raises:
            RecipeError: it can't be read.
        """
        path = Path(self.text)
        is_named_so = path.suffix in (".yaml", ".yml") and "://" not in self.text
        try:
            is_recipe = path.is_file() or (not path.exists() and (is_named_so or self.text == "quickstart"))
        except (OSError, ValueError):  # such as a name that is too long, which the store reports
            return None
        if is_recipe:
            recipe = read(self.text, self.overrides)
            return recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update=dict(self.store))})
        return None

    def open(self) -> Store:
        """The dataset's store.

        Raises:
            UsageError: there are overrides but no recipe to apply them to.
        """
        recipe = self.recipe()
        if recipe is not None:
            return open_dataset(recipe)
        if self.overrides:
            raise UsageError(
                f"-o {self.overrides[0]}: expected a recipe to override, got the dataset {self.text}; give the "
                "recipe's file instead"
            )
        return self.open_path()

    def open_path(self) -> Store:
        """The store at the path."""
        return open_store(self.text, **self.store)  # type: ignore[arg-type]


def dataset_argument(command: Callable[..., _R]) -> Callable[..., _R]:
    """Add DATASET, the options of its store and the recipe's overrides; the command receives them as `given`."""

    @wraps(command)
    def wrapped(
        *,
        dataset: str,
        endpoint_url: str | None,
        region: str | None,
        path_style: bool | None,
        overrides: tuple[str, ...] = (),
        **others: Any,
    ) -> _R:
        store = {"endpoint_url": endpoint_url, "region": region, "path_style": path_style}
        given = {name: value for name, value in store.items() if value is not None}
        return command(given=Given(dataset, overrides, given), **others)

    decorated: Callable[..., _R] = wrapped
    for option in reversed(_store_options):
        decorated = option(decorated)
    return click.argument("dataset", metavar="DATASET|RECIPE")(decorated)
