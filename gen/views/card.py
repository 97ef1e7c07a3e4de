"""The dataset card: `README.md` in the form of the Hugging Face Hub, true of what is sealed when it is written.

The part between two marks is Stillhouse's and is rewritten each time, like `configs` and `size_categories` of its head.
Everything else that a user writes there stays.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from stillhouse.gen.dataset.budget_words import used_words
from stillhouse.gen.dataset.reader import DatasetReader
from stillhouse.gen.inert import inert
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.gen.views.provenance import Survey, survey
from stillhouse.gen.views.summary import Summary
from stillhouse.schemas import __version__
from stillhouse.schemas.arrow import Columns
from stillhouse.schemas.columns import MEANINGS
from stillhouse.schemas.recipe import Recipe

BEGIN, END = "<!-- stillhouse: begin; what stands between these marks is written anew -->", "<!-- stillhouse: end -->"
_HEAD = re.compile(r"---\n(.*?\n)---\n(.*)", re.DOTALL)
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
_ACTIVE = re.compile(r"([\\`*_{}\[\]<>#|!~&])")
_URL = re.compile(r"https?://[A-Za-z0-9._~:/?#@!$&'*+,;=%-]+")


def card_of(store: ReadableStore, recipe: Recipe | None = None, *, stored: str = "") -> str:
    """The card of the dataset at the store's root, with what a user wrote into the `stored` one.

    `recipe`: that of the run in progress.

    Raises:
        DatasetError: there is no dataset, or it is damaged.
    """
    dataset = DatasetReader(store)
    surveyed = survey(dataset)
    if recipe is not None:
        surveyed.provenance.add_recipe(recipe)
    return render(surveyed, kept=dataset.kept, stored=stored)


def render(surveyed: Survey, *, kept: Sequence[pa.Field], stored: str = "") -> str:
    """The card, with what a user wrote into the `stored` one."""
    theirs, body = _split(stored)
    before, after = _around(body)
    head = yaml.safe_dump(_head(surveyed) | theirs | _counted(surveyed), sort_keys=False, allow_unicode=True)
    parts = [f"---\n{head}---", before.strip(), f"{BEGIN}\n{_block(surveyed, kept)}\n{END}", after.strip()]
    return "\n\n".join(filter(None, parts)) + "\n"


def _around(body: str) -> tuple[str, str]:
    """What a user wrote before and after our part; all of the text if its marks are no longer a pair."""
    before, _, rest = body.partition(BEGIN)
    _, end, after = rest.partition(END)
    if end and BEGIN not in rest and END not in before + after:
        return before, after
    return body.replace(BEGIN, "").replace(END, ""), ""


def _split(stored: str) -> tuple[dict[str, Any], str]:
    """A card's head and body; a head that can't be parsed counts as text."""
    if found := _HEAD.match(stored):
        with suppress(yaml.YAMLError, ValueError, TypeError, RecursionError):
            head = yaml.safe_load(found[1])
            if isinstance(head, dict):
                return head, found[2]
    return {}, stored


def _head(surveyed: Survey) -> dict[str, Any]:
    """Fields that a user may change. The licence of the whole is the user's choice: prompts and teachers have their
    own.
    """
    return {
        "pretty_name": inert(surveyed.provenance.name),
        "license": "other",
        "license_name": "terms-of-the-prompts-and-teachers",
        "task_categories": ["text-generation"],
        "tags": ["stillhouse", "distillation", "synthetic"],
    }


def _counted(surveyed: Survey) -> dict[str, Any]:
    data = [{"split": "train", "path": "data/*.parquet"}]
    return {
        "size_categories": [size_category(surveyed.summary.records)],
        "configs": [{"config_name": "default", "default": True, "data_files": data}],
    }


def size_category(rows: int) -> str:
    """The Hub's size category for this many rows."""
    bound = 1000
    for place, name in enumerate(_SIZES):
        if rows < bound:
            return f"{_SIZES[place - 1]}<n<{name}" if place else f"n<{name}"
        bound *= 10
    return f"n>{_SIZES[-1]}"


def _block(surveyed: Survey, kept: Sequence[pa.Field]) -> str:
    loader = PackageLoader("stillhouse.gen.views", ".")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True)  # noqa: S701 - not HTML
    environment.filters |= {"md": markdown, "link": _link, "number": lambda count: f"{count:,}"}
    # ASCII only, so that nothing in it hides or reorders text; and no text can end the fence or the marks.
    recipe = yaml.safe_dump(surveyed.provenance.identity, sort_keys=False)
    return (
        environment.get_template("card.md.j2")
        .render(
            summary=surveyed.summary,
            asked=(surveyed.summary.prompts or 0) - (surveyed.summary.duplicates or 0) - (surveyed.summary.bad or 0),
            provenance=surveyed.provenance,
            shards=surveyed.shards,
            columns=[
                *_columns(surveyed.provenance.columns),
                *((field.name, str(field.type), "Kept from the source.") for field in kept),
            ],
            money=[(words, usd) for words, usd in _money(surveyed.summary) if usd],
            budget=[("budget used", used_words(uses))] if (uses := surveyed.summary.budget) else [],
            recipe=recipe.replace("<!--", "<\\!--"),
            fence="`" * max(3, 1 + max(map(len, re.findall("`+", recipe)), default=0)),
            version=__version__,
            now=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        )
        .strip()
    )


def _money(summary: Summary) -> Iterator[tuple[str, float | None]]:
    """(purpose, USD)."""
    yield "cost of the answers", summary.usd
    yield "cost of judging them", summary.checks_usd
    yield "cost of unusable replies", summary.wasted_usd
    yield "upper bound on the cost of attempts that may have been billed", summary.maybe_usd


def _columns(columns: Columns) -> Iterator[tuple[str, str, str]]:
    """(name, type, meaning) of a record's own columns."""
    for field in columns.data:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        yield field.name, str(kind), MEANINGS[field.name]


def markdown(text: object) -> str:
    """Foreign text on one line of Markdown, with all markup disabled; also for tables."""
    return _ACTIVE.sub(r"\\\1", inert(str(text)))


def _link(text: str) -> str:
    return f"<{text}>" if _URL.fullmatch(text) else markdown(text)
