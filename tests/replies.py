"""Replies as a protocol reads them, for the tests of each API."""

import json
from collections.abc import Mapping
from typing import Any

from stillhouse.gen.teachers.outcome import Outcome
from stillhouse.gen.teachers.protocols.base import Protocol
from stillhouse.gen.teachers.transport import Reply
from stillhouse.schemas.completion import Completion


def outcome_of(
    protocol: Protocol,
    document: Any,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    latency_s: float = 0,
) -> Outcome:
    """The outcome of a reply, folded and read; a document that is not bytes is sent as JSON."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return protocol.read(protocol.fold(Reply(status, headers or {}, body, latency_s)))


def completed(outcome: Outcome) -> Completion:
    """The completion that it must be."""
    assert isinstance(outcome, Completion), outcome
    return outcome
