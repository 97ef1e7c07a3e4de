"""The program in an answer: the contents of its code fences, or the whole answer if it is Python already."""

import ast
import re
from dataclasses import dataclass

_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([\w+.#-]*)[^\n`]*\n(.*?)(?:^[ \t]*\2[`~]*[ \t]*$|\Z)", re.M | re.S)
_PYTHON = ("python", "python3", "py", "py3")


@dataclass(frozen=True, slots=True)
class Program:
    """A program, and what it defines."""

    text: str
    functions: tuple[str, ...]
    """The program's own functions, in order."""
    methods: tuple[str, ...]
    """Methods of the class `Solution`, in order, except those that begin with an underscore."""
    names: frozenset[str]
    """All names that it defines at its top level."""


def program_in(text: str) -> Program | str:
    """The program of an answer, or a text that says why there is none.

    Of several blocks, the last one that defines a function or a class counts, else the last one.
    """
    fences = [(found[3].lower(), _unindented(found[4], found[1])) for found in _FENCE.finditer(text)]
    blocks = [block for language, block in fences if language in _PYTHON]
    blocks = blocks or [block for language, block in fences if not language]
    if not blocks:
        if fences:
            return f"no Python found: the answer's code is {fences[-1][0]}"
        program = _parsed(text)
        return "no program found: expected one in a code fence" if isinstance(program, str) else program
    programs = [_parsed(block) for block in blocks]
    valid = [program for program in programs if isinstance(program, Program)]
    if not valid:
        return programs[-1]
    return next((program for program in reversed(valid) if program.names), valid[-1])


def _unindented(block: str, indent: str) -> str:
    """The block without the indentation of its fence."""
    return "".join(line.removeprefix(indent) for line in block.splitlines(keepends=True)) if indent else block


def _parsed(text: str) -> Program | str:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        return f"not valid Python{f', line {line}' if line else ''}: {getattr(error, 'msg', None) or error}"
    functions = tuple(node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = tuple(
        inner.name
        for node in classes
        if node.name == "Solution"
        for inner in node.body
        if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_")
    )
    return Program(text, functions, methods, frozenset(functions) | {node.name for node in classes})
