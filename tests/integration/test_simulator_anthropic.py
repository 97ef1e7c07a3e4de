"""Anthropic's official client works with the simulator."""

from collections.abc import Iterator
from typing import Any

import pydantic
import pytest

from stillhouse.gen.simulator import SimulatorProcess, start
from stillhouse.schemas.simulator import SimulatorSettings

anthropic = pytest.importorskip("anthropic")

pytestmark = pytest.mark.filterwarnings("ignore:The model:DeprecationWarning")

QUESTION: Any = [{"role": "user", "content": "What is 6 * 7?"}]
TOOL: Any = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
}
LIMITS = {"requests_per_minute": 60_000, "input_tokens_per_minute": 10**8}


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    """A simulator with a key, and limits that are not met."""
    settings = {"api_key": "sk-ant-simulator", "output_tokens": [200, 300], "limits": LIMITS}
    with start(SimulatorSettings.model_validate(settings)) as process:
        yield process


def connect(simulator: SimulatorProcess, **fields: Any) -> Any:
    """The official client, without its own retries."""
    given = {"api_key": "sk-ant-simulator", "max_retries": 0} | fields
    return anthropic.Anthropic(base_url=simulator.url.removesuffix("/v1"), **given)


def test_a_message_is_complete(simulator: SimulatorProcess) -> None:
    """Text, usage, stop reason, id and limits."""
    reply = connect(simulator).messages.with_raw_response.create(
        model="claude-sonnet-4-5", max_tokens=1000, system="Be brief.", messages=QUESTION
    )
    message = reply.parse()
    assert message.content[0].text.endswith("#### 42")
    assert (message.stop_reason, message.model) == ("end_turn", "claude-sonnet-4-5")
    assert message.usage.input_tokens == 7
    assert message.usage.output_tokens >= 200
    assert reply.headers["anthropic-ratelimit-requests-limit"] == "60000"
    assert reply.headers["request-id"].startswith("req_")


def test_a_stream_adds_up_to_its_message(simulator: SimulatorProcess) -> None:
    """Thinking with its signature, then the text; the client's own accumulation is the judge."""
    with connect(simulator).messages.stream(
        model="claude-sonnet-4-5",
        max_tokens=4000,
        messages=QUESTION,
        thinking={"type": "enabled", "budget_tokens": 1024},
    ) as stream:
        message = stream.get_final_message()
    thought, text = message.content
    assert (thought.type, text.type) == ("thinking", "text")
    assert thought.thinking
    assert thought.signature
    assert text.text.endswith("#### 42")
    assert message.usage.output_tokens_details.thinking_tokens == 24


def test_the_vertex_client_accepts_it_too(simulator: SimulatorProcess) -> None:
    """Whole and streamed; the URL names the model, and a token is the key."""
    client = anthropic.AnthropicVertex(
        region="us-east5",
        project_id="p",
        access_token="sk-ant-simulator",
        base_url=simulator.url,
        max_retries=0,
    )
    asked: Any = {"model": "claude-sonnet-4-5@20250929", "max_tokens": 1000, "messages": QUESTION}
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        assert message.content[0].text.endswith("#### 42")
        assert (message.model, message.stop_reason) == (asked["model"], "end_turn")
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(access_token="another").messages.create(**asked)


def test_thoughts_are_shown_only_on_request(simulator: SimulatorProcess) -> None:
    """Without the request, the newest models return them without text."""
    client = connect(simulator)
    hidden = client.messages.create(model="claude-opus-5", max_tokens=1000, messages=QUESTION)
    shown = client.messages.create(
        model="claude-opus-5",
        max_tokens=1000,
        messages=QUESTION,
        thinking={"type": "adaptive", "display": "summarized"},
    )
    assert (hidden.content[0].thinking, bool(hidden.content[0].signature)) == ("", True)
    assert shown.content[0].thinking


