"""Google's official client works with the simulator's generateContent."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pydantic
import pytest

from stillhouse.gen.simulator import SimulatorProcess, start
from stillhouse.gen.teachers.protocols import protocol_of
from stillhouse.gen.teachers.transport import Reply
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.completion import Completion
from stillhouse.schemas.simulator import SimulatorSettings
from stillhouse.schemas.teacher import Teacher

genai = pytest.importorskip("google.genai")
from google.genai import errors, types  # noqa: E402 - only where it is installed

QUESTION = "What is 6 * 7?"
KEY = "AIza-right-key-for-tests"
TERMS = {"training_use": "by-authorisation", "authorisation": "letter 7"}


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    """One that reasons if asked to."""
    with start(SimulatorSettings(output_tokens=(200, 300), api_key=KEY)) as process:
        yield process


def connect(simulator: SimulatorProcess, *, key: str = KEY) -> Any:
    """The official client."""
    options = types.HttpOptions(base_url=simulator.url.removesuffix("/v1"), retry_options=None)
    return genai.Client(api_key=key, http_options=options)


def ask(simulator: SimulatorProcess, contents: Any = QUESTION, **config: Any) -> Any:
    """One answer."""
    given = types.GenerateContentConfig(**config)
    with connect(simulator) as client:
        return client.models.generate_content(model="gemini-x", contents=contents, config=given)


def test_an_answer_has_its_text_thoughts_and_usage(simulator: SimulatorProcess) -> None:
    """Thoughts are separate parts, counted apart from the answer; their signature is bytes."""
    thinking = types.ThinkingConfig(include_thoughts=True, thinking_level=types.ThinkingLevel.LOW)
    found = ask(simulator, system_instruction="Be brief.", thinking_config=thinking)
    assert found.text.endswith("#### 42")
    thought, said = found.candidates[0].content.parts
    assert (thought.thought, bool(thought.text), bool(said.thought_signature)) == (True, True, True)
    assert found.candidates[0].finish_reason == types.FinishReason.STOP
    usage = found.usage_metadata
    assert usage.thoughts_token_count == 24
    assert usage.total_token_count == usage.prompt_token_count + usage.candidates_token_count + 24


def test_a_stream_adds_up_to_the_answer(simulator: SimulatorProcess) -> None:
    """The same seed gives the same answer, streamed or not, and another seed gives another."""
    config = types.GenerateContentConfig(seed=7, thinking_config=types.ThinkingConfig(include_thoughts=True))
    with connect(simulator) as client:
        chunks = client.models.generate_content_stream(model="m", contents=QUESTION, config=config)
        texts = [(chunk.text or "", chunk.candidates[0].finish_reason) for chunk in chunks]
    assert texts[-1][1] == types.FinishReason.STOP
    assert "".join(text for text, _ in texts) == ask(simulator, seed=7, thinking_config=config.thinking_config).text
    assert ask(simulator, seed=7).text != ask(simulator, seed=8).text


def test_a_stream_without_events_is_an_array(simulator: SimulatorProcess) -> None:
    """As Google answers without `alt=sse`; a teacher's protocol reads it as the same answer."""
    body = json.dumps({"contents": [{"parts": [{"text": QUESTION}]}], "generationConfig": {"seed": 7}}).encode()
    url = f"{simulator.url.removesuffix('/v1')}/v1beta/models/m:streamGenerateContent"
    request = urllib.request.Request(url, body, {"content-type": "application/json", "x-goog-api-key": KEY})
    with urllib.request.urlopen(request) as reply:
        raw = Reply(reply.status, {"content-type": reply.headers["content-type"]}, reply.read())
    assert raw.headers["content-type"] == "application/json"
    assert len(json.loads(raw.body)) > 1
    teacher = Teacher.model_validate(
        {"name": "t", "api": "gemini", "base_url": url.partition("/v1beta")[0], "model": "m", "terms": TERMS}
    )
    protocol = protocol_of(teacher, Ask())
    found = protocol.read(protocol.fold(raw))
    assert isinstance(found, Completion)
    assert found.text == ask(simulator, seed=7).text


def test_a_function_is_called_and_its_result_is_answered(simulator: SimulatorProcess) -> None:
    """By a schema with Google's types."""
    schema = types.Schema(type=types.Type.OBJECT, properties={"a": types.Schema(type=types.Type.INTEGER)})
    tool = types.Tool(function_declarations=[types.FunctionDeclaration(name="add", parameters=schema)])
    off = types.AutomaticFunctionCallingConfig(disable=True)
    found = ask(simulator, tools=[tool], automatic_function_calling=off)
    (call,) = found.function_calls
    assert (call.name, type(call.args["a"])) == ("add", int)
    history = [
        types.Content(role="user", parts=[types.Part(text="Add.")]),
        found.candidates[0].content,
        types.Content(role="user", parts=[types.Part.from_function_response(name="add", response={"output": 3})]),
    ]
    assert ask(simulator, history, tools=[tool], automatic_function_calling=off).text


def test_log_probabilities_come_with_ids(simulator: SimulatorProcess) -> None:
    """With as many alternatives as asked."""
    found = ask(simulator, response_logprobs=True, logprobs=4).candidates[0].logprobs_result
    assert all(token.token_id is not None for token in found.chosen_candidates)
    assert all(len(each.candidates) == 4 for each in found.top_candidates)


def test_several_candidates_and_a_token_limit_are_honoured(simulator: SimulatorProcess) -> None:
    """Each cut for itself."""
    found = ask(simulator, candidate_count=2, max_output_tokens=20)
    assert [each.finish_reason for each in found.candidates] == [types.FinishReason.MAX_TOKENS] * 2


def test_refusals_raise_the_clients_own_errors(simulator: SimulatorProcess) -> None:
    """A wrong key by its reason, an empty list of stops by its field."""
    with connect(simulator, key="AIza-wrong") as client, pytest.raises(errors.ClientError, match="API_KEY_INVALID"):
        client.models.generate_content(model="m", contents=QUESTION)
    with pytest.raises(errors.ClientError, match="stop_sequences"):
        ask(simulator, stop_sequences=[])


@pytest.mark.parametrize(("status", "name"), [(429, "RESOURCE_EXHAUSTED"), (500, "INTERNAL"), (503, "UNAVAILABLE")])
def test_statuses_raise_the_clients_own_errors(status: int, name: str) -> None:
    """With Google's name for each."""
    settings = {"faults": [{"kind": "status", "status": status}]}
    with start(SimulatorSettings.model_validate(settings)) as process, pytest.raises(errors.APIError, match=name):
        ask(process)


class Shaped(pydantic.BaseModel):
    """The form of an answer."""

    steps: list[str]
    answer: int


@pytest.mark.parametrize(
    "schema", [{"response_schema": Shaped}, {"response_json_schema": Shaped.model_json_schema()}], ids=["own", "json"]
)
def test_an_answer_follows_the_requested_schema(simulator: SimulatorProcess, schema: dict[str, Any]) -> None:
    """In the API's own form of schema, or as JSON Schema."""
    found = ask(simulator, response_mime_type="application/json", **schema)
    assert Shaped.model_validate_json(found.text).answer == 42
