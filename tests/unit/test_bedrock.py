"""Bedrock's Converse: what is asked and how it is signed, and what is read from answers good, odd and broken."""

import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st
from replies import completed, outcome_of

from stillhouse.gen.errors import UsageError
from stillhouse.gen.simulator.dialects.event_stream import frame
from stillhouse.gen.simulator.dialects.sigv4 import fault_of
from stillhouse.gen.simulator.wire import Request as Received
from stillhouse.gen.teachers.aws_keys import AwsChain, AwsKeys
from stillhouse.gen.teachers.key_kinds import wrong_kind
from stillhouse.gen.teachers.keys import Credentials, credentials_of
from stillhouse.gen.teachers.outcome import (
    Ambiguous,
    Auth,
    BadRequest,
    Malformed,
    Money,
    Outcome,
    Overload,
    Rate,
    ServerError,
    TooLong,
)
from stillhouse.gen.teachers.protocols import protocol_of
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.gen.teachers.transport import HttpRequest
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion, FinishReason, Usage
from stillhouse.schemas.teacher import Teacher

URL = "https://bedrock-runtime.eu-central-1.amazonaws.com"
MODEL = "eu.amazon.nova-pro-v1:0"
ARN = "arn:aws:bedrock:eu-central-1:123456789012:inference-profile/eu.amazon.nova-pro-v1:0"
MESSAGES = (("system", "s"), ("user", "q\n\u2028é"))
KEYS = AwsKeys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "token/of+a==session")
NOW = 1_795_687_200.0


def teacher(**fields: Any) -> Teacher:
    """A teacher at a region's own host."""
    given = {"name": "t", "api": "bedrock", "base_url": URL, "model": MODEL, "terms": {"training_use": "permitted"}}
    return Teacher.model_validate(given | fields)


def request(
    ask: Ask, messages: Any = MESSAGES, *, keys: AwsKeys | None = KEYS, key: str | None = None, **fields: Any
) -> HttpRequest:
    """What is sent for these messages."""
    who = teacher(**fields)
    credentials = Credentials(key, aws=None if keys is None or key else AwsChain(keys))
    return protocol_of(who, ask).request(Request(messages), base_url=who.urls[0], key=credentials, now=NOW)


def sent(ask: Ask, messages: Any = MESSAGES, **fields: Any) -> dict[str, Any]:
    """Its body."""
    found: dict[str, Any] = json.loads(request(ask, messages, **fields).body)
    return found


def fault(made: HttpRequest, *, secret: str = KEYS.secret_key, now: float = NOW) -> tuple[str, str] | None:
    """What the receiving side finds wrong with a signed request."""
    host, _, path = made.url.removeprefix("https://").partition("/")
    headers = {name.encode(): value.encode() for name, value in made.headers.items()} | {b"host": host.encode()}
    path, _, query = path.partition("?")
    received = Received(made.method, f"/{path}", headers, made.body, keep_alive=True, query=query)
    return fault_of(received, key=f"{KEYS.access_key}:{secret}", service="bedrock", now=now)


# --- requests


def test_a_full_request_holds_every_parameter() -> None:
    """In Converse's names; `extra` is merged, object by object."""
    ask = Ask(temperature=0.7, top_p=0.9, stop="a", max_tokens=99, extra={"inferenceConfig": {"topK": 5}, "x": 1})
    assert sent(ask) == {
        "inferenceConfig": {"temperature": 0.7, "topP": 0.9, "stopSequences": ["a"], "maxTokens": 99, "topK": 5},
        "x": 1,
        "system": [{"text": "s"}],
        "messages": [{"role": "user", "content": [{"text": "q\n\u2028é"}]}],
    }
    assert sent(Ask(), (("user", "q"),)) == {"messages": [{"role": "user", "content": [{"text": "q"}]}]}


