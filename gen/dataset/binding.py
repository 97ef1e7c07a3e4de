"""A dataset is bound to one identity: what decides what its records are.

`_stillhouse/recipe.yaml` holds the identity, the schema version whose columns the dataset keeps for good, and the
number of samples wanted per prompt (or accepted answers, and their maximum number), which is the only part that may
grow.
"""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import yaml

from stillhouse.gen.dataset.damage import damaged, missing, newer
from stillhouse.gen.dataset.layout import JOURNAL_PREFIX, RECIPE_KEY, plan_key, sealed_chunks
from stillhouse.gen.errors import DatasetError, OtherRecipe
from stillhouse.gen.store.base import Store
from stillhouse.gen.store.readable import ReadableStore
from stillhouse.schemas.arrow import Columns, columns_of
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.dataset import MESSAGES
from stillhouse.schemas.identity import grown_from, reduced
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.version import SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class Binding:
    """The identity that a dataset is bound to."""

    version: int
    """The schema version whose columns it has."""
    name: str
    identity: dict[str, Any]
    """The identity without values that equal their defaults; see `schemas.identity`."""
    samples: int
    """The maximum number of answers asked for each prompt, as of the last run."""
    first_samples: int
    """Samples per prompt at the first run: plans of schema version 1 mean this number, but do not contain it."""
    accept: int = 0
    """Accepted answers wanted for each prompt, as of the last run; 0 if all samples are asked."""
    journals: str = ""
    """A random name for its journals on the nodes' disks; binding it again replaces the name. So what another dataset
    with the same URL left there is never taken for this one's answers. Datasets from before there were such names have
    none, or the number of times that they were bound again."""

    @property
    def columns(self) -> Columns:
        """The dataset's columns, without kept ones."""
        return columns_of(self.version, self.identity)

    @property
    def wanted(self) -> dict[str, int]:
        """How many answers are wanted for each prompt, by the names of the recipe's fields."""
        return {"accept": self.accept, "at_most": self.samples} if self.accept else {"samples": self.samples}

    def encoded(self) -> bytes:
        """The document stored as recipe.yaml."""
        document = {
            "stillhouse": self.version,
            "name": self.name,
            "samples": self.samples,
            "first_samples": self.first_samples,
            **({"accept": self.accept} if self.accept else {}),
            "identity": self.identity,
        }
        if self.journals:
            document["journals"] = self.journals
        # ASCII only: PyYAML writes some Unicode line breaks in a way that it reads differently.
        return yaml.safe_dump(document, sort_keys=False).encode()


Begun: TypeAlias = Callable[[], str | None]
"""Why a planned dataset can't take another recipe; None if it can. See `gen.journal.begun`."""


def is_planned() -> str | None:
    """Treat a dataset with plans as begun; for callers that look no further."""
    return "its prompts are planned"


def bind(store: Store, recipe: Recipe, *, begun: Begun = is_planned) -> Recipe:
    """Bind a new dataset to the recipe's identity, or check that it is bound to it.

    A dataset that has not `begun` is bound again, and its plans are removed. Its old recipe applies until they are
    gone.

    Returns:
        The recipe, completed with the settings that it leaves to the dataset.

    Raises:
        DatasetError: see `binding_for`.
    """
    bound = binding_for(store, recipe, begun=begun)
    if bound is None and store.stat(plan_key(0)) is not None and (before := read_binding(store)) is not None:
        unplan(store, before)
    resolved = resolved_by(recipe, bound)
    wanted = Binding(
        version=bound.version if bound else SCHEMA_VERSION,
        name=bound.name if bound else recipe.name,
        identity=resolved.identity(),
        samples=recipe.ask.most_samples,
        first_samples=bound.first_samples if bound else recipe.ask.most_samples,
        accept=recipe.ask.accept or 0,
        journals=bound.journals if bound else _new_name(),
    )
    if bound is None:
        if not store.put_new(RECIPE_KEY, wanted.encoded()) and binding_for(store, recipe, begun=begun) is None:
            store.put(RECIPE_KEY, wanted.encoded())
    elif bound != wanted:
        store.put(RECIPE_KEY, wanted.encoded())
    return resolved


def unplan(store: Store, bound: Binding) -> None:
    """Remove everything that runs left in a dataset that has not begun, except its recipe.

    May be interrupted at any point: what is left is the dataset of the old recipe.
    """
    # First: journals on the nodes' disks stay, and belong to the plans that go.
    store.put(RECIPE_KEY, replace(bound, journals=_new_name()).encoded())
    for prefix in (JOURNAL_PREFIX, "failed/", "rejected/", "_stillhouse/raw/", "_stillhouse/index-"):
        for stat in list(store.list(prefix)):
            store.delete(stat.key)
    # a plan without the ones before it would count as damage
    for stat in reversed(list(store.list("_stillhouse/plan-"))):
        store.delete(stat.key)


def _new_name() -> str:
    return secrets.token_hex(8)


def resolved_by(recipe: Recipe, bound: Binding | None) -> Recipe:
    """The recipe, with settings that it leaves open taken from its dataset; unchanged for a new dataset."""
    own = bound.identity if bound else recipe.identity()
    settled = {
        "prompts_per_shard": own["prompts_per_shard"],
        "messages": own.get("messages", MESSAGES),
        "provider_details": own.get("provider_details", False),
    }
    left_open = {name: value for name, value in settled.items() if getattr(recipe.dataset, name) is None}
    return recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update=left_open)})


