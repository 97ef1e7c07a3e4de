"""OpenAI's chat completions, as OpenAI and the many compatible servers actually behave: a tolerant reader.

Whatever is in the body, `read` returns an Outcome whose texts are valid Unicode and whose numbers fit their columns.
"""

import re
from typing import Any

import orjson

from stillhouse.gen.teachers.lenient_json import NoDocument, document_in, events_in
from stillhouse.gen.teachers.outcome import Ambiguous, Malformed, Outcome
from stillhouse.gen.teachers.protocols.chat_answer import answer_document, completion_of, folded, without_choice
from stillhouse.gen.teachers.signals import trouble_of
from stillhouse.gen.teachers.transport import Reply
from stillhouse.schemas.prompt import Message
from stillhouse.schemas.recipe import Ask
from stillhouse.schemas.teacher import Teacher

_PAGE = re.compile(rb"\A\s*<(?:!doctype|html|head|title|\?xml)", re.IGNORECASE)
_TITLE = re.compile(rb"<title>\s*([^<]{1,100})", re.IGNORECASE)


class OpenAIChat:
    """POST /chat/completions, one choice per request."""

    path = "/chat/completions"

    def __init__(self, teacher: Teacher, ask: Ask) -> None:
        self._teacher = teacher
        fields: dict[str, Any] = ask.parameters()
        extra = fields.pop("extra", {})
        self._seed = fields.pop("seed", None)
        if "max_tokens" in fields:
            fields[teacher.max_tokens_field] = fields.pop("max_tokens")
        if "top_logprobs" in fields:
            fields["logprobs"] = True
        fields |= extra
        self._head = b'{"model":' + orjson.dumps(teacher.model_name) + b',"messages":'
        self._tail = (b"," + orjson.dumps(fields)[1:-1] if fields else b"") + b"}"

    def headers(self, key: str | None) -> dict[str, str]:
        """JSON both ways, uncompressed: answers are small, and a decompressor is a way to exhaust memory."""
        headers = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
        return headers | ({"authorization": f"Bearer {key}"} if key else {})

    def body(self, messages: tuple[Message, ...], sample: int) -> bytes:
        """The request; only the messages, and the seed where there is one, differ from prompt to prompt."""
        seed = b"" if self._seed is None else b',"seed":%d' % (self._seed + sample)
        return self._head + orjson.dumps([{"role": r, "content": c} for r, c in messages]) + seed + self._tail

    def read(self, reply: Reply) -> Outcome:
        """The completion of a 2xx reply, else what the reply means."""
        if not 200 <= reply.status < 300:
            return trouble_of(reply)
        try:
            document = document_in(reply.body)
        except UnicodeDecodeError:
            return Malformed(f"the body is not UTF-8{_typed(reply)}", reply.status)
        except (NoDocument, RecursionError, ValueError):
            if (document := folded(events_in(reply.body))) is None:
                return _no_json(reply)
        answer = answer_document(document)
        if answer is None:
            found = document[0] if isinstance(document, list) and document else document
            if isinstance(found, dict) and not found.get("error") and (trouble := without_choice(found, reply.status)):
                return trouble
            return trouble_of(reply)
        try:
            return completion_of(answer, self._teacher)
        except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            return Malformed(f"no completion in the body ({type(error).__name__}: {error})", reply.status)


def _no_json(reply: Reply) -> Malformed | Ambiguous:
    """The words for a body that is no JSON document."""
    if not reply.body.strip(b"\0 \r\n\t"):
        return Ambiguous("the body is empty", reply.status)
    if _PAGE.match(reply.body):
        title = _TITLE.search(reply.body)
        named = f" ({title[1].decode('utf-8', 'replace').strip()})" if title else ""
        return Malformed(f"a web page{named} came instead of JSON: is base_url the API's address?", reply.status)
    return Ambiguous("the body is not a whole JSON document", reply.status)


def _typed(reply: Reply) -> str:
    kind = reply.headers.get("content-type")
    return f" (content-type: {kind[:100]})" if kind else ""