def test_turns_alternate() -> None:
    """Neighbours of one role are one turn."""
    body = sent(Ask(), (("user", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")))
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][0]["content"] == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(("model", "given", "marked"), [(MODEL, None, False), (MODEL, True, True), ("c", None, False)])
def test_only_supported_models_get_a_cache_point(model: str, given: bool | None, marked: bool) -> None:
    """They refuse one; Claude gets it where all rows share the system prompt."""
    body = sent(Ask(system="s"), model=model, cache_prompt=given)
    assert ({"cachePoint": {"type": "default"}} in body["system"]) is marked


def test_claude_on_bedrock_gets_claudes_parameters() -> None:
    """Claude's own fields go where Converse wants them."""
    terms = {"training_use": "by-authorisation", "authorisation": "letter 7"}
    body = sent(
        Ask(system="s", reasoning_effort="high"), model="us.anthropic.claude-opus-4-8-v1:0", terms=terms, keys=None
    )
    thinking = {"type": "adaptive", "display": "summarized"}
    assert body["additionalModelRequestFields"] == {"thinking": thinking, "output_config": {"effort": "high"}}
    assert body["system"][-1] == {"cachePoint": {"type": "default"}}


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (MODEL, "/model/eu.amazon.nova-pro-v1%3A0/converse"),
        (ARN, f"/model/{ARN.replace(':', '%3A').replace('/', '%2F')}/converse"),
    ],
)
@pytest.mark.parametrize("query", [{}, {"b": "x y", "a": "1"}])
def test_a_signature_is_valid_for_the_receiver(model: str, path: str, query: dict[str, str]) -> None:
    """For names with colons and slashes and any query; another secret's does not."""
    who = teacher(model=model, query=query)
    credentials = Credentials(query="b=x%20y&a=1" if query else "", aws=AwsChain(KEYS))
    made = protocol_of(who, Ask()).request(Request(MESSAGES), base_url=URL, key=credentials, now=NOW)
    assert made.url.partition("?")[0] == URL + path
    assert made.headers["x-amz-security-token"] == KEYS.token
    assert fault(made) is None
    assert fault(made, secret="another") is not None


