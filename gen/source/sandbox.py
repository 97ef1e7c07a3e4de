"""Jinja templates over a row's columns, in Jinja's immutable sandbox: no file, no Python, no randomness, no giant text.

A row's values are data, never templates. Nothing is evaluated at compile time. `gen.source.render_limits` counts what a
rendering uses: every loop, call, filter, operator and output is charged to it. Jinja's own sandbox with a limit on the
output is not enough: a width, a `join` or a `~` inside an expression fills the memory before there is any output.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import wraps
from typing import Any, Literal, cast

from jinja2 import StrictUndefined, TemplateSyntaxError, meta, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from stillhouse.gen.errors import TemplateError
from stillhouse.gen.source.conversation import NoPrompt
from stillhouse.gen.source.render_limits import (
    MAX_TEXT_CHARS,
    Steps,
    format_chars,
    outcome_chars,
    percent_chars,
    refuse_beyond,
)
from stillhouse.schemas.code_fence import without_fence

_MAX_NUMBER_BITS = 100_000
_UNUSED = ("random", "urlize", "xmlattr")
"""Filters without a use in a prompt: randomness, and HTML by expressions whose time is quadratic in the text."""

_STEPS: ContextVar[Steps] = ContextVar("steps")


class Template:
    """A compiled template; `what` is the field of the recipe with the template.

    Raises:
        TemplateError: the template's syntax is wrong, or it uses other templates.
    """

    def __init__(
        self, source: str, *, what: Literal["ask.template", "ask.system", "checks.judge.template"] = "ask.template"
    ) -> None:
        self._what = what
        environment = _Sandbox(finalize=_finalize_blank if what == "ask.system" else _finalize)
        try:
            tree = environment.parse(source)
            referenced = list(meta.find_referenced_templates(tree))
            names = meta.find_undeclared_variables(tree)
            self._template = environment.from_string(_Counted().visit(tree))
            self._template.globals = dict(self._template.globals)  # every rendering copies them, a ChainMap slowly
        except TemplateSyntaxError as error:
            advice = (
                "" if what != "ask.system" else " (put text that is not a template between {% raw %} and {% endraw %})"
            )
            raise TemplateError(f"{what}, line {error.lineno}: {error.message}{advice}", field=what) from error
        except RecursionError as error:
            raise TemplateError(f"{what}: nested too deeply", field=what) from error
        if referenced:
            raise TemplateError(
                f"{what}: include, import and extends have nothing to refer to: write it in one piece", field=what
            )
        self.columns = frozenset(names - environment.globals.keys())
        """The columns that the template looks up."""

    def render(self, values: Mapping[str, Any]) -> str:
        """The text for a row.

        Raises:
            NoPrompt: a column is missing, or an expression fails on these values, or uses too much.
        """
        given = {name: values[name] for name in self.columns if name in values}
        outer = _STEPS.set(Steps())
        try:
            return "".join(_bounded(self._template.generate(given)))
        except Exception as error:  # an expression over arbitrary data can raise anything
            reason = " ".join(str(error).encode(errors="replace").decode().split())[:300]
            raise NoPrompt(f"{self._what}: {reason or type(error).__name__}") from error
        finally:
            _STEPS.reset(outer)


def _bounded(pieces: Iterator[str]) -> Iterator[str]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_TEXT_CHARS:
            raise SecurityError(f"the text is longer than {MAX_TEXT_CHARS} characters")
        yield piece


class _Counted(NodeTransformer):
    """Routes loops and `~`, which otherwise bypass the environment, through filters that don't."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self.generic_visit(node)
        chars = sum(len(data.data) for body in node.body for data in body.find_all(nodes.TemplateData))
        node.iter = _filtered(node.iter, _EACH, nodes.Const(chars))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), _CONCAT)


_EACH, _CONCAT = "(each)", "(concat)"


