"""The tests of a row, in the forms that public sets of programming tasks have.

Python that asserts (HumanEval, MBPP), pairs of input and output (APPS, TACO, CodeContests), and calls of a function
with the value that it returns (APPS, LiveCodeBench). Anything else is refused, never guessed.
"""

import ast
import builtins
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any, TypeAlias

import orjson

from stillhouse.gen.checks.base import CannotSay
from stillhouse.gen.checks.programs.answers import Program

MAX_TESTS = 1_000
MAX_TEXT_BYTES = 8 * 2**20
"""Maximum size of one input or output."""
_SHOWN_CHARS = 80
_PASSED, _FAILED = "_stillhouse_passed", "_stillhouse_failed"
_INPUTS, _OUTPUTS = ("inputs", "input"), ("outputs", "output", "expected_output")
_FUNCTION = ("fn_name", "func_name", "function_name", "entry_point")
_SCRIPTS = ("test_list", "tests", "test", "test_code")
_SETUP = ("test_setup_code", "test_imports", "setup")
EXPECTED = (
    "expected Python that asserts, a list of asserts, {inputs, outputs} with texts or with a `fn_name`, or a list of "
    "{input, output}"
)


@dataclass(frozen=True, slots=True)
class Runs:
    """The program is run with each input, and must print the output."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Calls:
    """The program's function is called with each list of arguments, and must return the value."""

    function: str | None
    """The function's name; None: the last one that the program defines."""
    cases: tuple[tuple[list[Any], Any], ...]
    is_wrapped: bool
    """True if a value may be wrapped in a list, as in APPS."""


@dataclass(frozen=True, slots=True)
class Script:
    """Pieces of Python that use the program's names."""

    pieces: tuple[str, ...]
    function: str | None
    """The function that `check(candidate)` is called with; None: the last one that the program defines."""


Suite: TypeAlias = Runs | Calls | Script


def suite_of(value: Any) -> Suite:
    """The tests in a column's value.

    Args:
        value: as JSON values; a text may be JSON itself.

    Raises:
        CannotSay: it contains none; says what was expected.
    """
    if isinstance(value, str):
        value = _read(value)
    match value:
        case str() if value.strip():
            return _script([value], None)
        case [str(), *_] if all(isinstance(each, str) for each in value):
            return _script(value, None)
        case [{}, *_] | [[_, _], *_]:
            return _listed(value)
        case {}:
            return _mapped(value)
    raise CannotSay(f"{EXPECTED}, got {_shape(value)}")


def _read(text: str) -> Any:
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return orjson.loads(text.encode("utf-8", "surrogatepass"))
    except orjson.JSONDecodeError:
        return text


def _mapped(value: Mapping[str, Any]) -> Suite:
    function = _first(value, _FUNCTION)
    if function is not None and not isinstance(function, str):
        raise CannotSay(f"expected the name of a function, got {_shape(function)}")
    inputs, outputs = _first(value, _INPUTS), _first(value, _OUTPUTS)
    if inputs is not None and outputs is not None:
        if isinstance(inputs, str) and isinstance(outputs, str):
            inputs, outputs = [inputs], [outputs]
        if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
            raise CannotSay(f"expected as many inputs as outputs, got {_shape(inputs)} and {_shape(outputs)}")
        pairs = list(zip(inputs, outputs, strict=True))
        return _runs(pairs) if function is None else _calls(pairs, function, is_wrapped=True)
    script = _first(value, _SCRIPTS)
    if isinstance(script, str):
        script = [script]
    if not isinstance(script, list) or not all(isinstance(each, str) for each in script):
        raise CannotSay(f"{EXPECTED}, got an object with {', '.join(sorted(value)[:6]) or 'nothing'}")
    setup = _first(value, _SETUP)
    return _script([*(setup if isinstance(setup, list) else [setup or ""]), *script], function)


def _listed(value: Sequence[Any]) -> Suite:
    """A list of tests, each with its input and its output."""
    pairs, kinds, functions = [], set(), set()
    for each in value:
        if isinstance(each, list):
            if len(each) != 2:
                raise CannotSay(f"expected pairs of input and output, got {_shape(each)}")
            pairs.append(tuple(each))
            continue
        if not isinstance(each, dict):
            raise CannotSay(f"{EXPECTED}, got {_shape(each)} in a list of objects")
        given, expected = _first(each, _INPUTS), _first(each, _OUTPUTS)
        if given is None or expected is None:
            raise CannotSay(f"expected {{input, output}}, got an object with {', '.join(sorted(each)[:6])}")
        pairs.append((given, expected))
        kinds.add(str(each.get("testtype", "stdin")))
        functions.add(_first(each, _FUNCTION))
    if len(kinds) > 1 or len(functions) > 1:
        raise CannotSay("expected tests of one kind and of one function")
    function = next(iter(functions), None)
    if kinds == {"functional"} or function is not None:
        return _calls(pairs, function, is_wrapped=False)
    return _runs(pairs)


