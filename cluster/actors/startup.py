"""Reports once why an actor could not start, instead of one dead actor after another.

If a process can't import an actor's class, Ray substitutes a class whose methods all raise; if it can't unpickle the
arguments, it calls no method at all. Either way it then calls the actor's `__repr__`. If that raises, the process ends
and the reason is lost, and the driver would see one unexpected death after another.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayActorError, RayError

from stillhouse.gen import errors
from stillhouse.gen.errors import StillhouseError
from stillhouse.gen.inert import inert
from stillhouse.schemas import __version__

MAX_REASON = 300
"""Maximum number of characters shown of a reason."""
_NOT_LOADED = ("failed to import on the worker", "input arguments for this task could not be computed")
"""Ray's messages (2.54 to 2.60) for a class, and for arguments, that could not be loaded."""
_NOT_IMPORTED = ("ImportError", "ModuleNotFoundError")
"""Errors of an `__init__` that imports what the actor needs."""
_RAISED = re.compile(r"^[A-Za-z_][\w.]*: .*$", re.MULTILINE)
"""The line of a traceback that names the exception; its message may continue on the next lines."""
_ACTOR = re.compile(r"(\w+)\.__init__\(\)")


class _Described:
    """A `__repr__` that never raises. It is not a function, because Ray replaces a class's functions with failing
    ones."""

    def __init__(self, describe: Callable[[Any], str]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    def __call__(self, actor: object) -> str:
        try:
            return self._describe(actor)
        except AttributeError:  # its __init__ did not finish
            return type(actor).__name__

    def __get__(self, actor: object, owner: type | None = None) -> Callable[[], str]:
        return functools.partial(self, actor)


def described(describe: Callable[[Any], str]) -> Callable[[Any], str]:
    """Turn a method into an actor's `__repr__` that preserves the reason if the actor can't start."""
    return _Described(describe)


def check_started(error: RayError) -> None:
    """Raise the reason if the actor never started, because another would fail the same way.

    Raises:
        StillhouseError: its process could not load it; or the error its `__init__` raised, with that error's exit code.
    """
    if not isinstance(error, RayActorError) or not error.actor_init_failed:
        return
    text = str(error)
    found = _ACTOR.search(text)
    actor = found[1] if found else "an actor"
    reason = inert((_RAISED.findall(text) or ["?"])[-1])[:MAX_REASON]
    kind, _, words = reason.partition(": ")
    if any(phrase in text for phrase in _NOT_LOADED) or kind in _NOT_IMPORTED:
        raise StillhouseError(
            f"{actor} can't be loaded on the cluster ({reason}); expected Stillhouse {__version__} and its "
            "dependencies on every node: ship it (`stillhouse submit --ship code` or `all`), or update the nodes' "
            "image"
        )
    known = getattr(errors, kind.rpartition(".")[2], None)
    if isinstance(known, type) and issubclass(known, StillhouseError):
        raise known(words)
    raise StillhouseError(f"{actor} can't be started: {reason}")