def test_a_tool_is_called_and_answered(simulator: SimulatorProcess) -> None:
    """Arguments fit the schema, in a stream too; after the result comes text."""
    client = connect(simulator)
    first = client.messages.create(model="m", max_tokens=1000, messages=QUESTION, tools=[TOOL])
    with client.messages.stream(model="m", max_tokens=1000, messages=QUESTION, tools=[TOOL]) as stream:
        streamed = stream.get_final_message()
    for message in (first, streamed):
        (call,) = message.content
        assert (message.stop_reason, call.name) == ("tool_use", "weather")
        assert (type(call.input["city"]), type(call.input["days"])) == (str, int)
    result = {"type": "tool_result", "tool_use_id": first.content[0].id, "content": "sunny"}
    turns = [*QUESTION, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    last = client.messages.create(model="m", max_tokens=1000, messages=turns, tools=[TOOL])
    assert (last.stop_reason, last.content[0].type) == ("end_turn", "text")


@pytest.mark.parametrize(
    ("model", "fields", "said"),
    [
        ("claude-opus-4-7", {"extra_body": {"temperature": 0.5}}, "temperature"),
        ("claude-sonnet-4-5", {"extra_body": {"temperature": 0.5, "top_p": 0.9}}, "top_p"),
        ("claude-opus-5", {"thinking": {"type": "enabled", "budget_tokens": 2048}}, "thinking"),
        ("claude-fable-5", {"thinking": {"type": "disabled"}}, "thinking"),
        ("claude-opus-4-6", {"messages": [*QUESTION, {"role": "assistant", "content": "It"}]}, "prefill"),
        ("claude-sonnet-4-5", {"messages": [{"role": "tool", "content": "x"}]}, "role"),
    ],
)
def test_parameters_that_a_model_refuses_are_a_400(
    simulator: SimulatorProcess, model: str, fields: dict[str, Any], said: str
) -> None:
    """With the field's name in its message."""
    with pytest.raises(anthropic.BadRequestError, match=said):
        connect(simulator).messages.create(**{"model": model, "max_tokens": 4096, "messages": QUESTION} | fields)


def test_keys_are_checked(simulator: SimulatorProcess) -> None:
    """A wrong one is a 401 of the client's own type."""
    with pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key"):
        connect(simulator, api_key="sk-ant-other").messages.create(model="m", max_tokens=9, messages=QUESTION)


@pytest.mark.parametrize(
    ("status", "error"), [(429, "RateLimitError"), (529, "OverloadedError"), (500, "InternalServerError")]
)
def test_failures_raise_the_clients_own_errors(status: int, error: str) -> None:
    """With the client's own classes."""
    settings = SimulatorSettings.model_validate({"faults": [{"kind": "status", "status": status}]})
    with start(settings) as failing, pytest.raises(anthropic.APIStatusError) as caught:
        connect(failing).messages.create(model="m", max_tokens=9, messages=QUESTION)
    assert type(caught.value).__name__ == error
    assert caught.value.status_code == status


def test_the_cache_is_written_once_and_then_read(simulator: SimulatorProcess) -> None:
    """Tokens of either kind are not among `input_tokens`."""
    system: Any = [{"type": "text", "text": "word " * 2000, "cache_control": {"type": "ephemeral"}}]
    with start(SimulatorSettings()) as fresh:
        first, second = (
            connect(fresh).messages.create(model="m", max_tokens=99, system=system, messages=QUESTION) for _ in "ab"
        )
    assert (first.usage.cache_creation_input_tokens, first.usage.cache_read_input_tokens) == (2500, 0)
    assert (second.usage.cache_creation_input_tokens, second.usage.cache_read_input_tokens) == (0, 2500)
    assert second.usage.input_tokens == 4


class Shaped(pydantic.BaseModel):
    """The form of an answer, with bounds that the API does not take."""

    steps: list[str] = pydantic.Field(min_length=1, max_length=9)
    answer: int = pydantic.Field(ge=0)


def test_a_message_follows_the_requested_schema(simulator: SimulatorProcess) -> None:
    """The client makes the schema, and reads the answer back; a model without it refuses it."""
    client = connect(simulator)
    message = client.messages.parse(model="claude-sonnet-4-5", max_tokens=1000, messages=QUESTION, output_format=Shaped)
    assert message.parsed_output.answer == 42
    form = {"format": {"type": "json_schema", "schema": {"type": "object", "properties": {}}}}
    for model, words in (
        ("claude-sonnet-4-5", "must be explicitly set to false"),
        ("claude-3-5-haiku", "not supported"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=words):
            client.messages.create(model=model, max_tokens=1000, messages=QUESTION, output_config=form)
