"""What each family of Claude accepts and returns, as data: a parameter that a family does not accept gets a 400.

From Anthropic's pages and clients as read on `SEEN_ON`. Families that are not listed are asked as the recipe says.
"""

import re
from datetime import date
from typing import Literal, NamedTuple

SEEN_ON = date(2026, 11, 26)

_LEVELS = ("low", "medium", "high", "xhigh", "max")
_NAME = re.compile(r"claude-(?:([a-z]+)-)?(\d)(?:[-.](\d{1,2}))?(?!\d)(?:-([a-z]+))?")


class Claude(NamedTuple):
    """One family of Claude models."""

    samples: Literal["both", "one", "none"]
    """How many of temperature and top_p are accepted: `both` together, `one` of them, or `none`."""
    efforts: tuple[str, ...] = ()
    """The accepted values of `effort`."""
    adaptive: bool = True
    """True if the model decides by itself how much to think."""
    budget: bool = False
    """True if it accepts a budget of thinking tokens."""
    thinks: Literal["when asked", "by default", "always"] = "when asked"
    shows: Literal["text", "summary", "nothing"] = "nothing"
    """How much of its thinking is shown unless the request asks for a summary."""
    schema_on: Literal["all APIs", "its own API", "none"] = "all APIs"
    """Which APIs accept a schema for its answers: on Bedrock's Converse, some models lack this."""


_THREE = Claude("both", adaptive=False, shows="text", schema_on="none")
_FOUR = Claude("one", adaptive=False, budget=True, shows="summary")
_FAMILIES: dict[tuple[str, str], Claude] = {
    ("sonnet", "3.7"): _THREE._replace(budget=True),
    **{(name, version): _THREE for name in ("opus", "sonnet", "haiku") for version in ("3", "3.5")},
    **{(name, version): _FOUR for name in ("opus", "sonnet", "haiku") for version in ("4.1", "4.5")},
    **{(name, "4"): _FOUR._replace(schema_on="none") for name in ("opus", "sonnet")},
    ("opus", "4.5"): _FOUR._replace(efforts=_LEVELS[:3]),
    **{
        (name, "4.6"): Claude("one", ("low", "medium", "high", "max"), budget=True, shows="summary")
        for name in ("opus", "sonnet")
    },
    ("opus", "4.7"): Claude("none", _LEVELS, schema_on="its own API"),
    ("opus", "4.8"): Claude("none", _LEVELS, schema_on="its own API"),
    ("sonnet", "5"): Claude("none", _LEVELS, thinks="by default", schema_on="its own API"),
    ("opus", "5"): Claude("none", _LEVELS, thinks="by default", schema_on="its own API"),
    **{
        (name, version): Claude("none", _LEVELS, thinks="always")
        for name in ("fable", "mythos")
        for version in ("5", "5.1", "5.2")
    },
    ("fable", "5"): Claude("none", _LEVELS, thinks="always", schema_on="its own API"),
    ("opus", "5.5"): Claude("none", _LEVELS, thinks="always"),
    ("sonnet", "5.5"): Claude("none", _LEVELS, thinks="always"),
    ("haiku", "5.5"): Claude("none", _LEVELS),
}


def is_claude(model: str) -> bool:
    """True for a model of Anthropic's, on its own API or another: `us.anthropic.claude-opus-5-v1:0`."""
    return _NAME.search(model) is not None


def claude_of(model: str) -> Claude | None:
    """The family of a model's name, as Anthropic, Bedrock or a gateway spells it; None if unknown."""
    if (found := _NAME.search(model)) is None:
        return None
    before, major, minor, after = found.groups()
    name = before or after  # claude-opus-4-1, but claude-3-5-sonnet in the third generation
    version = major if minor in (None, "0") else f"{major}.{minor}"
    return _FAMILIES.get((name or "", version))