def _runs(pairs: Sequence[tuple[Any, Any]]) -> Runs:
    _check_count(len(pairs))
    texts = tuple((_lines(given), _lines(expected)) for given, expected in pairs)
    if any(len(text) > MAX_TEXT_BYTES // 4 and len(text.encode()) > MAX_TEXT_BYTES for pair in texts for text in pair):
        raise CannotSay(f"expected inputs and outputs of at most {MAX_TEXT_BYTES:,} bytes")
    return Runs(texts)


def _lines(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    raise CannotSay(
        f"expected text or lines for input and output, got {_shape(value)}; those of a function need its `fn_name`"
    )


def _calls(pairs: Sequence[tuple[Any, Any]], function: str | None, *, is_wrapped: bool) -> Calls:
    _check_count(len(pairs))
    cases = tuple(
        (_arguments(given), _json(expected) if isinstance(given, str) else expected) for given, expected in pairs
    )
    return Calls(function, cases, is_wrapped)


def _arguments(value: Any) -> list[Any]:
    """The arguments: a list of them, or one line of JSON for each."""
    if isinstance(value, list):
        return value
    if not isinstance(value, str):
        raise CannotSay(f"expected a list of arguments, got {_shape(value)}")
    try:
        return [orjson.loads(line) for line in value.splitlines() if line.strip()]
    except orjson.JSONDecodeError:
        raise CannotSay("expected a line of JSON for each argument") from None


def _json(value: Any) -> Any:
    """The value, decoded from JSON if the arguments are JSON too."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def _script(pieces: Sequence[Any], function: str | None) -> Script:
    if not all(isinstance(piece, str) for piece in pieces):
        raise CannotSay(f"expected tests as Python text, got {_shape(pieces)}")
    trees = [_tree(piece) for piece in pieces]
    found = sum(isinstance(node, ast.Assert) for tree in trees for node in ast.walk(tree))
    if found == 0:
        raise CannotSay("expected tests that assert something, got Python without an `assert`")
    _check_count(found)
    return Script(tuple(piece for piece in pieces if piece.strip()), function)


def _tree(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        raise CannotSay(
            f"tests: not valid Python{f', line {line}' if line else ''}: {getattr(error, 'msg', None) or error}"
        ) from None


def _check_count(count: int) -> None:
    if not 0 < count <= MAX_TESTS:
        raise CannotSay(f"expected 1 to {MAX_TESTS:,} tests, got {count:,}")


def _first(value: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _shape(value: Any) -> str:
    match value:
        case None:
            return "null"
        case str():
            return "empty text" if not value.strip() else "text"
        case list() | tuple():
            return f"a list of {len(value):,}"
        case dict():
            return "an object"
    return f"the value {value!r}"[:60]


def kind_of(suite: Suite) -> str:
    """How the program is used: it serves its `names`, or it `runs` with inputs."""
    return "runs" if isinstance(suite, Runs) else "names"


def prepared(suite: Suite, program: Program) -> dict[str, Any] | str:
    """What `trial` receives; or a text that says what the program lacks."""
    match suite:
        case Runs(pairs):
            return {"kind": "runs", "total": len(pairs), "pairs": pairs}
        case Calls(function, cases, is_wrapped):
            target = _target(program, function)
            if target is None:
                return f"the program defines no function {function or ''}".rstrip()
            head = {"kind": "cases", "total": len(cases), "cases": cases, "is_wrapped": is_wrapped}
            return head | {"target": target, "names": target[:1]}
        case Script(pieces, function):
            return _prepared(pieces, program, function)


def _target(program: Program, function: str | None) -> list[str] | None:
    """The name of the function, prefixed by its class if it is a method."""
    if function is not None and "." in function:
        function = function.rpartition(".")[2]
    if program.methods and (function in program.methods or (function is None and not program.functions)):
        return ["Solution", function or program.methods[-1]]
    if function is not None:
        return [function]
    return [program.functions[-1]] if program.functions else None


def _prepared(pieces: Sequence[str], program: Program, function: str | None) -> dict[str, Any] | str:
    trees = [_tree(piece) for piece in pieces]
    calls = _test_calls(trees)
    if "check" in calls:
        target = _target(program, function)
        if target is None:
            return "the program defines no function"
        trees.append(ast.parse(f"check({'().'.join(target)})"))
    trees += [ast.parse(f"{name}()") for name in calls if name != "check"]
    shown: list[str] = []
    reporting = _Reporting(shown)
    wanted = {name for tree in trees for name in _used(tree)}
    own = wanted - set(dir(builtins))
    # A Python built-in counts as the program's only if the tests use nothing else of it: not `abs` in a comparison.
    names = own if own & program.names else own | (wanted & program.names)
    codes: list[CodeType] = []
    for tree in trees:
        found = ast.fix_missing_locations(reporting.visit(tree))
        codes.append(compile(found, "tests.py", "exec", dont_inherit=True))
    head = {"kind": "script", "total": len(shown), "names": sorted(names), "shown": shown, "codes": codes}
    return head | {"passed": _PASSED, "failed": _FAILED}


def _test_calls(trees: Sequence[ast.Module]) -> list[str]:
    """Functions of the tests that are defined but never called: `check`, and those that begin with `test`."""
    defined = [node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    called = {
        node.func.id
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return [name for name in defined if (name == "check" or name.startswith("test")) and name not in called]


def _used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.ImportFrom) and node.module == "solution":
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "solution":
            yield node.attr


class _Reporting(ast.NodeTransformer):
    """Makes each `assert` report whether it holds, so that the tests continue after it."""

    def __init__(self, shown: list[str]) -> None:
        self._shown = shown
        """The text of each assert, by number."""

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """An `assert`, wrapped in a `try` that reports."""
        number = len(self._shown)
        text = " ".join(ast.unparse(node.test).split())
        self._shown.append(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…")
        (guarded,) = ast.parse(
            f"try:\n    pass\nexcept Exception as _stillhouse_error:\n    {_FAILED}({number}, _stillhouse_error)\n"
            f"else:\n    {_PASSED}()\n"
        ).body
        assert isinstance(guarded, ast.Try)
        guarded.body = [node]
        return ast.copy_location(guarded, node)
