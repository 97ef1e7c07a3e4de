"""Where Claude's Messages API is served: by Anthropic and similar services, or on Vertex, whose URLs name the model."""

from functools import partial
from typing import NamedTuple

from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.protocols.anthropic_errors import ANTHROPIC_ERRORS
from stillhouse.gen.teachers.protocols.base import Destinations
from stillhouse.gen.teachers.protocols.gemini import cloud_headers
from stillhouse.gen.teachers.protocols.google_errors import with_google_words
from stillhouse.gen.teachers.vocabulary import ErrorVocabulary
from stillhouse.schemas.google_hosts import is_vertex, model_base
from stillhouse.schemas.teacher import Teacher

_VERSION = "/v1"
_TOKENS = ("sk-ant-oat", "ABSK", "bedrock-api-key-", "eyJ")
"""Prefixes of what is not an API key: OAuth logins at Anthropic, keys of Bedrock's Mantle, tokens of Entra for
Foundry."""


class Place(NamedTuple):
    """How one teacher's endpoints take requests."""

    head: dict[str, str]
    """Fields of every request's body."""
    whole: Destinations
    streamed: Destinations
    errors: ErrorVocabulary


def place_of(teacher: Teacher) -> Place:
    """The place of the teacher's endpoints, which are all of one kind."""
    if not is_vertex(teacher.urls[0]):
        messages = Destinations("/messages", key_headers, base=versioned)
        return Place({"model": teacher.model_name}, messages, messages, ANTHROPIC_ERRORS)
    path, base = f"/models/{teacher.model_name}", partial(model_base, publisher="anthropic")
    return Place(
        {"anthropic_version": "vertex-2023-10-16"},
        Destinations(f"{path}:rawPredict", cloud_headers, base=base),
        Destinations(f"{path}:streamRawPredict", cloud_headers, base=base),
        with_google_words(ANTHROPIC_ERRORS),
    )


def versioned(base_url: str) -> str:
    """The base URL with the API's version, which may be left out."""
    return base_url if base_url.endswith(_VERSION) else base_url + _VERSION


def key_headers(key: Credentials) -> dict[str, str]:
    """JSON both ways, uncompressed; a token is sent in another header than a key."""
    headers = {
        "content-type": "application/json",
        "accept": "application/json",
        "accept-encoding": "identity",
        "anthropic-version": "2023-06-01",
    }
    if not key.key:
        return headers
    return headers | ({"authorization": f"Bearer {key.key}"} if key.key.startswith(_TOKENS) else {"x-api-key": key.key})
