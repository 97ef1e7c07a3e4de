"""Parameters that an API or a model refuses: reported at the start, because the whole run would fail on them.

Parameters that are not known to be refused are sent. A recipe's `extra` is always sent unchanged: it is the way out if
a rule is out of date, and the API's own 400 then says what is wrong.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from stillhouse.schemas.claude_models import SEEN_ON, Claude, claude_of
from stillhouse.schemas.openai_models import SEEN_ON as OPENAI_SEEN_ON
from stillhouse.schemas.openai_models import OpenAIModel, openai_model_of
from stillhouse.schemas.schema_dialects import SCHEMA_DIALECTS, CantSend, is_object, sendable

_ABSENT: Mapping[str, Mapping[str, str]] = {
    "anthropic": {
        "top_logprobs": "Anthropic's API gives no log-probabilities",
        "seed": "Anthropic's API takes no seed",
    },
    "bedrock": {
        "top_logprobs": "Bedrock's Converse API gives no log-probabilities",
        "seed": "Bedrock's Converse API takes no seed",
    },
    "openai-responses": {
        "seed": "OpenAI's Responses API takes no seed",
        "stop": "OpenAI's Responses API has no stop sequences",
    },
}
"""For each API, the parameters that it does not have, and why."""

_HOTTEST = 1.0
"""The highest temperature that Anthropic's and Bedrock's APIs accept."""
_NO_SCORES = re.compile(r"gemini-([3-9]|\d\d)")
_SAMPLING = ("temperature", "top_p", "top_logprobs")
_OPENAI_HOSTS = ("openai.com", "openai.azure.com")
_OTHER_SCHEMA = (
    "give this teacher a schema of its own with `ask: {schema: …}`, or none with `ask: {schema: null}`, and have its "
    "answers checked by `json_schema`"
)


def refusals(
    api: str,
    model: str,
    asked: Mapping[str, JsonValue],
    extra: Mapping[str, JsonValue],
    *,
    hosts: Iterable[str] = (),
    schema: Mapping[str, Any] | None = None,
) -> Iterator[tuple[str, str]]:
    """(parameter, why it is refused and what to do) for each refused parameter of a teacher.

    Args:
        api: the teacher's API.
        model: the model's name there.
        asked: the parameters that are set.
        extra: further fields of the request.
        hosts: the teacher's hosts; a name such as `gpt-5.1` only says what a model accepts on its owner's hosts.
        schema: the JSON Schema that answers must fit.
    """
    if schema is not None and (why := _schema_refusal(api, model, schema, hosts)) is not None:
        yield "schema", f"{why}: {_OTHER_SCHEMA}"
    absent = _ABSENT.get(api, {})
    for name in asked:
        if name in absent:
            yield name, f"{absent[name]}: {_without(name)}"
    if "token_ids" in asked and "top_logprobs" not in {**asked, **extra}:
        yield "token_ids", "ids come with log-probabilities: add `top_logprobs` to `ask`, or leave `token_ids` out"
    if api in ("anthropic", "bedrock"):
        yield from _claude_refusals(api, model, asked, extra)
    elif api.startswith("openai") and any(host.endswith("openai.com") for host in hosts):
        if (family := openai_model_of(model)) is not None:
            for name, why in _by_openai_family(family, asked, has_tools=api == "openai-chat" and "tools" in extra):
                yield (
                    name,
                    f"{model} {why}. This was true in {OPENAI_SEEN_ON:%B %Y}; parameters in `extra` are sent unchanged",
                )
    elif "top_logprobs" in asked and _is_new_gemini(model, hosts):
        yield "top_logprobs", f"Gemini gives no log-probabilities from version 3 on: {_without('top_logprobs')}"


def _claude_refusals(
    api: str, model: str, asked: Mapping[str, JsonValue], extra: Mapping[str, JsonValue]
) -> Iterator[tuple[str, str]]:
    heat = asked.get("temperature")
    if isinstance(heat, (int, float)) and heat > _HOTTEST:
        yield "temperature", f"expected at most 1 with `api: {api}`, got {heat:g}"
    if api == "anthropic" and not ("max_tokens" in asked or "max_tokens" in extra):
        yield (
            "max_tokens",
            "`max_tokens` is missing: Anthropic's API requires it, such as `max_tokens: 4096`",
        )
    if (claude := claude_of(model)) is not None:
        for name, why in _by_family(claude, asked):
            yield name, f"{model} {why}. This was true in {SEEN_ON:%B %Y}; parameters in `extra` are sent unchanged"


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
            yield "reasoning_effort", f"takes no effort, only a budget of thinking tokens: {budget}"
        else:
            yield "reasoning_effort", f"takes none: {_without('reasoning_effort')}"


def _schema_refusal(api: str, model: str, schema: Mapping[str, Any], hosts: Iterable[str]) -> str | None:
    claude = claude_of(model) if api in ("anthropic", "bedrock") else None
    if claude is not None and claude.schema_on == "none":
        return f"{model} takes no schema. This was true in {SEEN_ON:%B %Y}"
    if claude is not None and api == "bedrock" and claude.schema_on == "its own API":
        return f"Bedrock's Converse API takes no schema for {model}. This was true in {SEEN_ON:%B %Y}"
    if api.startswith("openai") and any(host.endswith(_OPENAI_HOSTS) for host in hosts) and not is_object(schema):
        return "OpenAI's API only takes a schema of an object"
    try:
        if (dialect := SCHEMA_DIALECTS.get(api)) is not None:
            sendable(schema, dialect)
    except CantSend as error:
        return str(error)
    return None


def _is_new_gemini(model: str, hosts: Iterable[str]) -> bool:
    return _NO_SCORES.search(model) is not None and any(host.endswith("googleapis.com") for host in hosts)


def _by_openai_family(
    family: OpenAIModel, asked: Mapping[str, JsonValue], *, has_tools: bool
) -> Iterator[tuple[str, str]]:
    effort = asked.get("reasoning_effort")
    if family.reasons == "never" and effort is not None:
        yield "reasoning_effort", f"does not reason, and refuses it: {_without('reasoning_effort')}"
    if family.reasons == "always" and effort == "none":
        yield "reasoning_effort", "always reasons, and refuses `none`"
    if "stop" in asked and not family.stops:
        yield "stop", f"refuses it: {_without('stop')}"
    if effort == "none" or family.reasons == "never" or (effort is None and family.reasons == "when asked"):
        return
    way_out = "" if family.reasons == "always" else ", or ask with `reasoning_effort: none`"
    for name in _SAMPLING:
        if name in asked:
            yield name, f"refuses it while it reasons: {_without(name)}{way_out}"
    if has_tools and not family.tools_on_chat:
        yield "extra", f"calls tools while it reasons only over `api: openai-responses`: use that{way_out}"


def _without(name: str) -> str:
    return f"leave it out of `ask`, or remove it for this teacher with `ask: {{{name}: null}}`"
