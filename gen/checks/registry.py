"""Builds a recipe's checks. The fields of `stillhouse.schemas.checks.Check` list the kinds.

The module that judges has the kind's name, and its class has the same name in capitals: the check `json_schema` is
`json_schema.JsonSchema`. Modules are imported where they run, because some load libraries for a second.
"""

import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from stillhouse.gen.checks.base import Check
from stillhouse.gen.errors import UsageError
from stillhouse.schemas.checks import AnyCheck
from stillhouse.schemas.recipe import Recipe

_EXTRA = {"math": "math_verify", "language": "py3langid"}
"""Modules that only an install with the extra `checks` has."""


@dataclass(frozen=True, slots=True)
class NamedCheck:
    """A check, ready to judge, with the name under which its verdicts are kept."""

    name: str
    kind: str
    check: Check


def built(checks: Sequence[AnyCheck]) -> tuple[NamedCheck, ...]:
    """The checks, ready to judge.

    Raises:
        UsageError: see `require_kinds`.
    """
    require(checks)
    made = []
    for settings in checks:
        check = cast(Check, class_of(settings.kind)(settings.settings))
        made.append(NamedCheck(settings.name, settings.kind, check))
    return tuple(made)


def class_of(kind: str) -> Any:
    """The class that judges by a kind of check; its only argument is the check's settings."""
    return getattr(importlib.import_module(f"stillhouse.gen.checks.{kind}"), kind.title().replace("_", ""))


def require(checks: Sequence[AnyCheck]) -> None:
    """Refuse checks whose libraries are not installed here; raises UsageError as `require_kinds` does."""
    require_kinds([check.kind for check in checks])


def require_kinds(kinds: Iterable[str]) -> None:
    """Refuse kinds of checks whose libraries are not installed here.

    Raises:
        UsageError: one is missing; says how to install it.
    """
    if missing := {kind for kind in kinds if (name := _EXTRA.get(kind)) and not _is_there(name)}:
        raise UsageError(
            f"checks: {' and '.join(sorted(missing))} need libraries that are not installed; install them: "
            "pip install 'stillhouse[checks]'"
        )


def needs_extra(recipe: Recipe) -> bool:
    """True if a check of the recipe, or its vote, needs the extra `checks`."""
    return any(check.kind in _EXTRA for check in recipe.all_checks) or recipe.equality in _EXTRA


def extras_of(recipe: Recipe) -> list[str]:
    """The extras of this package that the recipe's checks need on every node."""
    is_walled = any(check.python and check.python.isolation == "bubblewrap" for check in recipe.checks)
    return ["checks"] * needs_extra(recipe) + ["sandbox"] * is_walled


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
