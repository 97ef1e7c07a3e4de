"""Anthropic's vocabulary of errors and limits."""

import re

from stillhouse.gen.teachers.vocabulary import COMMON, LimitHeaders

ANTHROPIC_LIMITS = (
    LimitHeaders("requests", "anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    LimitHeaders("total", "anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    LimitHeaders("input", "anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    LimitHeaders("output", "anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
)

ANTHROPIC_ERRORS = COMMON.extended(
    codes={
        "money": frozenset({"billing_error", "enforced_spend_limit_reached"}),
        "auth": frozenset({"authentication_error", "permission_error"}),
        "rate": frozenset({"rate_limit_error"}),
        "overload": frozenset({"overloaded_error"}),
        "too_long": frozenset({"request_too_large"}),
    },
    phrases={
        # The account's own spending limit comes as a 400.
        "money": re.compile(COMMON.phrases["money"].pattern + r"|specified (workspace )?api usage limits"),
        "ramp": re.compile("acceleration"),
    },
    code_fields=frozenset({"error_code"}),
    limits=ANTHROPIC_LIMITS,
)
