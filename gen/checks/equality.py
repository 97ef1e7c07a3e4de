"""When two answers to a prompt are equal, for the vote on them: what each states, and whether two statements agree.

Without a known answer, answers can only be compared with each other. Both steps run in the pool's children, as checks
do, because an answer may contain anything. A statement is short, whatever the answer's length.
"""

import hashlib
import string
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from stillhouse.gen.checks.base import Answer, CannotSay, CheckResult, Row, equal, text_in
from stillhouse.gen.checks.choice import MAX_CHARS, chosen
from stillhouse.gen.checks.registry import NamedCheck, require_kinds
from stillhouse.schemas.select import Equality

OTHER = "other"
"""The key of the row under which `Comparing` finds the statement to compare with."""


@dataclass(frozen=True, slots=True)
class Stating:
    """States an answer: the result's detail is the statement, and answers with equal details are equal.

    A result that does not accept the answer means that it states nothing that could be compared.
    """

    stated: Callable[[str], str | None]
    max_chars: int = MAX_CHARS

    def judge(self, answer: Answer, row: Row) -> CheckResult:
        """See `Check`."""
        if len(answer.text) > self.max_chars:
            raise CannotSay(f"the answer has {len(answer.text):,} characters; at most {self.max_chars:,} are read")
        found = self.stated(answer.text)
        return CheckResult(False, None, "it states no answer") if found is None else CheckResult(True, None, found)


@dataclass(frozen=True, slots=True)
class Comparing:
    """Compares the statement in its answer's text with the one in the row."""

    same: Callable[[str, str], bool]

    def judge(self, answer: Answer, row: Row) -> CheckResult:
        """See `Check`."""
        other = text_in(row, OTHER)
        return equal(self.same(other, answer.text), expected=other, got=answer.text)


def equality_checks(kind: Equality) -> tuple[NamedCheck, NamedCheck | None]:
    """What states an answer, and what compares two different statements; None if different statements are never equal.

    Raises:
        UsageError: a library is not installed.
    """
    match kind:
        case "math":
            require_kinds(["math"])
            from stillhouse.gen.checks.math import MathVerify, same, stated

            verify = MathVerify()
            comparing = Comparing(lambda known, said: same(known, said, verify))
            return NamedCheck("stated", kind, Stating(stated)), NamedCheck("compared", kind, comparing)
        case "choice":
            return NamedCheck("stated", kind, Stating(lambda text: chosen(text, string.ascii_uppercase, ()))), None
        case "exact":
            return NamedCheck("stated", kind, Stating(_digest, max_chars=sys.maxsize)), None
        case _:
            assert_never(kind)


def compares(kind: Equality) -> bool:
    """True if statements that differ may still be equal."""
    return kind == "math"


def _digest(text: str) -> str:
    """The text as `exact` compares it: in Unicode's NFC, without surrounding white space."""
    said = unicodedata.normalize("NFC", text.strip())
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
