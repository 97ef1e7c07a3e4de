"""Jinja templates over a row's columns, in Jinja's immutable sandbox: no file, no Python, no randomness, no giant text.

A row's values are data, never templates. What stays with the template's author is time, as in nested loops over a row's
lists, and the widths of formats and padding: `"%*d"` or `center` with a width out of a row.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, meta
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gen.conversation import NoPrompt
from gen.errors import UsageError

MAX_TEXT_CHARS = 16 * 2**20
"""The longest text a template may make, and the longest product of a text and a number."""

_MAX_POWER_BITS = 100_000


class Template:
    """A compiled template.

    Raises:
        UsageError: the template's syntax is wrong, or it wants other templates.
    """

    def __init__(self, source: str) -> None:
        environment = _Sandbox(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
        del environment.globals["lipsum"], environment.filters["random"]
        try:
            tree = environment.parse(source)
            referenced = list(meta.find_referenced_templates(tree))
            names = meta.find_undeclared_variables(tree)
            self._template = environment.from_string(tree)
        except TemplateSyntaxError as error:
            raise UsageError(f"ask.template, line {error.lineno}: {error.message}") from error
        except RecursionError as error:
            raise UsageError("ask.template: nested too deeply") from error
        if referenced:
            raise UsageError(
                "ask.template: include, import and extends have nothing to refer to: write it in one piece"
            )
        self.columns = frozenset(names - environment.globals.keys())
        """The columns that the template looks up."""

    def render(self, values: Mapping[str, Any]) -> str:
        """The text for a row.

        Raises:
            NoPrompt: a column is missing, or an expression fails on these values.
        """
        given = {name: values[name] for name in self.columns if name in values}
        try:
            return "".join(_bounded(self._template.generate(given)))
        except Exception as error:  # an expression over any data can raise anything
            reason = " ".join(str(error).encode(errors="replace").decode().split())[:300]
            raise NoPrompt(f"ask.template: {reason or type(error).__name__}") from error


def _bounded(pieces: Iterator[str]) -> Iterator[str]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_TEXT_CHARS:
            raise SecurityError(f"the text is longer than {MAX_TEXT_CHARS} characters")
        yield piece


class _Sandbox(ImmutableSandboxedEnvironment):
    """Refuses products and powers that only serve to fill the memory; such operators are not folded while compiling."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`left operator right`, unless the result is out of proportion."""
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * right > _MAX_POWER_BITS:
                raise SecurityError("the result of ** is too large")
        elif operator == "*":
            for times, repeated in ((left, right), (right, left)):
                if isinstance(times, int) and hasattr(repeated, "__len__") and times * len(repeated) > MAX_TEXT_CHARS:
                    raise SecurityError("the result of * is too large")
        return super().call_binop(context, operator, left, right)
