"""The JSON document in a 2xx reply, or what its absence means."""

import re
from collections.abc import Callable
from typing import Any

from stillhouse.gen.teachers.event_stream import is_stream
from stillhouse.gen.teachers.lenient_json import NoDocument, document_in
from stillhouse.gen.teachers.long_lists import TakenOut, is_json, take_out
from stillhouse.gen.teachers.outcome import Ambiguous, Malformed, Outcome, Overload, Ramp, Rate, ServerError, Trouble
from stillhouse.gen.teachers.transport import Reply
from stillhouse.schemas.completion import Completion, Usage

HAS_BEGUN = "has_begun"
"""A field of our own, in the document of a stream that ended in an error: true if part of an answer had come before."""

UNKNOWN_SHAPE = (LookupError, TypeError, AttributeError, ValueError, RecursionError)
"""Exceptions of reading a document that has another shape, or is nested too deeply."""

_PAGE = re.compile(rb"\A\s*<(?:!doctype|html|head|title|\?xml)", re.IGNORECASE)
_TITLE = re.compile(rb"<title>\s*([^<]{1,100})", re.IGNORECASE)


def document_of(reply: Reply) -> Any | Malformed | Ambiguous:
    """The document; an Outcome if the body contains none."""
    try:
        return document_in(reply.body)
    except UnicodeDecodeError:
        if is_stream({}, reply.body):  # cut within a character
            return _no_document(reply)
        kind = reply.headers.get("content-type")
        typed = f" (content-type: {kind[:100]})" if kind else ""
        return Malformed(f"the body is not UTF-8{typed}", reply.status)
    except (NoDocument, RecursionError, ValueError):
        return _no_document(reply)


def read_with_lists(
    reply: Reply, lists: re.Pattern[bytes], read: Callable[[Reply, TakenOut | None], Outcome]
) -> Outcome:
    """Read the reply, with its long lists of scores taken out if that gives a completion with scores.

    `lists`: see `take_out`; `read`: gets the reply without them, and them, or the whole reply and None.
    """
    if (taken := take_out(reply.body, lists)) is not None:
        outcome = read(reply._replace(body=taken.rest), taken)
        if isinstance(outcome, Completion) and outcome.scores is not None and all(map(is_json, taken.lists)):
            return outcome
    return read(reply, None)


def without_answer(reply: Reply, usage: Usage | None = None) -> Malformed:
    """What a document means that has an answer's outline, but something else in it."""
    begins = " ".join(reply.body[:300].decode("utf-8", "replace").split())
    return Malformed(
        f"no answer where this API puts it, in a body that begins {begins}", reply.status, usage or Usage()
    )


def broken_off(trouble: Trouble, document: Any, usage: Usage | None = None) -> Trouble:
    """The meaning of an error that ended a stream, in the folded document; within an answer, it may be billed.

    A wait that is free otherwise then counts as a failure; what no other attempt fixes stays what it is.
    """
    begun = isinstance(document, dict) and document.get(HAS_BEGUN) is True
    if not begun or not isinstance(trouble, (Rate, Ramp, Overload, ServerError, Malformed)):
        return trouble
    return ServerError(f"the answer broke off: {trouble.message}", 200, usage or Usage())


def _no_document(reply: Reply) -> Malformed | Ambiguous:
    if not reply.body.strip(b"\0 \r\n\t"):
        return Ambiguous("the body is empty", reply.status)
    if _PAGE.match(reply.body):
        title = _TITLE.search(reply.body)
        named = f" ({title[1].decode('utf-8', 'replace').strip()})" if title else ""
        return Malformed(f"a web page{named} came instead of JSON: is base_url the API's address?", reply.status)
    if is_stream({}, reply.body):
        return Ambiguous("the stream ended before the answer was complete", reply.status)
    return Ambiguous("the body is not a complete JSON document", reply.status)
