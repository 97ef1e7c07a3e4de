"""boto3's client works with the simulator, which checks its signatures and makes its frames."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from stillhouse.gen.simulator import SimulatorProcess, start
from stillhouse.schemas.simulator import SimulatorSettings

MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
ARN = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-5-20250929-v1:0"
QUESTION: Any = [{"role": "user", "content": [{"text": "What is 6 * 7?"}]}]
TOOLS: Any = {
    "tools": [
        {
            "toolSpec": {
                "name": "weather",
                "inputSchema": {"json": {"type": "object", "properties": {"city": {"type": "string"}}}},
            }
        }
    ]
}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    """A simulator that takes one AWS key alone."""
    with start(SimulatorSettings(api_key="AKIDEXAMPLE:the-secret", output_tokens=(200, 300))) as process:
        yield process


def connect(simulator: SimulatorProcess, secret: str = "the-secret") -> Any:
    """The official client, without its own retries."""
    session: Any = boto3.Session(aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key=secret, region_name="us-east-1")
    config = Config(retries={"total_max_attempts": 1}, proxies={})
    return session.client("bedrock-runtime", endpoint_url=simulator.url.removesuffix("/v1"), config=config)


@pytest.mark.parametrize("model", [MODEL, ARN])
def test_an_answer_is_complete(simulator: SimulatorProcess, model: str) -> None:
    """Reasoning with its signature, text, usage and the request's id, for a name with colons and slashes too."""
    reply = connect(simulator).converse(
        modelId=model,
        messages=QUESTION,
        system=[{"text": "Be brief."}],
        inferenceConfig={"maxTokens": 1000, "temperature": 0.5},
        additionalModelRequestFields=THINKING,
    )
    thought, text = reply["output"]["message"]["content"]
    assert thought["reasoningContent"]["reasoningText"]["signature"]
    assert text["text"].endswith("#### 42")
    assert (reply["stopReason"], reply["usage"]["inputTokens"]) == ("end_turn", 7)
    assert reply["ResponseMetadata"]["RequestId"].startswith("00000000-0000-4000")


def test_a_stream_adds_up_to_its_message(simulator: SimulatorProcess) -> None:
    """Each frame passes the client's checks."""
    stream = connect(simulator).converse_stream(
        modelId=MODEL, messages=QUESTION, additionalModelRequestFields=THINKING
    )["stream"]
    events = list(stream)
    deltas = [event["contentBlockDelta"]["delta"] for event in events if "contentBlockDelta" in event]
    assert "".join(delta.get("text", "") for delta in deltas).endswith("#### 42")
    assert any("signature" in delta.get("reasoningContent", {}) for delta in deltas)
    assert events[-2]["messageStop"]["stopReason"] == "end_turn"
    assert events[-1]["metadata"]["usage"]["outputTokens"] > 200


def test_a_tool_is_called_and_answered(simulator: SimulatorProcess) -> None:
    """Arguments fit the schema; after the result comes text."""
    client = connect(simulator)
    first = client.converse(modelId=MODEL, messages=QUESTION, toolConfig=TOOLS)
    call = first["output"]["message"]["content"][0]["toolUse"]
    assert (first["stopReason"], call["name"], type(call["input"]["city"])) == ("tool_use", "weather", str)
    result = {"toolResult": {"toolUseId": call["toolUseId"], "content": [{"text": "sunny"}]}}
    turns = [*QUESTION, first["output"]["message"], {"role": "user", "content": [result]}]
    last = client.converse(modelId=MODEL, messages=turns, toolConfig=TOOLS)
    assert last["stopReason"] == "end_turn"


def test_a_wrong_secret_is_refused(simulator: SimulatorProcess) -> None:
    """With AWS's message."""
    with pytest.raises(ClientError, match="signature we calculated does not match"):
        connect(simulator, secret="another").converse(modelId=MODEL, messages=QUESTION)


@pytest.mark.parametrize(
    ("status", "code"),
    [(429, "ThrottlingException"), (503, "ServiceUnavailableException"), (424, "ModelErrorException")],
)
def test_failures_are_named(status: int, code: str) -> None:
    """By the header, as the client reads it."""
    settings = SimulatorSettings.model_validate({"faults": [{"kind": "status", "status": status}]})
    with start(settings) as failing, pytest.raises(ClientError) as caught:
        connect(failing).converse(modelId=MODEL, messages=QUESTION)
    assert caught.value.response["Error"]["Code"] == code


def test_bad_requests_are_named(simulator: SimulatorProcess) -> None:
    """Turns must alternate."""
    with pytest.raises(ClientError, match="alternate"):
        connect(simulator).converse(modelId=MODEL, messages=QUESTION * 2)


def test_an_answer_follows_the_requested_schema(simulator: SimulatorProcess) -> None:
    """The schema is text; one that is not closed is refused."""
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "additionalProperties": False}
    for changes, refused in (({}, False), ({"additionalProperties": True}, True)):
        structure = {"jsonSchema": {"name": "answer", "schema": json.dumps(schema | changes)}}
        given = {"textFormat": {"type": "json_schema", "structure": structure}}
        if refused:
            with pytest.raises(ClientError, match="must be explicitly set to false"):
                connect(simulator).converse(modelId=MODEL, messages=QUESTION, outputConfig=given)
        else:
            reply = connect(simulator).converse(modelId=MODEL, messages=QUESTION, outputConfig=given)
            assert json.loads(reply["output"]["message"]["content"][0]["text"]) == {"answer": 42}
