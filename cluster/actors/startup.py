"""How an actor's start can fail, and what is then told: its reason, once, instead of one dead actor after another.

Where a process can't import an actor's class, Ray puts a class of its own in place, all of whose methods raise; where
it can't unpickle the arguments, it calls no method at all. Either way it then asks for the actor's repr, and one that
raises ends the process, and with it the reason: the driver would hear of one unexpected death after another.
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
"""Characters of a reason that are shown."""
_NOT_LOADED = ("failed to import on the worker", "input arguments for this task could not be computed")
"""How Ray (2.54 to 2.60) says that a class, and that arguments, could not be loaded."""
_RAISED = re.compile(r"^[A-Za-z_][\w.]*: .*$", re.MULTILINE)
"""A traceback's line of what was raised; more lines of its message may follow."""
_ACTOR = re.compile(r"(\w+)\.__init__\(\)")


class _Described:
    """A `__repr__` that never raises. Ray puts failing methods in place of a class's functions, and this is none."""

    def __init__(self, describe: Callable[[Any], str]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    def __call__(self, actor: object) -> str:
        try:
            return self._describe(actor)
        except AttributeError:  # its __init__ never came to the end
            return type(actor).__name__

    def __get__(self, actor: object, owner: type | None = None) -> Callable[[], str]:
        return functools.partial(self, actor)


def described(describe: Callable[[Any], str]) -> Callable[[Any], str]:
    """Make of a method an actor's `__repr__`: one that leaves the reason standing where the actor can't start."""
    return _Described(describe)


def check_started(error: RayError) -> None:
    """Raise why the actor never started, where that is why it can't be called; another one would fail alike.

    Raises:
        StillhouseError: its process could not load it, or what its `__init__` raised, with the exit code of that.
    """
    if not isinstance(error, RayActorError) or not error.actor_init_failed:
        return
    text = str(error)
    found = _ACTOR.search(text)
    actor = found[1] if found else "an actor"
    reason = inert((_RAISED.findall(text) or ["?"])[-1])[:MAX_REASON]
    if any(phrase in text for phrase in _NOT_LOADED):
        raise StillhouseError(
            f"{actor} can't be loaded on the cluster ({reason}); expected Stillhouse {__version__} with what it needs "
            "on every node: take it along (`stillhouse submit --ship code`, or `all`), or renew the nodes' image"
        )
    kind, _, words = reason.partition(": ")
    known = getattr(errors, kind.rpartition(".")[2], None)
    if isinstance(known, type) and issubclass(known, StillhouseError):
        raise known(words)
    raise StillhouseError(f"{actor} can't be started: {reason}")
