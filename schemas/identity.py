"""A recipe's identity: the settings that decide what a record is, without those that equal their defaults.

A dataset is bound to one identity. A setting added later leaves stored identities unchanged, because it is absent from
the identity of a recipe that does not use it. For the same reason, a default never changes within a schema version.
Schema version 1 wrote identities in full: `reduced` converts them.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from stillhouse.schemas.ask import Ask
from stillhouse.schemas.asked_schema import SCHEMA_CHECK
from stillhouse.schemas.dataset import MESSAGES, Dataset, Dedup
from stillhouse.schemas.source import Keep, Source
from stillhouse.schemas.value_types import ValueType

if TYPE_CHECKING:
    from stillhouse.schemas.recipe import Recipe

_SOURCE = ("prompt", "messages", "id", "keep", "answer", "images", "tools", "passage_chars")
_GROWS = ("samples", "accept", "at_most")
"""Fields of `ask` that may grow: they decide how many answers are wanted, not what an answer is."""
TOOL_FIELDS = ("tools", "functions", "toolConfig")
"""The body fields that offer tools, by API."""
_OF_TEACHERS: Mapping[str, Any] = {"weight": 1.0, "ask": {}, "extra": {}, "role": "answer"}
"""Per-teacher settings that are part of the identity, with their defaults."""
_WHOLE = ("prompts_per_shard",)
"""Settings whose default depends on others: resolved once, when the dataset is bound, and always written."""


def identity_of(recipe: "Recipe") -> dict[str, Any]:
    """The identity that a dataset is bound to, as plain JSON: recipes can share a dataset only if theirs are equal."""
    dump = recipe.model_dump(mode="json")
    teachers = [
        {"name": teacher.name, "model": teacher.model_name, "weight": teacher.weight}
        | {"ask": teacher.ask.identity(), "extra": teacher.extra, "role": teacher.role}
        for teacher in recipe.teachers
    ]
    return reduced(
        {
            "source": {name: dump["source"][name] for name in _SOURCE},
            "ask": recipe.ask.identity(),
            "route": recipe.route,
            "teachers": teachers,
            "dedup": dump["dedup"],
            "checks": [check.identity() for check in recipe.checks],
            "select": recipe.select.identity() if recipe.select is not None else None,
            "prompts_per_shard": recipe.prompts_per_shard,
            "reasoning": dump["dataset"]["reasoning"],
            "images": dump["dataset"]["images"],
            "messages": recipe.messages,
            "provider_details": recipe.provider_details,
        }
    )


def asks_with_tools(identity: Mapping[str, Any]) -> bool:
    """True if the recipe offers a teacher tools, so that answers may call them."""
    extras = [identity.get("ask", {}), *answering_in(identity)]
    return offers_tools(identity) or any(each.get("extra", {}).get(name) for each in extras for name in TOOL_FIELDS)


def offers_tools(identity: Mapping[str, Any]) -> bool:
    """True if `ask.tools` or `source.tools` defines tools."""
    return bool(identity.get("ask", {}).get("tools") or identity.get("source", {}).get("tools"))


def wants_scores(identity: Mapping[str, Any]) -> bool:
    """True if a teacher is asked for log-probabilities, by `top_logprobs` or by a field of its API in `extra`."""
    ask = identity.get("ask", {})
    for teacher in identity.get("teachers", ({},)):
        asked = {**ask, **teacher.get("ask", {})}
        extra = {**(ask.get("extra") or {}), **(teacher.get("extra") or {})}
        if asked.get("top_logprobs") is not None or "logprobs" in json.dumps(extra).lower():
            return True
    return False


def scores(identity: Mapping[str, Any]) -> bool:
    """True if the records are scores of given tokens."""
    return bool(identity.get("ask", {}).get("score"))


def has_images(identity: Mapping[str, Any]) -> bool:
    """True if the recipe's prompts have images."""
    return bool(identity.get("source", {}).get("images"))


