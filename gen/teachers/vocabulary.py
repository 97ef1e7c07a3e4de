"""A protocol's vocabulary of errors, as data; `gen.teachers.signals` reads every reply by such a table.

`COMMON` has what does not depend on the protocol: families of codes and phrases, because gateways reword their
upstream's errors and no list of them is complete. A protocol adds its exact codes, its limit headers and where it
states a wait.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from stillhouse.gen.limits.shares import Resource

Signal: TypeAlias = Literal[
    "money",  # the account is empty
    "daily",  # an allowance per day is used up
    "per_minute",  # an allowance per minute is used up, whatever else the reply says
    "busy",  # only a wait, although its status says money
    "auth",
    "policy",
    "ramp",
    "too_large",  # a 429 for one request above the whole limit: waiting does not help
    "rate",
    "overload",
    "loading",  # not ready yet, but about to be: waited for as long as it says so
    "too_long",
]
"""What a code or phrase means, in the order in which they are searched."""


@dataclass(frozen=True, slots=True)
class LimitHeaders:
    """The names of the headers that state one limit of the account, in lower case."""

    resource: Resource
    remaining: str
    reset: str


@dataclass(frozen=True, slots=True)
class ErrorVocabulary:
    """A protocol's vocabulary of errors; all text is matched in lower case."""

    codes: Mapping[Signal, frozenset[str]]
    """Exact codes, types and reasons."""
    families: Mapping[Signal, re.Pattern[str]]
    """Patterns found in such codes."""
    phrases: Mapping[Signal, re.Pattern[str]]
    """Patterns found in the message."""
    code_fields: frozenset[str]
    """Fields of the error document that hold codes, at any depth."""
    code_names: frozenset[str]
    """Fields whose name alone is a code, whatever their value."""
    code_headers: tuple[str, ...]
    """Headers with a code."""
    wait_fields: tuple[str, ...]
    """Fields of `details` that hold a duration to wait, such as `45.8s`."""
    wait_phrase: re.Pattern[str]
    """A duration to wait in the message, as (minutes, amount, unit)."""
    limits: tuple[LimitHeaders, ...]
    """Headers that state what is left of the account's limits."""
    headers: tuple[str, ...]
    """Headers besides `code_headers` that an outcome may depend on."""

    kept_headers: frozenset[str] = field(init=False)
    """All headers that the journal keeps: a reply means the same to its receiver and to one who finds it in a
    journal."""
    remaining_headers: frozenset[str] = field(init=False)
    """Headers of `limits` without which there is nothing to read."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept_headers", frozenset((*self.headers, *self.code_headers)))
        object.__setattr__(self, "remaining_headers", frozenset(each.remaining for each in self.limits))

    def extended(
        self,
        *,
        codes: Mapping[Signal, frozenset[str]] | None = None,
        phrases: Mapping[Signal, re.Pattern[str]] | None = None,
        code_names: frozenset[str] = frozenset(),
        code_fields: frozenset[str] = frozenset(),
        code_headers: tuple[str, ...] = (),
        wait_fields: tuple[str, ...] = (),
        limits: tuple[LimitHeaders, ...] = (),
        headers: tuple[str, ...] = (),
    ) -> "ErrorVocabulary":
        """This vocabulary with a protocol's own words added; a phrase given here replaces the common one."""
        given = codes or {}
        none: frozenset[str] = frozenset()
        return replace(
            self,
            codes={signal: self.codes.get(signal, none) | given.get(signal, none) for signal in {*self.codes, *given}},
            phrases={**self.phrases, **(phrases or {})},
            code_names=self.code_names | code_names,
            code_fields=self.code_fields | code_fields,
            code_headers=(*self.code_headers, *code_headers),
            wait_fields=(*self.wait_fields, *wait_fields),
            limits=(*self.limits, *limits),
            headers=(*self.headers, *headers),
        )


