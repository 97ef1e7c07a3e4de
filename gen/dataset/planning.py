"""Decides when the next generation can be planned, and what a run waits for until then."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, assert_never

from stillhouse.gen.dataset.binding import Begun, is_planned, read_binding, unplan
from stillhouse.gen.dataset.generations import Generation
from stillhouse.gen.dataset.layout import plan_key
from stillhouse.gen.dataset.plans import Plan, SourcePlan
from stillhouse.gen.dataset.source_planning import is_source_replaced
from stillhouse.gen.errors import SourceError
from stillhouse.gen.store.base import Store
from stillhouse.schemas.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be planned until all open generations are fully indexed, or fully sealed, or files arrive."""

    until: Literal["indexed", "sealed", "files"]


Step: TypeAlias = Plan | Wait | None
"""A plan just stored; what to wait for; or None if nothing more will be planned."""


class Planner(Protocol):
    """Plans a run's generations step by step, while workers are busy with open generations."""

    generations: list[Generation]
    """All generations as of the last step."""

    def step(self) -> Step:
        """Plan whatever can be planned now.

        Raises:
            StillhouseError: the source or the dataset is wrong; see the classes.
        """
        ...


class Planning:
    """A run's planner between its steps: what it waits for, and what the run's queue does not know yet."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._waits_for: Wait | None = None
        self._fresh: Plan | None = None
        """What the last step planned."""
        self.advance()

    @property
    def known(self) -> int:
        """Generations planned so far."""
        return len(self._planner.generations) + (self._fresh is not None)

    @property
    def opened(self) -> list[int]:
        """The generations that are not sealed, as of the last step."""
        plans = [each.plan for each in self._planner.generations if not each.is_sealed]
        return [plan.generation for plan in (*plans, self._fresh) if plan is not None]

    @property
    def is_over(self) -> bool:
        """True if nothing more will be planned."""
        return self._waits_for is None

    def advance(self) -> None:
        """Plan what can be planned now; raises what `Planner.step` does."""
        step = self._planner.step()
        # First let the plan be indexed, so that workers get it as soon as possible.
        self._fresh, self._waits_for = (step, Wait("indexed")) if isinstance(step, Plan) else (None, step)

    def due(
        self, *, known: int, last: bool, indexed: bool, sealed: bool, arrived: bool = False
    ) -> Literal["tell", "advance"] | None:
        """What to do now, by what the queue knows and how far its generations are; None: wait.

        `arrived`: there are unplanned files, in a run that follows its source.
        """
        if known < self.known or self._waits_for is None:
            return "tell" if (known, last) != (self.known, self.is_over) else None
        if not indexed:
            return None
        match self._waits_for.until:
            case "indexed":
                return "advance"
            case "sealed":
                return "advance" if sealed or arrived else None
            case "files":
                return "advance" if arrived else None
            case _:
                assert_never(self._waits_for.until)


def first_planning(store: Store, recipe: Recipe, make: Callable[[], Planner], *, begun: Begun = is_planned) -> Planning:
    """Plan what can be planned now, with a planner that `make` returns.

    If the source is no longer what an earlier run planned, and the dataset has not `begun`, its plans are removed.

    Raises:
        StillhouseError: see `Planner.step`.
    """
    try:
        planner = make()
        planning = Planning(planner)
        if not _is_stuck(recipe, planner.generations, begun):
            return planning
    except SourceError:
        if store.stat(plan_key(0)) is None or begun() is not None:
            raise
    if (bound := read_binding(store)) is not None:
        unplan(store, bound)
    return Planning(make())


def _is_stuck(recipe: Recipe, generations: Sequence[Generation], begun: Begun) -> bool:
    """True if the rest of an index needs a file that is no longer what was planned, though nothing was asked yet."""
    unread = [each for each in generations if isinstance(each.plan, SourcePlan) and not each.is_indexed]
    return bool(unread) and is_source_replaced(recipe, unread, begun=begun)
