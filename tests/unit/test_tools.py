"""Tools: what is one, how each protocol offers it, and conversations that call tools and give their results."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from builders import FIRST, SIMULATED, answer, body_of, index, open_chunk, recipe_of, sealed, write_source
from pydantic import ValidationError

from stillhouse.gen.dataset.binding import bind
from stillhouse.gen.dataset.layout import open_dataset, plan_key
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.source.prompt_maker import PromptMaker
from stillhouse.gen.teachers.apart import APART_BYTES
from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.protocols import protocol_of
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.prompt import Prompt, prompt_key
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.recipe_file import dump_recipe, load_recipe
from stillhouse.schemas.source import Source
from stillhouse.schemas.teacher import Teacher
from stillhouse.schemas.tool import tools_of
from stillhouse.schemas.tool_call import ToolCall, ToolMessage

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "The weather.", "parameters": SCHEMA}
CLOCK = {"name": "clock", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": WEATHER}, CLOCK]


def maker(**source: Any) -> PromptMaker:
    """Over a column of conversations, with these fields of the source."""
    return PromptMaker(Source.model_validate({"path": "x", "messages": "m"} | source), Ask())


def offering(tools: Any = TOOLS) -> PromptMaker:
    """The same recipe where all rows offer these tools."""
    return PromptMaker(Source(path="x", messages="m"), Ask.model_validate({"tools": tools}))


@pytest.mark.parametrize(
    ("tools", "why"),
    [
        ("nowhere.json", "nowhere.json"),
        ([], "at least one tool"),
        ({"name": "f"}, "expected a list of tools"),
        ([7], "tool 1: expected {type: function"),
        ([{"type": "web_search"}], "tool 1: expected {type: function"),
        ([{"function": {"name": "f"}, "type": "retrieval"}], "tool 1: expected {type: function"),
        ([CLOCK, {"name": "a b"}], "tool 2: expected a name of at most 64"),
        ([{"name": "f" * 65}], "expected a name of at most 64"),
        ([{"description": "f"}], "expected a name"),
        ([CLOCK, CLOCK], "'clock' is given twice"),
        ([{"name": "f", "parameters": {"type": "string"}}], "JSON Schema of an object"),
        ([{"name": "f", "parameters": {"a": {"type": "str"}}}], "JSON Schema of an object"),
        ([{"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "str"}}}}], "not valid"),
        ([{"name": "f", "parameters": {"type": "object", "$ref": "https://x.example/s"}}], "nothing is fetched"),
        ([{"name": "f", "parameters": {"type": "object", "required": "a"}}], "not valid"),
        ([{"name": "f", "description": 3}], "expected its description to be text"),
        ([{"name": "f", "returns": {"type": "string"}}], "got returns too"),
        ([{"name": f"f{n}"} for n in range(129)], "at most 128 tools"),
    ],
)
def test_an_invalid_tool_is_refused(tools: Any, why: str) -> None:
    """In a recipe before anything is asked; in a row, it makes a bad row."""
    with pytest.raises(ValidationError) as caught:
        Ask.model_validate({"tools": tools})
    assert why in str(caught.value)
    if tools and isinstance(tools, list):
        said = maker(tools="t").make({"m": [{"role": "user", "content": "a"}], "t": tools})
        assert isinstance(said, str)
        assert why in said
        assert said.startswith("source.tools: column 't': ")


def test_mistakes_in_a_tools_file_are_named(tmp_path: Path) -> None:
    """With its path."""
    path = tmp_path / "tools.json"
    for content, why in (
        ("{", "text that is not JSON"),
        ("{}", "expected a list"),
        ('[{"name": ""}]', "tool 1"),
        ("[" * 100_000, "JSON that is nested too deeply"),
        ('[{"name": "a",\n"name": "b"}]', "JSON with the name 'name' twice"),
        ('[{"name": "a", "parameters": {"type": "object", "maxProperties": NaN}}]', "NaN is not a JSON number"),
    ):
        path.write_text(content)
        with pytest.raises(ValidationError, match=f"tools.json: .*{why}"):
            Ask.model_validate({"tools": str(path)})


def test_a_rows_tools_are_read_in_every_form() -> None:
    """Lists of objects, with the nulls of Parquet, or of JSON texts; JSON of a list; null offers none."""
    padded = [{**tool, "description": None, "strict": None} for tool in ({"type": "function", "function": CLOCK},)]
    for given in ([CLOCK], json.dumps([CLOCK]), [json.dumps(CLOCK)], padded, [{**CLOCK, "description": None}]):
        prompt = maker(tools="t").make({"m": [{"role": "user", "content": "a"}], "t": given})
        assert isinstance(prompt, Prompt), prompt
        assert prompt.tools is not None
        assert [json.loads(tool.text) for tool in prompt.tools] == [{"type": "function", "function": CLOCK}]
        assert prompt.key == prompt_key(prompt.messages, (), prompt.tools) != prompt_key(prompt.messages)
    nothing: tuple[Any, ...] = (None, [], "[]")
    for given in nothing:
        prompt = maker(tools="t").make({"m": [{"role": "user", "content": "a"}], "t": given})
        assert isinstance(prompt, Prompt)
        assert (prompt.tools, prompt.key) == ((), prompt_key(prompt.messages))


def test_the_recipes_tools_are_in_its_identity_but_not_in_prompt_keys(tmp_path: Path) -> None:
    """By the file's content: other tools make other records, in another dataset."""
    path = tmp_path / "tools.json"
    path.write_text(json.dumps(TOOLS))
    recipe = recipe_of(tmp_path, ask={"tools": str(path)})
    store = open_dataset(recipe)
    bind(store, recipe)
    again = load_recipe(dump_recipe(recipe.with_files()), origin="again")
    path.unlink()
    assert again.identity() == recipe.identity()
    assert set(recipe.identity()["ask"]["tools"]) == {"sha256"}
    prompt = PromptMaker.of(again).make({"question": "a?", "id": "q"})
    assert isinstance(prompt, Prompt)
    assert prompt.key == prompt_key(prompt.messages)
    path.write_text(json.dumps([CLOCK]))
    store.put(plan_key(0), b"{}")
    with pytest.raises(DatasetError, match=r"differ in ask\.tools"):
        bind(store, recipe_of(tmp_path, ask={"tools": str(path)}))


