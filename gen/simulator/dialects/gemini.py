"""Google's generateContent, as on AI Studio and Vertex."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from stillhouse.gen.simulator.answers import Answer
from stillhouse.gen.simulator.dialects.base import Asked, BadRequest, Error, Spoken
from stillhouse.gen.simulator.dialects.images import inline_image
from stillhouse.gen.simulator.dialects.messages import asked_prompt, parts_of
from stillhouse.gen.simulator.dialects.openai_chat import logprobs_of, token_id_of
from stillhouse.gen.simulator.faults import FROM_PROXIES, proxy_page
from stillhouse.gen.simulator.limits import Level, Refusal
from stillhouse.gen.simulator.texts import CHARS_PER_TOKEN
from stillhouse.gen.simulator.tools import Tool
from stillhouse.gen.simulator.wire import EVENT_STREAM, Request
from stillhouse.schemas.image import linked_key
from stillhouse.schemas.prompt import Message

_PATH = re.compile(
    r"(?:/v1(?:beta1?|alpha)?)*(?:/projects/[^/]+/locations/[^/]+)?(?:/publishers/[^/]+)?/models/([^/:]+):(\w+)"
)
_METHODS = ("generateContent", "streamGenerateContent")
_STATUSES = {
    400: ("INVALID_ARGUMENT", "Request contains an invalid argument."),
    401: ("UNAUTHENTICATED", "Request had invalid authentication credentials."),
    402: ("RESOURCE_EXHAUSTED", "Your prepaid credits are depleted."),
    403: ("PERMISSION_DENIED", "The caller does not have permission"),
    404: ("NOT_FOUND", "The model is not found for API version v1beta, or is not supported for generateContent."),
    429: ("RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later."),
    500: ("INTERNAL", "An internal error has occurred."),
    503: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
}
"""Status to (Google's name for it, message)."""
_FINISHES = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS"}
_PIECE_CHARS = 64 * CHARS_PER_TOKEN
_RPC = "type.googleapis.com/google.rpc."


class Gemini:
    """POST /v1beta/models/MODEL:generateContent and :streamGenerateContent."""

    stream_type = EVENT_STREAM

    def takes(self, path: str) -> bool:
        """True for a path of this API in any version, with or without a project."""
        found = _PATH.fullmatch(path)
        return found is not None and found[2] in _METHODS

    def response_id(self, serial: int) -> str:
        """An id without a prefix."""
        return f"gemini-{serial}"

    def headers(self, serial: int, levels: Sequence[Level], *, now: float) -> dict[str, str]:
        """Google states no limits in headers."""
        return {"server-timing": f"gfet4t7; dur={serial % 100}"}

    def unauthorized(self, request: Request, key: str, *, now: float) -> Error | None:
        """A key in its own header or the query, or a bearer token."""
        if "upload_id=" in request.query:  # a secret of its own
            return None
        shown = request.headers.get(b"x-goog-api-key", b"").decode("latin-1")
        bearer = request.headers.get(b"authorization", b"").decode("latin-1")
        if key in (shown, bearer.removeprefix("Bearer ")) or f"key={key}" in request.query.split("&"):
            return None
        if bearer:
            return _error(401, "Request had invalid authentication credentials.")
        if not shown and "key=" not in request.query:
            return _error(
                403, "Method doesn't allow unregistered callers. Please use API Key or other form of identity."
            )
        reason = {"@type": f"{_RPC}ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
        return _error(400, "API key not valid. Please pass a valid API key.", reason)

    def parse(self, request: Request) -> Asked:
        """Parse the request."""
        try:
            payload = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            raise BadRequest("Invalid JSON payload received.") from None
        if not isinstance(payload, dict):
            raise BadRequest("Invalid JSON payload received. The payload must be an object.")
        found = _PATH.fullmatch(request.path)
        assert found is not None
        in_array = "alt=sse" not in request.query.split("&")
        return _asked(_camel(payload), model=found[1], stream=found[2] == "streamGenerateContent", in_array=in_array)

    def answer(self, spoken: Spoken) -> bytes:
        """A document with all candidates."""
        candidates = [_candidate(answer, index, spoken.asked) for index, answer in enumerate(spoken.answers)]
        return orjson.dumps({"candidates": candidates} | self._frame(spoken))

    def stream(self, spoken: Spoken) -> list[bytes]:
        """Documents with new parts, as elements of an array or as events, which have no end marker."""
        frame = self._frame(spoken)
        documents = [
            {"candidates": [candidate]} | frame
            for index, answer in enumerate(spoken.answers)
            for candidate in _chunks(_candidate(answer, index, spoken.asked))
        ]
        if spoken.asked.in_array:
            separators = [b"[", *[b",\r\n"] * (len(documents) - 1)]
            pieces = zip(separators, map(orjson.dumps, documents), strict=True)
            return [*map(b"".join, pieces), b"]"]
        return [b"data: %b\r\n\r\n" % orjson.dumps(document) for document in documents]

    def bad_request(self, error: BadRequest) -> Error:
        """The field is in the details."""
        violation = {"field": error.param or "", "description": str(error)}
        return _error(400, str(error), {"@type": f"{_RPC}BadRequest", "fieldViolations": [violation]})

    def limited(self, refusal: Refusal) -> Error:
        """The wait is only in the body."""
        quota = "GenerateRequestsPerMinutePerProjectPerModel"
        if refusal.kind == "tokens":
            quota = "GenerateContentInputTokensPerModelPerMinute"
        violation = {"quotaId": quota, "quotaMetric": f"generativelanguage.googleapis.com/{refusal.kind}"}
        return _error(
            429,
            f"You exceeded your current quota. Please retry in {refusal.retry_after_s:.9f}s.",
            {"@type": f"{_RPC}QuotaFailure", "violations": [violation]},
            {"@type": f"{_RPC}RetryInfo", "retryDelay": f"{refusal.retry_after_s:.9f}s"},
        )

    def failure(self, status: int) -> Error:
        """Google's error, or the proxy's page."""
        if status in FROM_PROXIES:
            return Error(status, proxy_page(status))
        return _error(status, _STATUSES.get(status, ("", f"Simulated failure with status {status}."))[1])

    def _frame(self, spoken: Spoken) -> dict[str, Any]:
        asked, answers = spoken.asked, spoken.answers
        thoughts = sum(answer.reasoning_tokens for answer in answers)
        tokens = sum(answer.completion_tokens for answer in answers)
        usage = {"promptTokenCount": asked.prompt_tokens, "totalTokenCount": asked.prompt_tokens + tokens}
        usage |= {"candidatesTokenCount": tokens - thoughts} if tokens > thoughts else {}
        usage |= {"thoughtsTokenCount": thoughts} if thoughts else {}
        return {
            "usageMetadata": usage,
            "modelVersion": asked.model,
            "responseId": self.response_id(spoken.serial),
        }


def _error(status: int, message: str, *details: dict[str, Any]) -> Error:
    name = _STATUSES.get(status, ("UNKNOWN", ""))[0]
    error = {"code": status, "message": message, "status": name} | ({"details": list(details)} if details else {})
    return Error(status, orjson.dumps({"error": error}))


def _camel(value: Any) -> Any:
    """The payload with names in camelCase (either form is accepted); schemas and arguments stay as they are."""
    if isinstance(value, list):
        return [_camel(each) for each in value]
    if not isinstance(value, dict):
        return value
    named = {re.sub(r"_(\w)", lambda found: found[1].upper(), name): each for name, each in value.items()}
    kept = ("parameters", "parametersJsonSchema", "args", "response", "responseSchema", "responseJsonSchema", "labels")
    return {name: each if name in kept else _camel(each) for name, each in named.items()}


def _asked(payload: dict[str, Any], *, model: str, stream: bool, in_array: bool) -> Asked:
    config = payload.get("generationConfig")
    config = config if isinstance(config, dict) else {}
    contents = payload.get("contents")
    contents = contents if isinstance(contents, list) else [contents]
    messages = [*_system(payload.get("systemInstruction")), *map(_message, contents)]
    if config.get("stopSequences") == []:
        raise BadRequest("stop_sequences must not be empty.", param="generation_config.stop_sequences")
    thinks, shown = _thinking(config.get("thinkingConfig"))
    mode = _mode(payload.get("toolConfig"))
    answered = any("functionResponse" in part for part in _parts(contents[-1]))
    prompt = asked_prompt(tuple(messages), _images(contents))
    return Asked(
        model=model,
        message=prompt.message,
        prompt=prompt.prompt,
        prompt_tokens=prompt.tokens,
        images=prompt.images,
        n=_number(config, "candidateCount", most=8) or 1,
        max_tokens=_number(config, "maxOutputTokens"),
        seed=_number(config, "seed", least=-(2**31), most=2**31 - 1),
        top_logprobs=_top_logprobs(config),
        tools=() if answered or mode == "NONE" else _tools(payload.get("tools")),
        must_call=mode == "ANY",
        thinks=thinks,
        schema=_answer_schema(config),
        stream=stream,
        in_array=stream and in_array,
        shows_reasoning=shown,
    )


def _answer_schema(config: dict[str, Any]) -> Mapping[str, Any] | None:
    """The requested schema, given as JSON Schema or in the older form of OpenAPI, which has type names in capitals."""
    if config.get("responseMimeType") != "application/json":
        if "responseJsonSchema" in config or "responseSchema" in config:
            raise BadRequest("response_mime_type must be application/json for a schema.", param="generation_config")
        return None
    schema = config.get("responseJsonSchema", config.get("responseSchema"))
    return _lower(schema) if isinstance(schema, dict) else None


def _lower(schema: Any) -> Any:
    """The schema with type names in lower case."""
    if isinstance(schema, list):
        return [_lower(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: each.lower() if name == "type" and isinstance(each, str) else _lower(each)
        for name, each in schema.items()
    }


def _system(given: Any) -> list[Message]:
    return [("system", part["text"]) for part in _parts(given) if isinstance(part.get("text"), str)]


def _message(content: Any) -> Message:
    if not isinstance(content, dict) or not (parts := _parts(content)):
        raise BadRequest("contents: contents is not specified", param="contents")
    role = content.get("role") or "user"
    if role not in ("user", "model", "function"):
        raise BadRequest("Please use a valid role: user, model.", param="contents.role")
    said = [part for part in parts if "inlineData" not in part and "fileData" not in part]
    texts = [part["text"] if isinstance(part.get("text"), str) else orjson.dumps(part).decode() for part in said]
    return "assistant" if role == "model" else "user", "\n".join(texts)


def _images(contents: Any) -> Iterator[bytes]:
    for part in parts_of(contents, "parts"):
        match part:
            case {"inlineData": {"mimeType": "image/gif"}}:
                raise BadRequest("Unsupported MIME type: image/gif", param="contents.parts.inline_data")
            case {"inlineData": {"mimeType": kind, "data": data}}:
                yield inline_image(data, kind, param="contents.parts.inline_data")
            case {"fileData": {"fileUri": str(url)}} if url.startswith("https://"):
                yield linked_key(url)
            case {"inlineData": _} | {"fileData": _}:
                raise BadRequest("Unable to process input image.", param="contents.parts")


def _parts(content: Any) -> list[dict[str, Any]]:
    parts = content.get("parts") if isinstance(content, dict) else None
    parts = [parts] if isinstance(parts, dict) else parts
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _number(config: dict[str, Any], name: str, *, least: int = 1, most: int = 2**31 - 1) -> int | None:
    value = config.get(name)
    if value is None:
        return None
    if type(value) is not int or not least <= value <= most:
        raise BadRequest(f"{name} must be an integer from {least} to {most}.", param=f"generation_config.{name}")
    return value


def _thinking(given: Any) -> tuple[bool | None, bool]:
    """(whether reasoning is switched on or off, whether it is shown)."""
    if not isinstance(given, dict):
        return None, False
    budget, level, shown = given.get("thinkingBudget"), given.get("thinkingLevel"), given.get("includeThoughts") is True
    if budget is not None and level is not None:
        message = "Cannot use both thinking_level and the legacy thinking_budget parameter."
        raise BadRequest(message, param="generation_config.thinking_config")
    return (True if level or shown else None) if budget is None else budget != 0, shown


def _top_logprobs(config: dict[str, Any]) -> int | None:
    top = _number(config, "logprobs", least=0, most=20)
    if config.get("responseLogprobs") is True:
        return top or 0
    if top is not None:
        raise BadRequest("logprobs requires response_logprobs.", param="generation_config.logprobs")
    return None


def _mode(given: Any) -> Any:
    calling = given.get("functionCallingConfig") if isinstance(given, dict) else None
    return calling.get("mode") if isinstance(calling, dict) else None


def _tools(given: Any) -> tuple[Tool, ...]:
    found = []
    for each in given if isinstance(given, list) else []:
        for function in each.get("functionDeclarations") or [] if isinstance(each, dict) else []:
            if not isinstance(function, dict) or not isinstance(name := function.get("name"), str):
                raise BadRequest("A function declaration must have a name.", param="tools")
            found.append(Tool(name, _schema(function.get("parametersJsonSchema") or function.get("parameters") or {})))
    return tuple(found)


def _schema(value: Any) -> Any:
    """The schema with JSON Schema's type names, because Google writes them in capitals."""
    if isinstance(value, list):
        return [_schema(each) for each in value]
    if not isinstance(value, dict):
        return value
    lowered = {name: _schema(each) for name, each in value.items()}
    return lowered | ({"type": kind.lower()} if isinstance(kind := value.get("type"), str) else {})


def _candidate(answer: Answer, index: int, asked: Asked) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    if answer.reasoning and asked.shows_reasoning:
        parts.append({"text": answer.reasoning, "thought": True})
    said: dict[str, Any] | None = {"text": answer.content} if answer.content else None
    if answer.call is not None:
        said = {"functionCall": {"name": answer.call.name, "args": dict(answer.call.arguments)}}
    if said is not None:
        signature = base64.b64encode((answer.reasoning or "").encode()).decode()
        parts.append(said | ({"thoughtSignature": signature} if answer.reasoning else {}))
    content = {"role": "model"} | ({"parts": parts} if parts else {})
    found = {"content": content, "finishReason": _FINISHES[answer.finish_reason], "index": index}
    return found | _scores(answer.content, asked.top_logprobs)


def _scores(text: str, top: int | None) -> dict[str, Any]:
    """Each token with an id, which is drawn from its characters."""
    scores = logprobs_of(text, top)
    if scores is None:
        return {}
    content = scores["content"]
    chosen = [_token(entry) for entry in content]
    tops = [{"candidates": [_token(each) for each in entry["top_logprobs"]]} for entry in content]
    mean = sum(entry["logprob"] for entry in content) / max(1, len(content))
    return {"avgLogprobs": mean, "logprobsResult": {"chosenCandidates": chosen, "topCandidates": tops}}


def _token(entry: dict[str, Any]) -> dict[str, Any]:
    token = entry["token"]
    return {"token": token, "tokenId": token_id_of(token), "logProbability": entry["logprob"]}


def _chunks(candidate: dict[str, Any]) -> list[dict[str, Any]]:
    """A candidate in pieces; its finish reason and scores come with the last one."""
    bare = {"index": candidate["index"]}
    last = {name: value for name, value in candidate.items() if name not in ("content", "index")}
    parts = [piece for part in candidate["content"].get("parts", []) for piece in _pieces(part)]
    contents = [{"role": "model", "parts": [part]} for part in parts] or [{"role": "model"}]
    found = [{"content": content} | bare for content in contents]
    return [*found[:-1], found[-1] | last]


def _pieces(part: dict[str, Any]) -> list[dict[str, Any]]:
    text = part.get("text")
    if not isinstance(text, str):
        return [part]
    rest = {name: value for name, value in part.items() if name not in ("text", "thoughtSignature")}
    signature = {name: value for name, value in part.items() if name == "thoughtSignature"}
    pieces = [{"text": text[at : at + _PIECE_CHARS]} | rest for at in range(0, len(text), _PIECE_CHARS)]
    return [*pieces[:-1], pieces[-1] | signature]
