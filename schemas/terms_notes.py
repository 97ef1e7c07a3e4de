"""Reports terms in a recipe that contradict the known ones; the recipe's terms apply."""

import re
from collections.abc import Iterator

from stillhouse.schemas.licences import SEEN_ON, hosts_of, known_terms
from stillhouse.schemas.recipe import Recipe


def terms_notes(recipe: Recipe) -> Iterator[str]:
    """A sentence for each teacher whose known licence differs from the recipe's."""
    for teacher in recipe.teachers:
        known = known_terms(teacher.model, hosts=hosts_of(teacher.urls))
        stated = teacher.terms.license if teacher.terms is not None else None
        if known is None or known.prohibits or stated is None or _plain(stated) == _plain(known.license):
            continue
        yield (
            f"teacher {teacher.name}: the recipe's terms apply, although {teacher.model} is known to be under "
            f"{known.license} (not {stated}). This was true on {SEEN_ON}"
        )


def _plain(license: str) -> str:
    """A licence's name in a comparable form: `Apache 2.0` equals `apache-2.0`."""
    return re.sub(r"[^a-z0-9]|licen[cs]e", "", license.lower())