def _filtered(node: nodes.Node, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), name, list(args), [], None, None, lineno=node.lineno)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Charges what a template does, and refuses what only serves to fill the memory."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, *, finalize: Callable[[Context, Any], Any]) -> None:
        super().__init__(
            undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True, optimized=False, finalize=finalize
        )
        del self.globals["lipsum"]
        for name in _UNUSED:
            del self.filters[name]
        self.filters["fromjson"] = _from_json
        self.filters = {name: _charged(name, function) for name, function in self.filters.items()}
        self.filters[_EACH] = _each
        self.filters[_CONCAT] = _concat

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`left operator right`, unless the result is too large."""
        steps = _STEPS.get()
        match left, right:
            case int(), int():
                _check_number(operator, left, right)
            case (str() | bytes() | list() | tuple()) as repeated, int() as times if operator == "*":
                refuse_beyond(len(repeated) * times, "the result of *")
            case int() as times, (str() | bytes() | list() | tuple()) as repeated if operator == "*":
                refuse_beyond(len(repeated) * times, "the result of *")
            case str(), _ if operator == "%":
                refuse_beyond(percent_chars(left, right, values_chars=steps.weigh(right)), "the result of %")
            case bytes(), _ if operator == "%":
                raise SecurityError("bytes can't be formatted")
        result = super().call_binop(context, operator, left, right)
        steps.weigh(result)
        return result

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call it, unless the result is too large."""
        steps = _STEPS.get()
        if isinstance(called, LoopContext):
            args = (steps.each(args[0]), *args[1:])
        else:
            # Jinja wraps `format`, and keeps the original on the wrapper.
            owner = getattr(getattr(called, "__wrapped__", called), "__self__", None)
            _check(steps, getattr(called, "__name__", ""), owner, [*args, *kwargs.values()])
        result = super().call(context, called, *args, **kwargs)
        steps.weigh(result)
        return result


def _check_number(operator: str, left: int, right: int) -> None:
    bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
    if bits > _MAX_NUMBER_BITS:
        raise SecurityError(f"the result of {operator} is too large")


def _check(steps: Steps, name: str, value: Any, given: list[Any]) -> None:
    """Charge the input of a filter or a method, and refuse an output that would be too large."""
    indents = [width for width in given if type(width) is int] if name == "tojson" else []
    value_chars, given_chars = steps.weigh(value, indent=max(indents, default=0)), steps.weigh(given)
    if name in ("format", "format_map") and isinstance(value, str):
        chars = format_chars(value, values_chars=given_chars)
    else:
        chars = outcome_chars(name, value, given)
    refuse_beyond(chars + value_chars, f"the result of {name}")


def _charged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, charged for its input and its output."""
    context_args = int(hasattr(function, "jinja_pass_arg"))

    @wraps(function)
    def charged(*args: Any, **kwargs: Any) -> Any:
        steps = _STEPS.get()
        context, (value, *given) = args[:context_args], args[context_args:]
        if isinstance(value, Iterator):
            value = list(steps.each(value))
        if name == "format":
            form = str(value)
            wanted = kwargs or tuple(given)
            refuse_beyond(percent_chars(form, wanted, values_chars=steps.weigh(wanted)), "the result of format")
        else:
            _check(steps, name, value, [*given, *kwargs.values()])
        result = function(*context, value, *given, **kwargs)
        steps.weigh(result)
        return result

    return charged


def _from_json(text: Any) -> Any:
    """The value of a JSON text, such as a teacher's answer in a dataset; a code fence around it is ignored."""
    if not isinstance(text, str):
        raise SecurityError(f"fromjson: expected text, got {type(text).__name__}")
    return json.loads(without_fence(text))


def _each(items: Iterable[Any], chars: int) -> Iterator[Any]:
    return _STEPS.get().each(items, chars)


def _concat(items: list[Any]) -> str:
    _STEPS.get().weigh(items)
    return "".join(map(str, items))


@pass_context
def _finalize(_: Context, value: Any) -> Any:
    _STEPS.get().weigh(value)
    return value


@pass_context
def _finalize_blank(_: Context, value: Any) -> Any:
    """Renders null as nothing, not as the word None."""
    _STEPS.get().weigh(value)
    return "" if value is None else value
