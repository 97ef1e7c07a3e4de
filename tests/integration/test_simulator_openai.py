"""OpenAI's official client works with the simulator."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from stillhouse.gen.simulator import SimulatorProcess, start
from stillhouse.schemas.simulator import SimulatorSettings

QUESTION: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "What is 6 * 7?"}]


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    """A well-behaved simulator that reasons."""
    with start(SimulatorSettings(reasoning="reasoning_content", output_tokens=(200, 300))) as process:
        yield process


def connect(simulator: SimulatorProcess) -> openai.OpenAI:
    """The official client, without its own retries."""
    return openai.OpenAI(base_url=simulator.url, api_key="sk-none", max_retries=0)


def failing(**settings: Any) -> SimulatorProcess:
    """A simulator that does not behave."""
    return start(SimulatorSettings.model_validate(settings))


def test_the_client_reads_a_completion(simulator: SimulatorProcess) -> None:
    """Several choices, usage and the reasoning field."""
    answer = connect(simulator).chat.completions.create(model="m", messages=QUESTION, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    texts = [choice.message.content or "" for choice in answer.choices]
    assert all(text.endswith("#### 42") for text in texts)
    assert len(set(texts)) == 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 72
    assert (answer.choices[0].message.model_extra or {})["reasoning_content"]


async def test_the_async_client_reads_a_completion(simulator: SimulatorProcess) -> None:
    """The asynchronous client too; max_completion_tokens ends an answer with `length`."""
    async with openai.AsyncOpenAI(base_url=simulator.url, api_key="sk-none") as client:
        answer = await client.chat.completions.create(model="m", messages=QUESTION, max_completion_tokens=50)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 50


def test_the_client_reads_a_stream(simulator: SimulatorProcess) -> None:
    """The deltas join to the answer, the last chunk has the usage."""
    stream = connect(simulator).chat.completions.create(
        model="m", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.endswith("#### 42")
    assert chunks[-2].choices[0].finish_reason == "stop"
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens == -(-len(text) // 4) + 24


def test_log_probabilities_are_read(simulator: SimulatorProcess) -> None:
    """The tokens join to the content, each with as many alternatives as asked, itself the likeliest."""
    answer = connect(simulator).chat.completions.create(model="m", messages=QUESTION, logprobs=True, top_logprobs=5)
    choice = answer.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == choice.message.content
    assert all(bytes(token.bytes or []).decode() == token.token for token in tokens)
    assert all(len(token.top_logprobs) == 5 for token in tokens)
    assert all(max(token.top_logprobs, key=lambda top: top.logprob).token == token.token for token in tokens)


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_is_answered(simulator: SimulatorProcess, stream: bool) -> None:
    """With arguments that fit the schema; the result goes back in a message of the role `tool`."""
    properties = {"city": {"type": "string"}, "days": {"type": "integer"}}
    function: Any = {"name": "weather", "parameters": {"type": "object", "properties": properties}}
    tools: Any = [{"type": "function", "function": function}]
    client = connect(simulator)
    if stream:
        with client.chat.completions.stream(model="m", messages=QUESTION, tools=tools) as events:
            first: Any = events.get_final_completion()
    else:
        first = client.chat.completions.create(model="m", messages=QUESTION, tools=tools)
    (call,) = first.choices[0].message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert (first.choices[0].finish_reason, call.function.name) == ("tool_calls", "weather")
    assert (type(arguments["city"]), type(arguments["days"])) == (str, int)
    asked: Any = {"role": "assistant", "content": None, "tool_calls": [call.to_dict()]}
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    last = client.chat.completions.create(model="m", messages=[*QUESTION, asked, result], tools=tools)
    assert (last.choices[0].finish_reason, last.choices[0].message.tool_calls) == ("stop", None)
    assert last.choices[0].message.content
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="m", messages=[*QUESTION, asked, *QUESTION], tools=tools)


def test_the_client_lists_models(simulator: SimulatorProcess) -> None:
    """The list has the one model."""
    assert [model.id for model in connect(simulator).models.list()] == ["simulator"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_statuses_raise_the_clients_own_errors(status: int, error: type[openai.APIStatusError]) -> None:
    """Each failure is the class that the client has for it."""
    with failing(faults=[{"kind": "status", "status": status}]) as simulator, pytest.raises(error) as caught:
        connect(simulator).chat.completions.create(model="m", messages=QUESTION)
    assert caught.value.request_id == "req_0"


def test_a_limit_is_a_rate_limit_error_that_the_client_waits_out() -> None:
    """Without retries it is raised, with them the retry header is enough."""
    with failing(limits={"requests_per_minute": 120, "burst_s": 0.5}) as simulator:
        client = connect(simulator)
        client.chat.completions.create(model="m", messages=QUESTION)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="m", messages=QUESTION)
        assert caught.value.code == "rate_limit_exceeded"
        patient = client.with_options(max_retries=2)
        assert patient.chat.completions.create(model="m", messages=QUESTION).choices[0].message.content


@pytest.mark.parametrize("kind", ["reset", "truncate"])
def test_broken_connections_are_connection_errors(kind: str) -> None:
    """These faults have no HTTP status."""
    with failing(faults=[{"kind": kind}]) as simulator, pytest.raises(openai.APIConnectionError):
        connect(simulator).chat.completions.create(model="m", messages=QUESTION)


def test_a_hang_is_a_timeout() -> None:
    """The client's own timeout ends it."""
    with failing(faults=[{"kind": "hang"}]) as simulator, pytest.raises(openai.APITimeoutError):
        connect(simulator).chat.completions.create(model="m", messages=QUESTION, timeout=0.3)


class Shaped(pydantic.BaseModel):
    """The form of an answer."""

    steps: list[str]
    answer: int


def test_an_answer_follows_the_requested_schema(simulator: SimulatorProcess) -> None:
    """The client makes the schema, and reads the answer back; what is strict has to keep its rules."""
    client = connect(simulator)
    completion = client.chat.completions.parse(model="m", messages=QUESTION, response_format=Shaped)
    parsed = completion.choices[0].message.parsed
    assert parsed is not None
    assert parsed.answer == 42
    schema: Any = {"name": "open", "strict": True, "schema": {"type": "object", "properties": {"a": {}}}}
    with pytest.raises(openai.BadRequestError, match="lacks `additionalProperties: false`"):
        client.chat.completions.create(
            model="m", messages=QUESTION, response_format={"type": "json_schema", "json_schema": schema}
        )
