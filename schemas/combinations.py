"""Which features of a recipe go together: all do, except the pairs in `REFUSED`.

To add a feature: add a line to `FEATURES`, a sentence to `REFUSED` for each feature that it can't go with, and an
example to `tests/unit/test_combinations.py`, which tries every pair.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from stillhouse.schemas.base import Place
from stillhouse.schemas.checks import whole_chunks
from stillhouse.schemas.identity import asks_with_tools

if TYPE_CHECKING:
    from stillhouse.schemas.recipe import Recipe


def _weight(recipe: "Recipe") -> Place | None:
    weighted = [number for number, each in enumerate(recipe.answering) if each.weight != 1]
    return ("teachers", weighted[0], "weight") if weighted else None


def _per_chunk(recipe: "Recipe") -> Place | None:
    return ("checks", len(recipe.checks) - 1, "function", "per") if whole_chunks(recipe.checks) else None


def _checks(recipe: "Recipe") -> Place | None:
    by_itself = (each.judge is None and not whole_chunks([each]) for each in recipe.checks)
    return ("checks",) if any(by_itself) else None


def _judge(recipe: "Recipe") -> Place | None:
    judged = [number for number, each in enumerate(recipe.checks) if each.judge is not None]
    return ("checks", judged[0], "judge") if judged else None


def _stream(recipe: "Recipe") -> Place | None:
    streamed = [number for number, each in enumerate(recipe.teachers) if each.stream is True]
    return ("teachers", streamed[0], "stream") if streamed else None


def _batch(recipe: "Recipe") -> Place | None:
    batched = [number for number, each in enumerate(recipe.answering) if each.mode != "online"]
    return ("teachers", batched[0], "mode") if batched else None


def _tools(recipe: "Recipe") -> Place | None:
    if recipe.ask.tools is not None or recipe.source.tools is not None:
        return ("ask", "tools") if recipe.source.tools is None else ("source", "tools")
    offered = {"ask": {"extra": recipe.ask.extra}, "teachers": [{"extra": each.extra} for each in recipe.answering]}
    return ("ask", "extra") if asks_with_tools(offered) else None


FEATURES: Mapping[str, Callable[["Recipe"], Place | None]] = {
    "each": lambda recipe: ("route",) if recipe.route == "each" else None,
    "fallback": lambda recipe: ("route",) if recipe.route == "fallback" else None,
    "weight": _weight,
    "accept": lambda recipe: ("ask", "accept") if recipe.ask.accept is not None else None,
    "checks": _checks,
    "per_chunk": _per_chunk,
    "judge": _judge,
    "majority": lambda recipe: ("select", "majority") if recipe.equality is not None else None,
    "stream": _stream,
    "tools": _tools,
    "schema": lambda recipe: ("ask", "schema") if recipe.asked_schema is not None else None,
    "batch": _batch,
    "budget": lambda recipe: ("budget",) if recipe.budget is not None else None,
    "images": lambda recipe: ("source", "images") if recipe.source.images else None,
    "score": lambda recipe: ("ask", "score") if recipe.ask.score is not None else None,
}
"""Features by name: each returns the field with which a recipe uses it, or None if it does not use it."""

_NO_ANSWER = (
    ("accept", "and there is nothing to accept"),
    ("checks", "and there is nothing to check"),
    ("per_chunk", "and there is nothing to check"),
    ("judge", "and there is nothing to judge"),
    ("majority", "and nothing to vote on"),
    ("stream", "and comes whole"),
    ("tools", "and calls no tools"),
    ("schema", "and has no form"),
    ("images", "and is of token ids alone"),
    ("batch", "and no batch API gives one"),
)

REFUSED: Mapping[tuple[str, str], str] = {
    ("per_chunk", "accept"): "with `ask.accept` each answer is judged at once, because that decides what is asked "
    "next: leave out `per: chunk`, or use `samples` instead of `accept`",
    ("per_chunk", "judge"): "a judge's verdict is not there yet when a chunk is judged as a whole: leave out `per: "
    "chunk`, or judge the finished dataset in a recipe of its own",
    ("weight", "each"): (
        "`route: each` asks every teacher for all samples: leave out `weight`, or use `route: weighted`"
    ),
    (
        "batch",
        "stream",
    ): "answers of a batch come in a file, never as a stream: leave out `stream`, or use `mode: online`",
    (
        "batch",
        "fallback",
    ): "with `route: fallback` a teacher is left when it does not answer, and a batch takes hours to show that: "
    "use `mode: online`, or another route",
    ("weight", "fallback"): "`route: fallback` asks the teachers in order: leave out `weight`, or use `route: "
    "weighted`",
    ("majority", "accept"): "a vote needs all answers to a prompt, and `ask.accept` may stop before: use `ask.samples`",
    **{("score", other): f"a score is not an answer, {words}: leave out one of the two" for other, words in _NO_ANSWER},
}
"""Pairs of features that don't go together, each with the reason and the way out; reported at the first feature's
field."""


def refused_pairs(recipe: "Recipe") -> dict[Place, str]:
    """For each field that can't go with the rest of the recipe, the reason."""
    used = {name: place for name, find in FEATURES.items() if (place := find(recipe)) is not None}
    return {used[one]: words for (one, other), words in REFUSED.items() if one in used and other in used}
