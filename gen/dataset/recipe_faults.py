"""Reports where in the recipe a path, a column or a template is wrong, and suggests what may be meant."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stillhouse.gen.errors import ColumnMissing, SourceError, TemplateError
from stillhouse.gen.source.columns import instead, is_in, names_in
from stillhouse.gen.source.formats.row import Row
from stillhouse.gen.source.prompt_maker import PromptMaker
from stillhouse.gen.source.survey import Found, survey
from stillhouse.schemas.recipe import Recipe

_TEMPLATES = ("ask.template", "ask.system")


@contextmanager
def placed(recipe: Recipe) -> Iterator[None]:
    """Within this block, errors about a path, a column or a template begin with the recipe's file and line, if
    known."""
    try:
        yield
    except TemplateError as error:
        raise TemplateError(f"{recipe.where(error.field)}{error}", field=error.field) from None
    except ColumnMissing as error:
        maker = PromptMaker.of(recipe)
        field = maker.fields.get(error.column, "source")
        raise ColumnMissing(f"{recipe.where(field)}{_shown(field)}: {error}", column=error.column) from None
    except SourceError as error:
        if error.field is None:
            raise
        raise type(error)(f"{recipe.where(error.field)}{error}") from None


def surveyed(recipe: Recipe) -> Found:
    """The files of the recipe's source; see `survey`, whose errors begin with the recipe's file and line."""
    with placed(recipe):
        return survey(recipe.source)


def missing_columns(rows: Sequence[Row], maker: PromptMaker) -> dict[str, str]:
    """Columns that the recipe names and no row has, each with the columns that the rows do have."""
    read = [row.values for row in rows if row.values is not None]
    there = sorted({name for values in read for name in values})
    missing = [name for name in maker.fields if there and not any(is_in(values, name) for values in read)]
    likely = sorted({name for values in read for name in names_in(values)}) if missing else []
    return {name: instead(name, there, likely=likely) for name in missing}


def no_such_column(recipe: Recipe, rows: Sequence[Row], maker: PromptMaker, *, first: str) -> str | None:
    """The message for a column of `source` or `checks` that none of the first rows has; None if there is no such
    column.

    A template may work without a column, so its columns are not required. `first` is the url of the first file.
    """
    for name, others in missing_columns(rows, maker).items():
        field = maker.fields[name]
        if field not in _TEMPLATES:
            return (
                f"{recipe.where(field)}{_shown(field)}: none of the first {len(rows)} rows has the column {name!r} "
                f"(they begin in {first}){others}"
            )
    return None


def no_prompt(recipe: Recipe, rows: Sequence[Row], maker: PromptMaker, *, why: str, count: int, first: str) -> str:
    """The message if none of the first rows makes a prompt, `count` of them because of `why`."""
    field, others = why.partition(":")[0], ""
    if missing := missing_columns(rows, maker):
        name, others = next(iter(missing.items()))
        field = maker.fields[name]
    where = f"{recipe.where(field)}{field}: " if field in _TEMPLATES else ""
    why = why.removeprefix(f"{field}: ") if where else why
    return (
        f"{where}expected prompts, but none of the first {len(rows)} rows makes one, {count} of them because: "
        f"{why}{others}; the recipe or all of {first} is at fault, not a single row"
    )


def _shown(field: str) -> str:
    """The field as a message names it: all kept columns are `source.keep`."""
    return "source.keep" if field.startswith("source.keep.") else field