def binding_for(store: ReadableStore, recipe: Recipe, *, begun: Begun = is_planned) -> Binding | None:
    """The dataset's binding, checked against the recipe; None if the recipe may bind it (again). Writes nothing.

    Raises:
        DatasetError: it has `begun` and is bound to another identity, or wants fewer or a different kind of samples;
            or its recipe.yaml is damaged, or missing although there are shards.
    """
    bound = read_binding(store)
    if bound is None:
        if next(iter(sealed_chunks(store)), None) is not None:
            raise missing(store.url, RECIPE_KEY, beside="shards")
        return None
    identity = resolved_by(recipe, bound).identity()
    different = [] if grown_from(identity, bound.identity) else sorted(_differences(bound.identity, identity))
    less = "" if different else _less_wanted(store, bound, recipe.ask)
    if not different and not less:
        return bound
    if store.stat(plan_key(0)) is None and next(iter(sealed_chunks(store)), None) is None:
        return None  # an earlier run with a mistake in its recipe stopped right after writing this file
    if (why := begun()) is None:
        return None
    if different:
        added = " (teachers may be added at the end of the chain)" if bound.identity.get("route") == "fallback" else ""
        raise OtherRecipe(
            f"{store.url}: was created with a different recipe, and {why}; they differ in {', '.join(different)}. "
            f"Use another dataset.path, or the recipe it was created with{added}"
        )
    raise DatasetError(f"{store.url}: {less}")


def read_binding(store: ReadableStore) -> Binding | None:
    """The dataset's binding; None if it is not bound yet.

    Raises:
        DatasetError: the file is damaged or from a newer version.
    """
    stored = store.get(RECIPE_KEY)
    return None if stored is None else parse_binding(stored, origin=f"{store.url}/{RECIPE_KEY}")


def parse_binding(stored: bytes, *, origin: str) -> Binding:
    """Parse a recipe.yaml.

    Raises:
        DatasetError: the file is damaged or from a newer version.
    """
    try:
        document = yaml.safe_load(stored)
        version, identity = document["stillhouse"], document["identity"]
        is_newer = version > SCHEMA_VERSION
        if not is_newer:
            # Version 1 keeps `samples` in the identity, where nothing can grow.
            samples = document["samples"] if "samples" in document else identity["ask"]["samples"]
            first, name = document.get("first_samples", samples), str(document.get("name", ""))
            accept, journals = document.get("accept", 0), str(document.get("journals") or document.get("changes") or "")
            _check_counts(version, samples, first, identity["prompts_per_shard"], accept + 1)
            bound = Binding(version, name, reduced(identity), samples, first, accept, journals)
    except (yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError, RecursionError):
        raise damaged(origin) from None
    if is_newer:
        raise newer(origin)
    return bound


def _check_counts(*values: Any) -> None:
    if not all(type(value) is int and value >= 1 for value in values):
        raise ValueError("expected whole numbers of at least 1")


def _less_wanted(store: ReadableStore, bound: Binding, ask: Ask) -> str:
    """Why a dataset can't change to these numbers of samples; empty if it can."""
    if (ask.accept is None) != (bound.accept == 0):
        ways = ("ask.samples", "ask.accept with ask.at_most")
        was, now = ways if ask.accept is not None else reversed(ways)
        return (
            f"was created with {was}, got {now}, and a dataset can't change from one to the other. Use another "
            f"dataset.path, or {was}"
        )
    most = "ask.samples" if ask.accept is None else "ask.at_most"
    for field, got, had in ((most, ask.most_samples, bound.samples), ("ask.accept", ask.accept or 0, bound.accept)):
        if got < had:
            fewest = _most_planned(store, bound, accept=field == "ask.accept")
            if got < fewest:
                return (
                    f"{field}: expected at least {fewest}, the answers per prompt already planned or stored, got "
                    f"{got}; it may only grow. Use another dataset.path for fewer"
                )
    return ""


def _most_planned(store: ReadableStore, bound: Binding, *, accept: bool) -> int:
    """The most that any plan wants: a run that wanted more may have failed before it planned that."""
    from stillhouse.gen.dataset.plans import read_plans  # `plans` reads the binding, too

    wanted = [plan.accept if accept else plan.samples for plan in read_plans(store)]
    return max(wanted, default=bound.accept if accept else bound.samples)


def _differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of the leaves in which two identities differ."""
    if ours != theirs and (isinstance(ours, dict) or isinstance(theirs, dict)):
        # One of them may leave a whole section at its defaults.
        ours, theirs = (each if isinstance(each, dict) else {} for each in (ours, theirs))
        for name in ours.keys() | theirs.keys():
            yield from _differences(ours.get(name), theirs.get(name), f"{path}.{name}".lstrip("."))
    elif ours != theirs and (names := _names(ours)) is not None and names == _names(theirs):
        for name, our, their in zip(names, ours, theirs, strict=True):
            yield from _differences(our, their, f"{path}.{name}")
    elif ours != theirs:
        yield path


def _names(values: Any) -> list[Any] | None:
    """Names of the objects in a list, such as teachers; None if it is not such a list."""
    if not isinstance(values, list) or not all(isinstance(value, dict) and value.get("name") for value in values):
        return None
    return [value["name"] for value in values]
