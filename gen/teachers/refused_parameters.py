"""Finds the parameter of `ask` that a refusal is about, by any of its names on the wire."""

import re

from stillhouse.gen.teachers.outcome import BadRequest
from stillhouse.schemas.ask import Ask

_NAMES = {
    "temperature": ("temperature",),
    "top_p": ("top_p", "topp"),
    "stop": ("stop", "stop_sequences", "stopsequences"),
    "seed": ("seed", "random_seed"),
    "reasoning_effort": ("reasoning_effort", "reasoning.effort", "thinking", "thinkingconfig", "thinking_level"),
    "top_logprobs": ("top_logprobs", "logprobs", "responselogprobs", "response_logprobs"),
    "max_tokens": ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxoutputtokens"),
    "schema": (
        "response_format",
        "text.format",
        "output_config.format",
        "output_format",
        "outputconfig",
        "responsejsonschema",
        "response_json_schema",
        "json_schema",
    ),
}
_BY_NAME = {wire: name for name, wires in _NAMES.items() for wire in wires}
_NAMED = re.compile(rf"(?<![\w.])({'|'.join(sorted(map(re.escape, _BY_NAME), key=len, reverse=True))})(?!\w)", re.I)


def refused_parameter(refusal: BadRequest, ask: Ask) -> str | None:
    """The parameter that the teacher was asked with and that its refusal names, if it does."""
    given = ask.given()
    named = [refusal.parameter or "", *_NAMED.findall(refusal.message)]
    return next((name for each in named if (name := _BY_NAME.get(each.lower())) in given), None)
