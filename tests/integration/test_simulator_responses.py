"""OpenAI's official client works with the simulator's Responses API."""

from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest

from stillhouse.gen.simulator import SimulatorProcess, start
from stillhouse.schemas.simulator import SimulatorSettings

QUESTION = "What is 6 * 7?"
TOOL: Any = {
    "type": "function",
    "name": "add",
    "description": "Adds.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
}


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    """The client of a simulator that reasons if asked to."""
    with start(SimulatorSettings(output_tokens=(200, 300), api_key="sk-right-key-for-tests")) as process:
        yield connect(process)


def connect(simulator: SimulatorProcess, **changes: Any) -> openai.OpenAI:
    """The official client, without its own retries."""
    return openai.OpenAI(base_url=simulator.url, max_retries=0, **{"api_key": "sk-right-key-for-tests"} | changes)


def test_a_response_has_its_text_reasoning_and_usage(client: openai.OpenAI) -> None:
    """Its items in order, the reasoning summed up and encrypted."""
    found = client.responses.create(
        model="m", input=QUESTION, instructions="Be brief.", reasoning={"effort": "low", "summary": "auto"}, store=False
    )
    assert found.status == "completed"
    assert found.output_text.endswith("#### 42")
    thought, said = found.output
    assert thought.type == "reasoning"
    assert thought.summary[0].text
    assert thought.encrypted_content
    assert said.type == "message"
    assert found.usage is not None
    assert found.usage.output_tokens_details.reasoning_tokens == 24


def test_a_stream_adds_up_to_the_response(client: openai.OpenAI) -> None:
    """The client's own accumulation agrees with the last event."""
    with client.responses.stream(model="m", input=QUESTION, reasoning={"effort": "low", "summary": "auto"}) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text
    assert final.output_text.endswith("#### 42")


def test_a_tool_is_called_and_its_result_is_answered(client: openai.OpenAI) -> None:
    """Its arguments fit its schema, streamed or not."""
    history: Any = [{"role": "user", "content": "Add something."}]
    found = client.responses.create(model="m", input=history, tools=[TOOL], tool_choice="required")
    (call,) = found.output
    assert call.type == "function_call"
    assert '"a":' in call.arguments
    history += [call.to_dict(), {"type": "function_call_output", "call_id": call.call_id, "output": "3"}]
    assert client.responses.create(model="m", input=history, tools=[TOOL]).output_text
    with client.responses.stream(model="m", input="Add.", tools=[TOOL], tool_choice="required") as stream:
        (streamed,) = stream.get_final_response().output
    assert streamed.type == "function_call"


def test_log_probabilities_come_if_included(client: openai.OpenAI) -> None:
    """With as many alternatives as asked; not together with reasoning."""
    include: Any = ["message.output_text.logprobs"]
    found = client.responses.create(model="m", input=QUESTION, include=include, top_logprobs=5)
    (said,) = found.output
    assert said.type == "message"
    part = said.content[0]
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert "".join(each.token for each in part.logprobs) == found.output_text
    assert all(len(each.top_logprobs) == 5 for each in part.logprobs)
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="m", input=QUESTION, include=include, reasoning={"effort": "low"})


def test_a_response_may_be_incomplete(client: openai.OpenAI) -> None:
    """Reasoning may use up all of the tokens."""
    found = client.responses.create(model="m", input=QUESTION, max_output_tokens=20, reasoning={"effort": "low"})
    assert found.status == "incomplete"
    assert found.incomplete_details is not None
    assert found.incomplete_details.reason == "max_output_tokens"
    assert [item.type for item in found.output] == ["reasoning"]


def test_refusals_raise_the_clients_own_errors(client: openai.OpenAI) -> None:
    """Parameters of chat completions, and a wrong key."""
    with pytest.raises(openai.BadRequestError, match="Unknown parameter: 'seed'"):
        client.responses.create(model="m", input=QUESTION, extra_body={"seed": 1})
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-wrong-key-for-tests").responses.create(model="m", input=QUESTION)


def test_a_limit_is_waited_out() -> None:
    """By the headers."""
    with start(SimulatorSettings.model_validate({"limits": {"requests_per_minute": 120, "burst_s": 0.5}})) as process:
        client = connect(process)
        client.responses.create(model="m", input=QUESTION)
        with pytest.raises(openai.RateLimitError):
            client.responses.create(model="m", input=QUESTION)
        assert client.with_options(max_retries=2).responses.create(model="m", input=QUESTION).output_text


class Shaped(pydantic.BaseModel):
    """The form of an answer."""

    steps: list[str]
    answer: int


def test_a_response_follows_the_requested_schema(client: openai.OpenAI) -> None:
    """The client makes the schema, and reads the answer back."""
    parsed = client.responses.parse(model="m", input=QUESTION, text_format=Shaped).output_parsed
    assert parsed is not None
    assert parsed.answer == 42
