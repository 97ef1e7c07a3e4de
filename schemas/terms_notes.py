"""Where a recipe's terms contradict what is known: the recipe's hold, and the contradiction is reported."""

import re
from collections.abc import Iterator

from stillhouse.schemas.licences import SEEN_ON, hosts_of, known_terms
from stillhouse.schemas.recipe import Recipe


def terms_notes(recipe: Recipe) -> Iterator[str]:
    """A sentence for each teacher whose licence is known to be another than the recipe's."""
    for teacher in recipe.teachers:
        known = known_terms(teacher.model, hosts=hosts_of(teacher.urls))
        stated = teacher.terms.license if teacher.terms is not None else None
        if known is None or known.prohibits or stated is None or _plain(stated) == _plain(known.license):
            continue
        yield (
            f"teacher {teacher.name}: the recipe's terms hold, though {teacher.model} is known to be under "
            f"{known.license} (not {stated}). So it was on {SEEN_ON}"
        )


def _plain(license: str) -> str:
    """Spelt alike: `Apache 2.0` and `apache-2.0`."""
    return re.sub(r"[^a-z0-9]|licen[cs]e", "", license.lower())
