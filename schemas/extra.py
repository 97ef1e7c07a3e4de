"""Fields that a recipe adds to request bodies; they are stored with the dataset, so they must not hold a secret."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, JsonValue

from stillhouse.schemas.secret_patterns import holds_likely_key, is_secret_body_field

RESERVED = frozenset({"model", "messages", "input", "contents", "n", "stream", "stream_options"})
"""Names that a recipe must not add."""


def _sendable(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if taken := RESERVED & value.keys():
        raise ValueError(f"{', '.join(sorted(taken))}: set by Stillhouse itself; leave it out of `extra`")
    if (path := next(_secrets_in(value), None)) is not None:
        # The value may be a key, so the message does not repeat it.
        raise ValueError(
            f"{path}: expected no secret, because `extra` is stored with the dataset; use the teacher's `api_key`, "
            "or a header or query parameter that refers to an environment variable or a file "
            "(`headers: {name: env:NAME}`)"
        )
    return value


def _secrets_in(value: JsonValue, path: str = "") -> Iterator[str]:
    """The paths of values that are secrets by their name or form."""
    if isinstance(value, str):
        name = path.rpartition(".")[2]
        if value and (is_secret_body_field(name) or holds_likely_key(value)):
            yield path
    elif isinstance(value, dict):
        for name, each in value.items():
            if holds_likely_key(name):
                yield f"a name in {path}" if path else "a name"
            yield from _secrets_in(each, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from _secrets_in(each, f"{path}.{place}")


Extra = Annotated[dict[str, JsonValue], AfterValidator(_sendable)]
"""Fields of a request's body that no parameter covers."""
