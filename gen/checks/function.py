"""`function`: a user's code judges the answer. Score and detail are what it returns.

Only the children import it. Its result is taken unchanged or not at all: nothing is rounded, cut or left out on the way
to the dataset.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import orjson

from stillhouse.gen.checks.base import MAX_DETAIL_CHARS, Answer, CannotSay, CheckResult, OutOfTime, OwnValue, Row
from stillhouse.gen.errors import UsageError, cause_of
from stillhouse.schemas.function_check import FunctionCheck, module_sha256

_KINDS: dict[str, tuple[type, ...]] = {"string": (str,), "int64": (int,), "float64": (float, int), "bool": (bool,)}
_EXPECTED = "expected True or False, a tuple (accepted, score, reason), or a dict with `accepted`"


class Function:
    """Calls the function with each answer.

    Raises:
        UsageError: it can't be imported here, or is not a function.
    """

    def __init__(self, settings: FunctionCheck) -> None:
        self._settings = settings
        self._call = loaded(settings)

    def judge(self, answer: Answer, row: Row) -> CheckResult:
        """See `Check`; accepts everything if answers are judged with their chunk (`gen.checks.chunk_function`)."""
        if self._settings.per == "chunk":
            return CheckResult(True, None, "")
        try:
            said = self._call(record_of(self._settings, answer, row))
        except (OutOfTime, MemoryError):
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit too: whatever it does is that answer's matter
            raise CannotSay(f"{self._settings.name} raised {cause_of(error)}"[:MAX_DETAIL_CHARS]) from None
        return result_of(self._settings, said)


def loaded(settings: FunctionCheck) -> Callable[[Any], Any]:
    """The function, with its module imported.

    Raises:
        UsageError: that failed; says why.
    """
    where = f"checks: function {settings.name}"
    try:
        module = _module(settings)
    except UsageError:
        raise
    except BaseException as error:  # noqa: BLE001 - likewise
        raise UsageError(f"{where}: importing {settings.place} raised {cause_of(error)}") from None
    found = getattr(module, settings.function, None)
    if not callable(found):
        got = "nothing of that name" if found is None else f"a {type(found).__name__}"
        raise UsageError(f"{where}: expected a function {settings.function!r} in {settings.place}, got {got}")
    call: Callable[[Any], Any] = found
    return call


def _module(settings: FunctionCheck) -> ModuleType:
    if settings.code is not None:
        module = ModuleType("stillhouse_function")
        module.__file__ = settings.code.path
        exec(compile(settings.code.text, settings.code.path, "exec"), module.__dict__)  # noqa: S102 - the user's own
        return module
    here = module_sha256(settings.place)
    if settings.sha256 is not None and here is not None and here != settings.sha256:
        raise UsageError(
            f"checks: function {settings.name}: the module {settings.place} on this node is not the one that the run "
            "started with: install the same version on all nodes"
        )
    return importlib.import_module(settings.place)


def record_of(settings: FunctionCheck, answer: Answer, row: Row) -> dict[str, Any]:
    """The arguments of the function."""
    values = {each.column: row.get(each.key) for each in settings.references()}
    return {
        "text": answer.text,
        "reasoning": answer.reasoning,
        "tokens": answer.tokens,
        "row": {name: orjson.loads(value) if isinstance(value, str) else None for name, value in values.items()},
    }


def result_of(settings: FunctionCheck, said: Any) -> CheckResult:
    """The function's result as a verdict.

    Raises:
        CannotSay: it is not a valid one.
    """
    given = _fields(settings, said)
    accepted = _plain(given.pop("accepted", None))
    if not isinstance(accepted, bool):
        raise CannotSay(f"{settings.name}: {_EXPECTED}, got accepted = {_shown(accepted)}")
    score = _value(settings, "score", "float64", given.pop("score", None))
    reason = _value(settings, "reason", "string", given.pop("reason", None))
    if more := sorted(map(str, given.keys() - settings.returns.keys())):
        raise CannotSay(f"{settings.name} returned {more[0]!r}: declare it, such as `returns: {{{more[0]}: float64}}`")
    own = {name: _value(settings, name, kind, given.get(name)) for name, kind in settings.returns.items()}
    return CheckResult(
        accepted, None if score is None else float(score), str(reason or "")[:MAX_DETAIL_CHARS], own or None
    )


def _fields(settings: FunctionCheck, said: Any) -> dict[str, Any]:
    if isinstance(said, Mapping):
        return dict(said)
    if isinstance(said, tuple) and 1 <= len(said) <= 3:
        return dict(zip(("accepted", "score", "reason"), said, strict=False))
    if isinstance(_plain(said), bool):
        return {"accepted": said}
    raise CannotSay(f"{settings.name}: {_EXPECTED}, got {_shown(said)}")


def _value(settings: FunctionCheck, name: str, kind: str, value: Any) -> OwnValue:
    """The value if it has exactly this type."""
    value = _plain(value)
    if value is None:
        return None
    is_right = isinstance(value, _KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))
    if is_right and kind == "int64":
        is_right = -(2**63) <= value < 2**63
    if is_right and kind == "float64":
        is_right = math.isfinite(value) and float(value) == value
    if is_right and kind == "string":
        is_right = value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
    if not is_right:
        raise CannotSay(f"{settings.name} returned {name} = {_shown(value)}: expected a {kind}")
    found: OwnValue = float(value) if kind == "float64" else value
    return found


def _plain(value: Any) -> Any:
    """A scalar of numpy or Arrow as a Python value."""
    for method in ("as_py", "item"):
        if not isinstance(value, (bool, int, float, str)) and callable(convert := getattr(value, method, None)):
            return convert()
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:60]}…"