def checks_in(identity: Mapping[str, Any]) -> dict[str, Mapping[str, ValueType]]:
    """The names of the recipe's checks, in order, each with its own columns; the check of `ask.schema` comes first."""
    ask = identity.get("ask", {})
    has_schema = any({**ask, **teacher.get("ask", {})}.get("schema") for teacher in answering_in(identity))
    found: dict[str, Mapping[str, ValueType]] = {SCHEMA_CHECK: {}} if has_schema else {}
    kinds = [next(iter(check.items())) for check in identity.get("checks", ())]
    return found | {settings.get("name", kind): settings.get("returns", {}) for kind, settings in kinds}


def each_teacher(identity: Mapping[str, Any]) -> tuple[str, ...]:
    """The teachers that each answer every prompt, in the recipe's order; empty if they share the samples."""
    return tuple(teacher["name"] for teacher in answering_in(identity)) if identity.get("route") == "each" else ()


def grown_from(identity: Mapping[str, Any], earlier: Mapping[str, Any]) -> bool:
    """True if the identity is the earlier one, or adds teachers at the end of its chain (`route: fallback`)."""
    if identity == earlier or identity.get("route") != "fallback":
        return identity == earlier
    known = len(answering_in(earlier))
    judges = [teacher for teacher in identity["teachers"] if _is_judge(teacher)]
    return known > 0 and {**identity, "teachers": [*answering_in(identity)[:known], *judges]} == earlier


def answering_in(identity: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The teachers of an identity that answer prompts."""
    return [teacher for teacher in identity.get("teachers", ()) if not _is_judge(teacher)]


def _is_judge(teacher: Mapping[str, Any]) -> bool:
    return teacher.get("role") == "judge"


def has_selection(identity: Mapping[str, Any]) -> bool:
    """True if not all accepted answers to a prompt are kept."""
    return bool(identity.get("select"))


def has_votes(identity: Mapping[str, Any]) -> bool:
    """True if a vote selects which answers are kept."""
    return "majority" in identity.get("select", {})


def reduced(document: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without defaults and without fields that may grow.

    Raises:
        TypeError, KeyError, AttributeError: the document is not an identity.
    """
    from stillhouse.schemas.recipe import Recipe  # which has an identity

    teachers = list(document["teachers"])
    if sum(not _is_judge(teacher) for teacher in teachers) == 1:  # a weight only matters if there are several teachers
        teachers = [{name: value for name, value in teacher.items() if name != "weight"} for teacher in teachers]
    ask = {name: value for name, value in document.get("ask", {}).items() if name not in _GROWS}
    source = dict(document.get("source", {}))  # empty if there is only a template
    if "keep" in source:
        source["keep"] = [_less(keep, _defaults(Keep)) for keep in source["keep"]]
    sections = {
        "source": _less(source, _defaults(Source)),
        "ask": _less(ask, _defaults(Ask)),
        "teachers": [_less(_differing(teacher, ask), _OF_TEACHERS) for teacher in teachers],
        "dedup": _less(document.get("dedup", {}), _defaults(Dedup)),
    }
    rest = {name: value for name, value in document.items() if name not in sections}
    whole = {name: rest.pop(name) for name in _WHOLE}
    for name in ("checks", "select"):
        if not rest.get(name, True):
            del rest[name]
    defaults = _defaults(Dataset) | {"messages": MESSAGES, "provider_details": False}
    defaults["route"] = _defaults(Recipe)["route"]
    return {name: value for name, value in sections.items() if value} | whole | _less(rest, defaults)


def _differing(teacher: Mapping[str, Any], ask: Mapping[str, Any]) -> dict[str, Any]:
    """The teacher, with only those settings of its `ask` and `extra` that differ from the recipe's."""
    found = dict(teacher)
    if _is_judge(teacher):  # a judge uses nothing of the recipe's `ask`
        ask = {}
    if own := teacher.get("ask"):
        found["ask"] = {name: value for name, value in own.items() if value != ask.get(name)}
    if own := teacher.get("extra"):
        shared = ask.get("extra") or {}
        found["extra"] = {name: value for name, value in own.items() if name not in shared or value != shared[name]}
    return found


def _less(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}


def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    """A model's default values as JSON, by the names that recipes use."""
    found = {}
    for name, field in model.model_fields.items():
        if not field.is_required():
            value = field.get_default(call_default_factory=True)
            found[field.alias or name] = list(value) if isinstance(value, tuple) else value
    return found
