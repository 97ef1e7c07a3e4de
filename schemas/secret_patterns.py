"""Patterns of secrets, and names of fields that hold them, so that messages never repeat them."""

import re

OWNERS = (  # longest prefixes first
    ("sk-ant-", "Anthropic"),
    ("sk-or-", "OpenRouter"),
    ("sk-proj-", "OpenAI"),
    ("sk-svcacct-", "OpenAI"),
    ("AIza", "Google"),
    ("ya29.", "Google Cloud"),
    ("gsk_", "Groq"),
    ("xai-", "xAI"),
    ("hf_", "Hugging Face"),
    ("fw_", "Fireworks"),
    ("ABSK", "Bedrock"),
)
"""Prefixes of keys, and whose they are; as the providers' pages showed them in autumn 2026."""

_BEGINNINGS = "|".join(
    re.escape(each) for each in (*(start for start, _ in OWNERS), "sk-", "AKIA", "ghp_", "xox", "eyJ")
)
"""Also prefixes that don't identify an owner: many servers', AWS, GitHub, Slack, and any JSON Web Token."""

_KEY = re.compile(
    rf"\b({_BEGINNINGS})[A-Za-z0-9_\-*.]{{6,}}|Bearer\s+\S+|x-amz-security-token:\S+",
    re.ASCII,
)
"""Whole keys, or keys with their middle masked."""
_MAYBE_KEY = re.compile(rf"(?i)\b({_BEGINNINGS}|bearer\b|basic\b)|://[^/\s]*@")

_WORDS = "auth|cookie|passw|secret|credential|signature"
_HEADER = re.compile(rf"(?i){_WORDS}|token|(^|[-_.])(api)?-?_?(key|sig)$")
_FIELD = re.compile(
    rf"(?i){_WORDS}|token(?!s)|(^|[_-])key$|^key|api_?key|bearer|url|endpoint|^headers$|^query$",
)
"""A URL may hold a password; `max_tokens` does not."""

_BODY_FIELD = re.compile(
    r"(?i)(.*[-_])?(api[-_]?keys?|(access|secret|private|auth)[-_]?keys?|secrets?|passw(or)?d|passphrase|cookies?"
    r"|(proxy[-_]?)?authorization|credentials?|bearer|(access|api|auth|bearer|id|refresh|session|security)[-_]?token)"
)
"""Narrower than the others: `prompt_cache_key`, `eos_token` and `image_url` are ordinary fields of a request's body."""
_LEAST_KEY = 20
"""No provider's key is shorter, but words that begin like one are, such as sk-learn."""


def without_likely_keys(text: str) -> str:
    """The text with [key] in place of anything that looks like a key."""
    return _KEY.sub("[key]", text)


def may_hold_secret(text: str) -> bool:
    """True if the text should not be repeated; in doubt, True."""
    return _MAYBE_KEY.search(text) is not None


def holds_likely_key(text: str) -> bool:
    """True if part of the text is almost certainly a key: long enough, and with a digit."""
    found = (match[0] for match in _KEY.finditer(text))
    return any(len(each) >= _LEAST_KEY and any(map(str.isdigit, each)) for each in found)


def is_secret_body_field(name: str) -> bool:
    """True if text in a request body's field of this name is a secret."""
    return _BODY_FIELD.fullmatch(name) is not None


def is_secret_header(name: str) -> bool:
    """True if a header or query parameter of this name holds a secret."""
    return _HEADER.search(name) is not None


def is_secret_field(path: str) -> bool:
    """True if a recipe's field at the dotted path may hold a secret, even by mistake."""
    return any(_FIELD.search(name) for name in path.split("."))