def test_tools_are_given_in_one_place(tmp_path: Path) -> None:
    """Of the recipe, its rows and `extra`."""
    with pytest.raises(ValidationError, match=r"one of `ask\.tools`"):
        recipe_of(tmp_path, ask={"tools": TOOLS}, source={"tools": "t"})
    with pytest.raises(ValidationError, match=r"leave them out of `extra`"):
        recipe_of(tmp_path, ask={"tools": TOOLS, "extra": {"tools": [CLOCK]}})
    strict: dict[str, Any] = {
        "name": "t",
        "base_url": "https://api.openai.com/v1",
        "model": "gpt-5.5",
        "api_key": "env:K",
    }
    strict |= {"terms": {"training_use": "by-authorisation", "authorisation": "letter 7"}}
    with pytest.raises(ValidationError, match="openai-responses"):
        recipe_of(tmp_path, ask={"tools": TOOLS}, teachers=[strict])


def call(name: str = "weather", arguments: Any = '{"city": "Rome"}', **more: Any) -> dict[str, Any]:
    """A call in a conversation."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}} | more


def talk(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    """A conversation that begins with a question."""
    return [{"role": "user", "content": "Weather?"}, *messages]


def calling(*calls: Any, content: Any = None) -> dict[str, Any]:
    """The assistant's message with these calls."""
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def result(content: str = "Sunny.", **more: Any) -> dict[str, Any]:
    """A tool's message."""
    return {"role": "tool", "content": content} | more


def test_conversations_with_calls_and_results_are_read() -> None:
    """As OpenAI has them with ids, and as TRL has them by name; nulls of Parquet are absent."""
    spoken = [
        talk(calling(call(id="c1")), result(tool_call_id="c1")),
        talk(calling(call(arguments={"city": "Rome"})), result(name="weather")),
        talk(calling(call(arguments={"city": "Rome", "zone": None}, id=None)), result(tool_call_id=None, name=None)),
        talk(calling(call(id="c1"), call("clock", {}, id="c2")), result(tool_call_id="c2"), result(tool_call_id="c1")),
        talk(
            calling(call(), content="Let me look."), result(""), {"role": "user", "content": "And?", "tool_calls": []}
        ),
    ]
    for messages in spoken:
        prompt = offering().make({"m": messages})
        assert isinstance(prompt, Prompt), prompt
        assert isinstance(prompt.messages[1], ToolMessage)
        assert prompt.messages[1].calls is not None
        assert json.loads(prompt.messages[1].calls[0].arguments) == {"city": "Rome"}
    keys = {prompt.key for messages in spoken if isinstance(prompt := offering().make({"m": messages}), Prompt)}
    assert len(keys) == 5


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        (talk(result(tool_call_id="c9")), "message 2: a tool's result without its call with the id 'c9'"),
        (talk(result()), "message 2: a tool's result without its call before it"),
        (talk(calling(call(id="c1")), result(tool_call_id="c2")), "message 3: a tool's result without its call"),
        (talk(calling(call()), result(name="clock")), "a tool's result without its call"),
        (talk(calling(call()), result(), result()), "message 4: a tool's result without its call"),
        (talk(calling(call()), {"role": "user", "content": "?"}), "message 2: expected the result of every call"),
        (talk(calling(call(), call()), result()), "message 3: expected the result of every call"),
        (talk(calling(call())), "expected a last message of the user or a tool"),
        (talk(calling({"function": {"arguments": "{}"}}), result()), "message 2, call 1: expected {function"),
        (talk(calling(call(arguments="[1]")), result()), "with a JSON object as arguments"),
        (talk(calling(call(arguments="{")), result()), "with a JSON object as arguments"),
        (talk({"role": "assistant", "tool_calls": "f()"}, result()), "call 1: expected"),
        (talk(calling(call()), result(tool_call_id=7)), "expected text, got int"),
        (talk(calling(call()), result(tool_calls=[call()])), "a tool's result calls tools"),
        (talk({"role": "user", "content": "a", "tool_calls": [call()]}), "got 'tool_calls' too"),
    ],
)
def test_a_conversation_with_mismatched_calls_and_results_is_a_bad_row(messages: Any, why: str) -> None:
    """Every provider would refuse it."""
    said = offering().make({"m": messages})
    assert isinstance(said, str)
    assert why in said