def test_a_signature_equals_the_official_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 signs the same path, service and region: the scopes are equal, and each holds at the receiving side."""
    seen: list[Any] = []
    session: Any = boto3.Session(*KEYS, region_name="eu-central-1")
    client = session.client("bedrock-runtime", config=Config(proxies={}))

    def answered(request: Any, **_: Any) -> Any:
        seen.append(request)
        return _answered()

    client.meta.events.register("before-send.*", answered)
    client.converse(modelId=ARN, messages=[{"role": "user", "content": [{"text": "q"}]}])
    theirs, ours = seen[0], request(Ask(), model=ARN)
    assert theirs.url == ours.url
    scope = "/eu-central-1/bedrock/aws4_request"
    assert scope in _text(theirs.headers["Authorization"])
    assert scope in ours.headers["authorization"]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _answered() -> Any:
    from botocore.awsrequest import AWSResponse
    from botocore.compat import HTTPHeaders

    response: Any = AWSResponse(URL, 200, HTTPHeaders(), None)
    response._content = json.dumps(answer_of({"text": "four"})).encode()  # noqa: SLF001 - where botocore keeps a body
    return response


def test_a_request_is_signed_with_the_given_time() -> None:
    """Not by the machine's clock: the server's may be another."""
    made = request(Ask())
    assert made.headers["x-amz-date"] == "20261126T100000Z"
    assert fault(made, now=NOW + 299) is None
    assert "Signature expired" in str(fault(made, now=NOW + 86_400))
    assert "not yet current" in str(fault(made, now=NOW - 86_400))


def test_each_request_has_its_own_signature() -> None:
    """Of one second or the next, a day later, of one endpoint or another, and with other keys: each holds."""
    protocol = protocol_of(teacher(), Ask())
    seen = set()
    for keys in (KEYS, KEYS._replace(token="another-token")):
        credentials = Credentials(aws=AwsChain(keys))
        for url in (URL, URL.replace("https://", "https://vpce-1.")):
            for at in (NOW, NOW + 0.9, NOW + 1, NOW + 86_400, NOW):
                for text in ("q", "r"):
                    asked = Request((("user", text),))
                    made = protocol.request(asked, base_url=url, key=credentials, now=at)
                    assert fault(made, now=at) is None, (url, at, text)
                    assert made.headers["x-amz-security-token"] == keys.token
                    seen.add(made.headers["authorization"])
    assert len(seen) == 2 * 2 * 3 * 2
    assert fault(made._replace(body=made.body + b" "), now=NOW) is not None


def test_a_bearer_key_needs_no_signature() -> None:
    """And its headers are one object, as of any protocol with a key."""
    made = request(Ask(), key="ABSK-key", api_key="env:K")
    assert made.headers["authorization"] == "Bearer ABSK-key"
    assert "x-amz-date" not in made.headers


def test_keys_are_never_shown() -> None:
    """Not in any text form of what holds them."""
    made = request(Ask())
    for shown in (repr(KEYS), str(KEYS), repr(Credentials("k", aws=AwsChain(KEYS))), repr(made)):
        assert KEYS.secret_key not in shown
        assert str(KEYS.token) not in shown


# --- keys


def test_keys_come_from_the_recipes_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """And all of them count as secrets."""
    for name, value in zip(("ID", "SECRET", "TOKEN"), KEYS, strict=True):
        monkeypatch.setenv(f"TEST_AWS_{name}", str(value))
    aws = {"access_key_id": "env:TEST_AWS_ID", "secret_access_key": "env:TEST_AWS_SECRET"}
    found = credentials_of(teacher(aws=aws | {"session_token": "env:TEST_AWS_TOKEN"}))
    assert found.aws is not None
    assert found.aws.current(now=NOW) == KEYS
    assert set(found.secrets) == set(KEYS[1:])


def test_keys_come_from_the_aws_credential_chain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Environment or profile; Bedrock's own key, where there is one, comes first as with boto3."""
    _no_aws(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
    found = credentials_of(teacher())
    assert found.aws is not None
    assert found.aws.keys == AwsKeys("AKIDEXAMPLE", "the-secret")
    assert credentials_of(teacher()) == found
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    assert credentials_of(teacher()) != found
    (tmp_path / "credentials").write_text("[p]\naws_access_key_id = AKIDPROFILE\naws_secret_access_key = ps\n")
    of_profile = credentials_of(teacher(aws={"profile": "p"})).aws
    assert of_profile is not None
    assert of_profile.keys == AwsKeys("AKIDPROFILE", "ps")
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "ABSKtest-key")
    assert (credentials_of(teacher()).key, credentials_of(teacher()).aws) == ("ABSKtest-key", None)


def test_a_node_without_keys_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the ways out; a profile that does not exist is named."""
    _no_aws(monkeypatch, tmp_path)
    with pytest.raises(UsageError, match=r"teachers\.t: no AWS keys were found on this node"):
        credentials_of(teacher())
    with pytest.raises(UsageError, match="gone"):
        credentials_of(teacher(aws={"profile": "gone"}))


def _no_aws(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TEST_KEY", "AKIAIOSFODNN7EXAMPLE", "an AWS access key's id"),
        ("TEST_KEY", "sk-ant-api03-xxxxxxxxxxxxxxxx", "a key of Anthropic"),
    ],
)
def test_a_key_of_the_wrong_kind_is_explained(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    """Before it causes a 403, and without showing the key."""
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=said) as caught:
        credentials_of(teacher(api_key=f"env:{name}"))
    assert value not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "begins", "owner"),
    [
        ("https://api.deepseek.com", "gsk_", "DeepSeek"),
        ("https://api.mistral.ai/v1", "AIza", "Mistral"),
        ("https://api.together.xyz/v1", "sk-ant-", "Together"),
        ("https://name.openai.azure.com", "sk-proj-", "Azure"),
        ("https://llm.test/v1", "sk-proj-", None),  # a gateway may take anyone's
        ("https://api.deepseek.com", "sk-", None),  # tells no owner
    ],
)
def test_a_provider_never_gets_another_providers_key(url: str, begins: str, owner: str | None) -> None:
    """If the key shows whose it is."""
    said = wrong_kind(f"{begins}0123456789abcdef", urls=[url])
    assert (said or "").endswith(f"takes a key of {owner}") == (owner is not None), said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"base_url": "https://proxy.test"}, "contain the region"),
        ({"base_url": "https://bedrock-runtime.us-east-1.amazonaws.com/model/m/converse"}, "the API's base URL"),
        ({"base_url": None}, "aws: {region"),
        ({"aws": {"access_key_id": "env:A"}}, "go together"),
        ({"aws": {"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "env:A"}}, "never the key itself"),
        ({"api_key": "env:K", "aws": {"profile": "p"}}, "got both"),
        ({"api": "openai-chat", "aws": {"region": "us-east-1"}}, "works only with `api: bedrock`"),
    ],
)
def test_region_and_keys_must_be_complete(fields: dict[str, Any], said: str) -> None:
    """A recipe that leaves the region or half of a key open is refused."""
    with pytest.raises(ValueError, match=said) as caught:
        teacher(**fields)
    assert "AKIAIOSFODNN7EXAMPLE" not in str(caught.value).partition("[type=")[0]


def test_the_address_follows_from_the_region() -> None:
    """And a proxy's address needs it."""
    assert teacher(base_url=None, aws={"region": "us-west-2"}).urls == (
        "https://bedrock-runtime.us-west-2.amazonaws.com",
    )
    assert teacher(base_url="https://proxy.test", aws={"region": "us-west-2"}).region == "us-west-2"


