"""How Claude is asked to think and what its reasoning is, on its own API and on Bedrock's."""

from collections.abc import Mapping
from typing import Any

from stillhouse.schemas.claude_models import claude_of, is_claude

_SUMMARISED = {"type": "adaptive", "display": "summarized"}


def thinking_fields(model: str, effort: str | None) -> dict[str, Any]:
    """Fields of a request that set an effort, or make a model that thinks by default show its reasoning.

    Otherwise the newest models return reasoning without text, although it is paid for.
    """
    claude = claude_of(model)
    if effort == "none":
        return {"thinking": {"type": "disabled"}}
    fields: dict[str, Any] = {} if effort is None else {"output_config": {"effort": effort}}
    if claude is None or not claude.adaptive or (effort is None and claude.thinks == "when asked"):
        return fields
    return fields | {"thinking": _SUMMARISED}


def is_summary(model: Any) -> bool | None:
    """True if a model's reasoning is a summary; None for a model other than Claude."""
    if not isinstance(model, str) or not is_claude(model):
        return None
    claude = claude_of(model)
    return claude is None or claude.shows != "text"


def merged(fields: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """A request's fields with the recipe's `extra` over them; objects are merged, because an API groups its fields."""
    found = dict(fields)
    for name, value in extra.items():
        ours = found.get(name)
        found[name] = merged(ours, value) if isinstance(ours, dict) and isinstance(value, dict) else value
    return found
