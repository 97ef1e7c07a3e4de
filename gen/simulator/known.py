"""Right answers: from a file of prompts and answers, and for arithmetic in a message."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import orjson

from stillhouse.gen.errors import UsageError
from stillhouse.schemas.carried_file import CarriedFile

# Begins with a digit: searching for one character keeps it cheap in texts without arithmetic.
_EXPRESSION = re.compile(r"\d(?<![\w.]\d)\d{0,17}(?:\s*[-+*×/÷]\s*-?\d{1,18}){1,32}(?!\.?\d)")
_MINUS = re.compile(r"(?<![\w.)])-\Z")
_TERM = re.compile(r"([-+*×/÷]?)\s*(-?\d+)\s*")


class KnownAnswers:
    """Prompts with known answers; finding one in a message takes time that grows only with the message.

    Texts are compared word by word, ignoring differences in white space. If a message contains several known prompts,
    the longest counts.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._answers = {" ".join(prompt.split()): answer for prompt, answer in pairs}
        self._answers.pop("", None)
        lengths: dict[str, set[int]] = defaultdict(set)
        for prompt in self._answers:
            words = prompt.split(" ")
            lengths[words[0]].add(len(words))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}

    @classmethod
    def read(cls, file: str | CarriedFile) -> "KnownAnswers":
        """Read a JSONL file of objects with a text `prompt` and a text or number `answer`.

        Raises:
            UsageError: the file can't be read, or a line is not such an object; names the line.
        """
        path = file if isinstance(file, str) else file.path
        try:
            lines = (_content(Path(file)) if isinstance(file, str) else file.text.encode()).splitlines()
        except (OSError, ValueError, RuntimeError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or "it is not the path of a file"
            raise UsageError(f"simulator: the file of answers {path!r} can't be read: {reason}") from error
        return cls(_pair(line, where=f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip())

    def find(self, message: str) -> str | None:
        """The answer to the known prompt that the message is, or else to the longest one that it contains."""
        if not self._answers:
            return None
        words = message.split()
        return self._answers.get(" ".join(words)) or self._contained(words)

    def _contained(self, words: list[str]) -> str | None:
        best, best_length = None, 0
        for place, word in enumerate(words):
            for length in self._lengths.get(word, ()):
                if length <= best_length:
                    break
                answer = self._answers.get(" ".join(words[place : place + length]))
                if answer is not None:
                    best, best_length = answer, length
        return best


def _content(path: Path) -> bytes:
    path = path.expanduser()
    if path.exists() and not path.is_file():
        raise ValueError("a folder, a pipe or a device, which might never end")
    return path.read_bytes()


def _pair(line: bytes, *, where: str) -> tuple[str, str]:
    try:
        match orjson.loads(line):
            case {"prompt": str(prompt), "answer": str() | int() | float() as answer}:
                return prompt, str(answer)
            case _:
                found = line[:80].decode(errors="replace")
    except orjson.JSONDecodeError as error:
        found = f"not JSON: {error}"
    raise UsageError(f'simulator: {where}: expected {{"prompt": "…", "answer": "…"}}, got {found}')


def arithmetic(message: str) -> str | None:
    """The value of the last expression of integers with + - * × / ÷ in the message; None if there is none.

    A division with a remainder has no value here.
    """
    found = None
    for found in _EXPRESSION.finditer(message):  # noqa: B007 - the last one counts
        pass
    if found is None:
        return None
    negative = _MINUS.search(message, max(0, found.start() - 2), found.start())
    return _evaluate(("-" if negative else "") + found.group())


def _evaluate(expression: str) -> str | None:
    terms: list[int] = []
    for operator, digits in _TERM.findall(expression):
        number = int(digits)
        match operator:
            case "*" | "×":
                terms[-1] *= number
            case "/" | "÷":
                if number == 0 or terms[-1] % number:
                    return None
                terms[-1] //= number
            case "-":
                terms.append(-number)
            case _:
                terms.append(number)
    return str(sum(terms))
