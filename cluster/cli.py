"""The command line. Words for people go to stderr, results to stdout; exit codes: 0 done, 1 failed, 2 wrong, 3 paused."""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import click
import orjson

from cluster.display import Display, Lines, Screen
from cluster.quickstart import RECIPE as QUICKSTART
from cluster.quickstart import quickstart_overrides
from gen.errors import StillhouseError
from gen.store import open_store
from gen.summary import Summary, summarise
from schemas import __version__
from schemas.recipe import Recipe
from schemas.recipe_file import RecipeError, read_recipe, recipe_json_schema

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _clean(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """End with one clear message and the right exit code where the user can do something about it."""

    @wraps(command)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return command(*args, **kwargs)
        except RecipeError as error:
            _die(str(error), 2)
        except StillhouseError as error:
            _die(str(error), error.exit_code)
        except KeyboardInterrupt:
            _die("stopped at once; the same command goes on", 3)
        except BrokenPipeError:
            os._exit(0)  # whoever read our output has enough

    return wrapped


def _die(message: str, code: int) -> "typing.NoReturn":
    click.echo(f"stillhouse: {message}", err=True)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="stillhouse")
def main() -> None:
    """Ask a teacher model a dataset's worth of prompts; lose no answer, pay none twice."""
    logging.getLogger("httpx").setLevel(logging.WARNING)


_recipe = click.argument("recipe")
_overrides = click.option(
    "-o", "--override", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field: -o dataset.path=out/x"
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document to stdout.")


def _read(recipe: str, overrides: tuple[str, ...]) -> Recipe:
    if recipe == "quickstart" and not Path(recipe).exists():
        return read_recipe(QUICKSTART, overrides=[*quickstart_overrides(), *overrides])
    return read_recipe(recipe, overrides=overrides)


@main.command()
@_recipe
@_overrides
@_json
@click.option("--address", metavar="A", help="A running Ray cluster: auto, or host:port. By default one is started here.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="A pilot: only the next N source rows.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@_clean
def run(
    recipe: str, overrides: tuple[str, ...], as_json: bool, address: str | None, limit: int | None, quiet: bool
) -> None:
    """Run RECIPE (a file, or `quickstart`); the same command again goes on where it ended."""
    from cluster.driver import Driver

    read = _read(recipe, overrides)
    with ExitStack() as stack:
        display = _display(read, stack, quiet=quiet)
        driver = Driver(read, address=address, limit=limit, display=display)
        try:
            summary = driver.run()
        except StillhouseError as error:
            if as_json:
                _print_failure(driver, error)
            raise
        finally:
            stack.close()
    _print_summary(summary, as_json=as_json)


def _display(recipe: Recipe, stack: ExitStack, *, quiet: bool) -> Display:
    if quiet:
        from cluster.display import Quiet

        return Quiet()
    if sys.stderr.isatty():
        return stack.enter_context(Screen(recipe))
    return Lines(recipe)