def test_a_conversation_calls_only_what_its_row_offers() -> None:
    """Without tools in the recipe its calls are refused as before."""
    messages = talk(calling(call()), result())
    assert "its row offers none" in str(maker(tools="t").make({"m": messages, "t": None}))
    assert "got 'tool_calls' too" in str(maker().make({"m": messages}))


CALLS = (ToolCall("c.1", "function", "weather", '{"city":"Rome"}'), ToolCall(None, "function", "clock", "{}"))
ASKED = (
    ("system", "S"),
    ("user", "U"),
    ToolMessage("assistant", "A", CALLS),
    ToolMessage("tool", "noon", name="clock"),
    ToolMessage("tool", "sun", call_id="c.1"),
    ("user", "V"),
)


def body(api: str, model: str = "m") -> Any:
    """A request with tools, calls and results, in the protocol's form."""
    given = {"name": "t", "api": api, "base_url": "https://t.example/v1", "model": model, "api_key": "env:K"}
    aws = {"aws": {"region": "us-east-1"}} if api == "bedrock" else {}
    teacher = Teacher.model_validate(given | {"terms": {"training_use": "permitted"}} | aws)
    ask = Ask.model_validate({"max_tokens": 9, "tools": TOOLS})
    request = Request(ASKED, tools=tools_of(json.dumps(TOOLS)))
    made = protocol_of(teacher, ask).request(request, base_url="https://t", key=Credentials(), now=0.0)
    return orjson.loads(made.body)


