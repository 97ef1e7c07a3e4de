"""Parameters that an API or a model refuses: said before anything is asked, for the whole run would fail on them.

What is not known to be refused is sent. A recipe's `extra` is always sent as it is: the way out where a rule is out of
date, and the API's own 400 then says what is wrong.
"""

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from stillhouse.schemas.claude_models import SEEN_ON, Claude, claude_of

_ABSENT: Mapping[str, Mapping[str, str]] = {
    "anthropic": {
        "top_logprobs": "Anthropic's API gives no log probabilities",
        "seed": "Anthropic's API takes no seed",
    },
    "bedrock": {
        "top_logprobs": "Bedrock's Converse API gives no log probabilities",
        "seed": "Bedrock's Converse API takes no seed",
    },
}
"""By API: parameters that it does not have, and why."""

_HOTTEST = 1.0
"""The highest temperature of these APIs."""


def refusals(
    api: str, model: str, asked: Mapping[str, JsonValue], extra: Mapping[str, JsonValue]
) -> Iterator[tuple[str, str]]:
    """(parameter, why it is refused and what to do) for each of the parameters that a teacher is asked with."""
    absent = _ABSENT.get(api)
    if absent is None:
        return
    for name in asked:
        if name in absent:
            yield name, f"{absent[name]}: {_without(name)}"
    heat = asked.get("temperature")
    if isinstance(heat, (int, float)) and heat > _HOTTEST:
        yield "temperature", f"expected at most 1 with `api: {api}`, got {heat:g}"
    if api == "anthropic" and not ("max_tokens" in asked or "max_tokens" in extra):
        yield (
            "max_tokens",
            "`max_tokens` is missing: Anthropic's API wants it, such as `max_tokens: 4096`",
        )
    if (claude := claude_of(model)) is not None:
        for name, why in _by_family(claude, asked):
            yield name, f"{model} {why}. So it was in {SEEN_ON:%B %Y}; what stands in `extra` is sent as it is"


def _by_family(claude: Claude, asked: Mapping[str, JsonValue]) -> Iterator[tuple[str, str]]:
    sampling = [name for name in ("temperature", "top_p") if name in asked]
    if sampling and claude.samples == "none":
        for name in sampling:
            yield name, f"refuses it: {_without(name)}"
    elif len(sampling) == 2 and claude.samples == "one":
        yield "top_p", f"refuses temperature and top_p together: {_without('top_p')}"
    effort = asked.get("reasoning_effort")
    if effort == "none" and claude.thinks == "always":
        yield "reasoning_effort", "always thinks, and refuses `none`"
    elif effort not in (None, "none", *claude.efforts):
        if claude.efforts:
            yield "reasoning_effort", f"takes {', '.join(claude.efforts)}, got {effort}"
        elif claude.budget:
            budget = "`extra: {thinking: {type: enabled, budget_tokens: 4096}}`"
            yield "reasoning_effort", f"takes no effort but a budget of thinking tokens: {budget}"
        else:
            yield "reasoning_effort", f"takes none: {_without('reasoning_effort')}"


def _without(name: str) -> str:
    return f"leave it out of `ask`, or remove it for this teacher with `ask: {{{name}: null}}`"