# --- answers


def answer_of(*content: Any, **fields: Any) -> dict[str, Any]:
    """A whole reply."""
    return {
        "output": {"message": {"role": "assistant", "content": list(content)}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 10, "outputTokens": 3, "totalTokens": 13},
        "metrics": {"latencyMs": 5},
    } | fields


def read(document: Any, *, status: int = 200, kind: str | None = None, **fields: Any) -> Outcome:
    """What a reply says; `kind`: the exception's name in its header."""
    headers = {"x-amzn-requestid": "r-1"} | ({"x-amzn-errortype": kind} if kind else {})
    return outcome_of(protocol_of(teacher(**fields), Ask()), document, status=status, headers=headers)


def answer(document: Any, **fields: Any) -> Completion:
    """The completion that it must be."""
    return completed(read(document, **fields))


REASONING = {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}}
CALL = {"toolUse": {"toolUseId": "t-1", "name": "f", "input": {"a": 1}}}


def test_a_full_answer_is_read() -> None:
    """Thoughts with their signatures, text, calls, usage and the id, which is in a header alone."""
    redacted = {"reasoningContent": {"redactedContent": "ZW5j"}}
    said = answer(answer_of(REASONING, redacted, {"text": "four"}, CALL, stopReason="tool_use"))
    assert (said.text, said.reasoning, said.reasoning_source) == ("four", "hm", "reasoningContent")
    assert json.loads(said.reasoning_signatures or "") == [{"signature": "sig"}, {"redacted": "ZW5j"}]
    assert json.loads(said.tool_calls or "") == [
        {"id": "t-1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    ]
    assert (said.finish_reason, said.finish_reason_raw, said.response_id) == ("tool_calls", "tool_use", "r-1")
    assert said.model is None


@pytest.mark.parametrize(("total", "expected"), [(113, 110), (13, 10), (None, 110)])
def test_the_total_tells_if_input_includes_cached_tokens(total: int | None, expected: int) -> None:
    """Models differ, and the reference does not say."""
    usage = {"inputTokens": 10, "outputTokens": 3, "totalTokens": total}
    usage |= {"cacheReadInputTokens": 80, "cacheWriteInputTokens": 20}
    found = answer(answer_of({"text": "four"}, usage=usage)).usage
    assert found == Usage(expected, cached_tokens=80, output_tokens=3, cache_write_tokens=20)


@pytest.mark.parametrize(
    ("word", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("content_filtered", "content_filter"),
        ("guardrail_intervened", "content_filter"),
        ("refusal", "refused"),
        ("something_new", "unknown"),
    ],
)
def test_finish_reasons(word: str, finish: FinishReason) -> None:
    """Raw and normalised."""
    said = answer(answer_of({"text": "four"}, stopReason=word))
    assert (said.finish_reason, said.finish_reason_raw) == (finish, word)


def test_a_guardrails_policy_is_the_refusal_category() -> None:
    """What it says in the model's place is not an answer."""
    said = answer(answer_of({"text": "Sorry."}, stopReason="guardrail_intervened"))
    assert (said.finish_reason, said.refusal_category) == ("content_filter", "guardrail")


@pytest.mark.parametrize(
    "document",
    [
        answer_of() | {"output": {"message": {"content": "four"}}},
        answer_of() | {"output": {"message": {"content": {"text": "four"}}}},
        answer_of(None, {"text": "four"}),
        {"data": answer_of({"text": "four"})},
        [{"body": answer_of({"text": "four"})}],
    ],
)
def test_an_answer_is_read_in_other_shapes(document: Any) -> None:
    """Text for blocks, nulls among them, envelopes: gateways' ways."""
    assert answer(document) == answer(answer_of({"text": "four"}))


@pytest.mark.parametrize("output", [None, {}, {"message": None}, {"message": {"content": None}}])
def test_a_guardrail_reply_may_lack_a_message(output: Any) -> None:
    """The guardrail itself says that there is no answer."""
    said = answer(answer_of(stopReason="guardrail_intervened") | {"output": output})
    assert (said.text, said.finish_reason, said.refusal_category) == (None, "content_filter", "guardrail")


# --- streams


def frames() -> list[bytes]:
    """A stream's frames."""
    events: list[tuple[str, dict[str, Any]]] = [
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "h"}}}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "m"}}}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"signature": "sig"}}}),
        ("contentBlockStop", {"contentBlockIndex": 0}),
        ("somethingNew", {}),
        ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "four"}}),
        ("contentBlockStop", {"contentBlockIndex": 1}),
        ("contentBlockStart", {"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "t-1", "name": "f"}}}),
        ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": '{"a"'}}}),
        ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": ":1}"}}}),
        ("contentBlockStop", {"contentBlockIndex": 2}),
        ("messageStop", {"stopReason": "tool_use"}),
        ("metadata", {"usage": {"inputTokens": 10, "outputTokens": 3, "totalTokens": 13}}),
    ]
    return [frame(kind, event) for kind, event in events]