COMMON = ErrorVocabulary(
    codes={"auth": frozenset({"no_db_connection"})},  # LiteLLM's, without a database to look an unknown key up in
    families={
        "money": re.compile(
            r"insufficient_?(quota|balance|credit|fund)|billing|budget_?exceeded|exceeded_?budget|credit_?balance"
            r"|spend_?limit|payment_?required|arrear|quota_?exhausted|out_?of_?(credit|money|fund)|no_?(credit|balance)"
        ),
        "daily": re.compile(r"perday"),
        "per_minute": re.compile(r"perminute"),
        "policy": re.compile(
            r"content_?(policy|filter|moderation|violation|safety|management)|responsibleai|moderat|data_?inspection"
            r"|sensitive|safety|flagged|prohibited_?content|bio_policy|invalid_prompt|guardrail"
            r"|usage_?(polic|guideline)|harmful"
        ),
    },
    phrases={
        "money": re.compile(
            r"budget (has been )?exceeded|\b(exceeded|crossed|over) budget\b"
            r"|exceeded (your|the|its) (current )?(quota|budget|spend)|plan and billing"
            r"|insufficient (account )?(balance|credit|fund|quota)|credit balance|out of (credit|fund|money)"
            r"|(no|not enough|too few) (remaining )?(credits?|funds|balance|money)\b"
            r"|account .{0,40}\b(arrears|overdue)"
            r"|(balance|credits?) (is|are) (too low|exhausted|used up|insufficient|empty|negative)"
            r"|quota .{0,30}(exhausted|used up|depleted)|spend(ing)? limit .{0,30}(reached|exceeded)"
        ),
        "daily": re.compile(r"per[-_ ]?day|daily|\b[rt]pd\b"),
        "policy": re.compile(
            r"safety (system|filter|polic|setting|reason)"
            r"|content (policy|filter|management|moderation|exists risk|risk|safety)"
            r"|(inappropriate|harmful|prohibited|unsafe|sensitive|offensive)"
            r" (content|text|word|material|language|information)"
            r"|(data|content)_?inspection|new_sensitive|usage (guideline|polic)|acceptable use|guardrail"
            r"|(violat|breach|break|against)\w* .{0,60}(polic|guideline|terms of|rules|safety)"
            r"|(was|were|been) (flagged|moderated)"
            r"|blocked by .{0,40}(filter|polic|safety|moderat)"
        ),
        "overload": re.compile(
            r"connection (error|refused|reset|aborted|closed)|upstream|(service|temporarily) unavailable|overloaded"
            r"|no healthy|bad gateway|try again later|at capacity"
        ),
        "loading": re.compile(
            r"\bloading (the |its )?(model|weights|checkpoint)"
            r"|\bmodel\b.{0,100}\b(is|are|still|currently|being) (still |currently |being )*load(ing|ed)\b"
            r"|\b(server|engine|service|instance|model)\b.{0,100}\b(is|still|currently) (still |currently )*"
            r"(starting|warming up|initiali[sz]ing|not ready)|\bcold start"
        ),
        "too_long": re.compile(
            r"(prompt|input|context|messages?|request|conversation|sequence|tokens?)\b.{0,80}?"
            r"\b(too (long|large|many)|longer than|larger than|exceeds?|exceeded|must be (<=|less|at most|shorter))"
            r"|maximum (context|model|sequence|prompt|input) length|exceeds the maximum number of tokens"
            r"|context (window|size)|too many (input |prompt )?tokens"
            r"|\d tokens?\b.{0,40}\b(limit|maximum|max|allowed)\b.{0,20}\d"
        ),
    },
    code_fields=frozenset({"code", "type", "status", "reason"}),
    code_names=frozenset(),
    code_headers=(),
    wait_fields=(),
    wait_phrase=re.compile(r"\b(?:retry|try again) in (?:(\d{1,4})m)?(\d{1,6}(?:\.\d+)?)(ms|s)\b"),
    limits=(),
    headers=("content-type", "date", "retry-after", "retry-after-ms", "x-should-retry"),
)
"""`date` is kept because it is the server's clock, for a `retry-after` that is a date."""
