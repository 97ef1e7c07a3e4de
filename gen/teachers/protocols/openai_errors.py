"""OpenAI's vocabulary of errors and limits, with those of the servers and gateways that speak its protocol.

Gateways pass on their upstream's codes and headers, so other providers' words are among them.
"""

import re

from stillhouse.gen.teachers.protocols.anthropic_errors import ANTHROPIC_LIMITS
from stillhouse.gen.teachers.vocabulary import COMMON, LimitHeaders

OPENAI_ERRORS = COMMON.extended(
    codes={
        "money": frozenset({"organization_usage_limit_exceeded"}),
        "busy": frozenset({"openrouter_in_flight_budget"}),
        "auth": frozenset({"authentication_error", "invalid_api_key", "api_key_invalid"}),
        "ramp": frozenset({"slow_down"}),
        "rate": frozenset({"rate_limit_exceeded", "rate_limit_error", "resource_exhausted"}),
        "overload": frozenset({"server_is_overloaded", "overloaded_error", "engine_overloaded", "unavailable_error"}),
        "too_long": frozenset({"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"}),
    },
    phrases={
        "ramp": re.compile("acceleration"),
        "too_large": re.compile("request too large for"),
    },
    code_fields=frozenset({"quotaId", "limit_source"}),
    code_names=frozenset({"flagged_input"}),  # OpenRouter's moderation: the name is the only sign
    code_headers=("x-amzn-errortype",),
    wait_fields=("retryDelay",),
    limits=(
        LimitHeaders("requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
        LimitHeaders("total", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
        # Fireworks
        LimitHeaders("input", "x-ratelimit-remaining-tokens-prompt", "x-ratelimit-reset-tokens-prompt"),
        LimitHeaders("output", "x-ratelimit-remaining-tokens-generated", "x-ratelimit-reset-tokens-generated"),
        *ANTHROPIC_LIMITS,  # behind a gateway
        # Together, OpenRouter
        LimitHeaders("requests", "x-ratelimit-remaining", "x-ratelimit-reset"),
    ),
)