def test_a_stream_reads_like_an_unstreamed_reply() -> None:
    """Block by block; a block may begin with its first delta."""
    twin = answer_of(REASONING, {"text": "four"}, CALL, stopReason="tool_use")
    assert answer(b"".join(frames())) == answer(twin)


@pytest.mark.parametrize("kept", range(1, 13))
def test_a_stream_without_its_end_is_cut(kept: int) -> None:
    """Wherever it breaks off, between two frames or inside one."""
    whole = frames()
    assert isinstance(read(b"".join(whole[:kept])), Ambiguous)
    assert isinstance(read(b"".join(whole[:kept]) + whole[kept][:-3]), Ambiguous)


def test_a_stream_without_its_metadata_has_no_usage() -> None:
    """The answer is still whole, as it is if the metadata can't be read."""
    whole = b"".join(frames())
    late = frame("throttlingException", {"message": "words"}, kind="exception")
    for body in (b"".join(frames()[:-1]), whole[:-9], whole[:-1] + b"\0", b"".join([*frames()[:-1], late])):
        assert answer(body)._replace(usage=Usage()) == answer(whole)._replace(usage=Usage())
        assert answer(body).usage == Usage()


def test_unknown_frames_are_skipped() -> None:
    """Frames after the last one aren't read either."""
    known = frames()
    noise = frame("ping", {})
    assert answer(b"".join([known[0], noise, *known[1:], b"\n"])) == answer(b"".join(known))


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("throttlingException", {}, Rate),
        ("serviceUnavailableException", {}, Overload),
        ("internalServerException", {}, ServerError),
        ("validationException", {}, BadRequest),
        ("modelStreamErrorException", {}, Overload),
        ("modelStreamErrorException", {"originalStatusCode": 500}, ServerError),
    ],
)
def test_an_exception_in_a_stream_is_classified_as_elsewhere(name: str, fields: dict[str, Any], expected: type) -> None:
    """Although the status was 200."""
    made = frame(name, {"message": "words", **fields}, kind="exception")
    buffer: Any = EventStreamBuffer()
    buffer.add_data(made)
    assert next(iter(buffer)).headers[":exception-type"] == name  # botocore reads it so too
    assert isinstance(read(frames()[0] + made), expected)