def test_tools_are_sent_to_openai_chat() -> None:
    """Tools in its own form; an id that some providers refuse is replaced, in the call and in its result."""
    sent = body("openai-chat")
    assert sent["tools"] == [TOOLS[0], {"type": "function", "function": CLOCK}]
    assert sent["messages"][2:5] == [
        {
            "role": "assistant",
            "content": "A",
            "tool_calls": [
                {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}},
                {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
        {"role": "tool", "tool_call_id": "call_0", "content": "sun"},
    ]


def test_tools_are_sent_to_openai_responses() -> None:
    """Calls and results are separate items; tools are not strict."""
    sent = body("openai-responses")
    assert sent["tools"] == [
        {"type": "function", "strict": False, **WEATHER},
        {"type": "function", "strict": False, **CLOCK},
    ]
    assert sent["input"][2:] == [
        {"role": "assistant", "content": "A"},
        {"type": "function_call", "call_id": "call_0", "name": "weather", "arguments": '{"city":"Rome"}'},
        {"type": "function_call", "call_id": "call_1", "name": "clock", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "noon"},
        {"type": "function_call_output", "call_id": "call_0", "output": "sun"},
        {"role": "user", "content": "V"},
    ]


def test_tools_are_sent_to_anthropic() -> None:
    """Results are the first blocks of the user's turn."""
    sent = body("anthropic")
    assert [tool["input_schema"] for tool in sent["tools"]] == [SCHEMA, CLOCK["parameters"]]
    assert [message["role"] for message in sent["messages"]] == ["user", "assistant", "user"]
    assert sent["messages"][1]["content"] == [
        {"type": "text", "text": "A"},
        {"type": "tool_use", "id": "call_0", "name": "weather", "input": {"city": "Rome"}},
        {"type": "tool_use", "id": "call_1", "name": "clock", "input": {}},
    ]
    assert sent["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "call_1", "content": "noon"},
        {"type": "tool_result", "tool_use_id": "call_0", "content": "sun"},
        {"type": "text", "text": "V"},
    ]


def test_tools_are_sent_to_gemini() -> None:
    """Results by name, all in one content; from Gemini 3 on calls need a signature, and this one stands in for it."""
    sent = body("gemini", "gemini-3.1-pro")
    assert sent["tools"][0]["functionDeclarations"][0] == {
        "name": "weather",
        "description": "The weather.",
        "parametersJsonSchema": SCHEMA,
    }
    assert [content["role"] for content in sent["contents"]] == ["user", "model", "user", "user"]
    assert sent["contents"][1]["parts"] == [
        {"text": "A"},
        {
            "functionCall": {"name": "weather", "args": {"city": "Rome"}},
            "thoughtSignature": "skip_thought_signature_validator",
        },
        {"functionCall": {"name": "clock", "args": {}}, "thoughtSignature": "skip_thought_signature_validator"},
    ]
    assert sent["contents"][2]["parts"] == [
        {"functionResponse": {"name": "clock", "response": {"output": "noon"}}},
        {"functionResponse": {"name": "weather", "response": {"output": "sun"}}},
    ]
    assert "thoughtSignature" not in str(body("gemini", "gemini-2.5-pro"))


def test_tools_are_sent_to_bedrock() -> None:
    """Turns alternate."""
    sent = body("bedrock")
    assert [tool["toolSpec"]["inputSchema"] for tool in sent["toolConfig"]["tools"]] == [
        {"json": SCHEMA},
        {"json": CLOCK["parameters"]},
    ]
    assert [message["role"] for message in sent["messages"]] == ["user", "assistant", "user"]
    assert sent["messages"][1]["content"][1:] == [
        {"toolUse": {"toolUseId": "call_0", "name": "weather", "input": {"city": "Rome"}}},
        {"toolUse": {"toolUseId": "call_1", "name": "clock", "input": {}}},
    ]
    assert sent["messages"][2]["content"] == [
        {"toolResult": {"toolUseId": "call_1", "content": [{"text": "noon"}]}},
        {"toolResult": {"toolUseId": "call_0", "content": [{"text": "sun"}]}},
        {"text": "V"},
    ]


def seal_calls(
    tmp_path: Path, *calls: dict[str, Any], **changes: Any
) -> tuple[Recipe, dict[str, list[dict[str, Any]]]]:
    """A sealed chunk whose answers make these calls."""
    write_source(tmp_path, [{"id": f"q{n}", "question": f"{n}?", "t": TOOLS} for n in range(len(calls))])
    recipe = recipe_of(tmp_path, teachers=[SIMULATED], **changes)
    index(recipe)
    held = open_chunk(recipe, FIRST)
    for ordinal, each in enumerate(calls):
        answer(held, ordinal, body_of(None, finish="tool_calls", tool_calls=[each]))
    return recipe, sealed(recipe, held)[1]


@pytest.mark.parametrize("apart_bytes", [APART_BYTES, 1])
@pytest.mark.parametrize("changes", [{"ask": {"tools": TOOLS}}, {"source": {"tools": "t"}}])
def test_calls_are_checked_against_their_tools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], apart_bytes: int
) -> None:
    """Calls that do not fit are rejected with a reason, and records keep their tools. Long calls are checked in another
    process."""
    monkeypatch.setattr("stillhouse.gen.teachers.apart.APART_BYTES", apart_bytes)
    wrong = [call("nothing"), call(arguments='{"city": 7}'), call(arguments="{}"), call(arguments="[]")]
    _, files = seal_calls(tmp_path, call(), call("clock", "{}"), *wrong, **changes)
    assert [row["reject_reason"] for row in files["rejected"]] == [
        "unknown_tool",
        "invalid_arguments",
        "invalid_arguments",
        "invalid_tool_call",
    ]
    assert [row["completion"][0]["tool_calls"][0]["function"]["name"] for row in files["data"]] == ["weather", "clock"]
    for row in (*files["data"], *files["rejected"]):
        assert [json.loads(tool)["function"]["name"] for tool in row["tools"]] == ["weather", "clock"]


@pytest.mark.parametrize("depth", [150, 900, 2000])
def test_deep_values_make_bad_rows(depth: int) -> None:
    """Nothing raises, however deep a row's tools or arguments are."""
    deep: Any = 1
    for _ in range(depth):
        deep = {"a": deep}
    tool = {"name": "f", "parameters": {"type": "object", "properties": deep}}
    for given in ([tool], deep, [deep], "[" * depth + "]" * depth):
        assert isinstance(maker(tools="t").make({"m": talk(), "t": given}), str)
    assert isinstance(offering().make({"m": talk(calling(call(arguments=deep)), result())}), str)
