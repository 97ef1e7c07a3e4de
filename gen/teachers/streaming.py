"""Decides which requests ask for a stream, and suggests streaming if a teacher needs it."""

import re
from dataclasses import replace
from typing import TypeVar
from urllib.parse import urlsplit

from stillhouse.gen.teachers.outcome import Ambiguous, BadRequest, Trouble
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.teacher import Teacher

LONG_TOKENS = 4_096
"""Answers that may be longer than this are streamed after a timeout; a shorter one timed out for another reason."""

CUT_SILENCE = (
    "proxy.runpod.net",  # Cloudflare, 100 s
    "trycloudflare.com",  # Cloudflare, 100 s
    "modal.run",  # a redirect after 150 s
    "herokuapp.com",  # 30 s to the first byte, 55 s between bytes
    "azurewebsites.net",  # 230 s
    "azurecontainerapps.io",  # 240 s
)
"""Hosts, including all below each, whose front end cuts a connection that is silent for this long."""

_NEEDS_STREAM = re.compile(
    r"non-?streaming|only\b.{0,40}\b(support|work|allow|available)\w*\b.{0,40}\bstream"
    r"|(support|work|allow)\w*\b.{0,20}\bonly\b.{0,20}\bstream"
    r"|\bstream\w*\b.{0,30}\b(is required|must be (true|set|enabled))"
    r"|\b(set|use|requires?|needs?)\b.{0,20}\bstream(ing)?\b ?[`'\"]?(=|:|to)? ?[`'\"]?true",
    re.IGNORECASE,
)

_T = TypeVar("_T", bound=Trouble)


class Streaming:
    """Decides when one teacher's answers are streamed."""

    def __init__(self, teacher: Teacher, ask: Ask) -> None:
        """`ask`: what this teacher is asked."""
        self._setting = teacher.stream
        is_long = ask.max_tokens is None or ask.max_tokens > LONG_TOKENS
        self.after_timeout = self._setting == "auto" and is_long
        """True if an endpoint at which an answer timed out is asked for streams from then on."""

    def begins_with(self, url: str) -> bool:
        """True if the endpoint with this URL is asked for streams from the start."""
        if self._setting != "auto":
            return self._setting
        host = urlsplit(url).hostname or ""
        return any(host == each or host.endswith(f".{each}") for each in CUT_SILENCE)

    def advised(self, trouble: _T) -> _T:
        """The trouble, with the advice to stream in its message if that would help."""
        if self._setting is True:
            return trouble
        if isinstance(trouble, BadRequest) and _NEEDS_STREAM.search(trouble.message):
            return replace(trouble, message=f"{trouble.message} (set this teacher's `stream: true`)")
        if isinstance(trouble, Ambiguous) and (trouble.status or 0) >= 400 and not self.after_timeout:
            return replace(trouble, message=f"{trouble.message}; `stream: true` gets past that")
        return trouble