# --- errors


@pytest.mark.parametrize(
    ("status", "kind", "said", "expected"),
    [
        (400, "ValidationException", "Input is too long for requested model.", TooLong),
        (400, "ValidationException", "prompt is too long: 250000 tokens > 200000 maximum", TooLong),
        (400, "ValidationException", "Malformed input request: extraneous key [x] is not permitted", BadRequest),
        (400, "ServiceQuotaExceededException", "Your request exceeds the service quota.", Rate),
        (403, "AccessDeniedException", "You don't have access to the model with the specified model ID.", Auth),
        (403, "ExpiredTokenException", "The security token included in the request is expired", Auth),
        (403, "UnrecognizedClientException", "The security token included in the request is invalid.", Auth),
        (403, "InvalidSignatureException", "Signature expired: 20261125T060000Z is now earlier than …", Auth),
        (404, "ResourceNotFoundException", "Could not resolve the foundation model", BadRequest),
        (408, "ModelTimeoutException", "Model is timed out", Overload),
        (424, "ModelErrorException", "The system encountered an unexpected error", Overload),
        (429, "ThrottlingException", "Too many requests, please wait before trying again.", Rate),
        (429, "ThrottlingException", "Too many tokens, please wait before trying again.", Rate),
        (429, "ThrottlingException", "Too many tokens per day, please wait before trying again.", Money),
        (429, "ModelNotReadyException", "Model is not ready for inference.", Rate),
        (500, "InternalServerException", "The system encountered an unexpected error", ServerError),
        (503, "ServiceUnavailableException", "Bedrock is unable to process your request.", Overload),
    ],
)
def test_errors_are_classified(status: int, kind: str, said: str, expected: type) -> None:
    """Its name may be in the header, with an address, or in the body, with a namespace."""
    header = f"{kind}:http://internal.amazon.com/coral/com.amazon.bedrock/"
    assert isinstance(read({"message": said}, status=status, kind=header), expected)
    assert isinstance(read({"__type": f"com.amazon.coral.service#{kind}", "Message": said}, status=status), expected)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, Malformed),
        ([], Malformed),
        (answer_of(), Malformed),
        (answer_of() | {"output": {}}, Malformed),
        (answer_of() | {"output": {"message": {"content": None}}}, Malformed),
        (answer_of({"text": "x"}, stopReason="malformed_model_output"), Malformed),
        (answer_of({"text": "x"}, stopReason="malformed_tool_use"), Malformed),
        (answer_of(7), Malformed),
        (b"", Ambiguous),
        (b'{"output": {', Ambiguous),
        (b"\x00\x00\x00\x10garbage", Ambiguous),
    ],
)
def test_a_200_without_an_answer_is_not_an_answer(body: Any, expected: type) -> None:
    """Never a record."""
    assert isinstance(read(body), expected), read(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = ("output", "stopReason", "usage", "trace", "additionalModelResponseFields")
_BLOCKS = ("text", "reasoningContent", "toolUse", "citationsContent")


@given(st.sampled_from(_FIELDS), st.sampled_from(_BLOCKS), json_values)
def test_reading_never_raises(field: str, block: str, value: Any) -> None:
    """Whatever is in any field."""
    read(answer_of({"text": "four"}) | {field: value})
    read(answer_of({block: value}))
    read(b"".join([frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {block: value}}), *frames()[-2:]]))


@given(st.integers(0, 2000), st.binary(max_size=8))
def test_any_damage_is_detected(at: int, noise: bytes) -> None:
    """A stream with bytes changed is not an answer; behind its end, the usage is unknown."""
    whole = b"".join(frames())
    at = at % len(whole)
    damaged = whole[:at] + noise + whole[at + len(noise) :]
    if damaged != whole and isinstance(found := read(damaged), Completion):
        assert at >= len(b"".join(frames()[:-1]))
        assert found == answer(b"".join(frames()[:-1]))
