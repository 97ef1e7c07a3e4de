"""Rows become prompts word for word, or say why not."""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gen.errors import UsageError
from stillhouse.gen.source.prompt_maker import PromptMaker
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.prompt import Message, Prompt, prompt_key
from stillhouse.schemas.source import Source

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner),
    max_leaves=8,
)


def maker(template: str | None = None, *, system: str | None = None, **source: Any) -> PromptMaker:
    """Of the prompt column 'q', unless the source says otherwise."""
    fields = {"path": "x", **({} if "messages" in source else {"prompt": "q"}), **source}
    return PromptMaker(Source.model_validate(fields), Ask(template=template, system=system))


def made(maker: PromptMaker, values: Mapping[str, Any]) -> Prompt:
    """The prompt, which there must be."""
    prompt = maker.make(values)
    assert isinstance(prompt, Prompt), prompt
    return prompt


def user(content: str) -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": content}


def test_the_prompt_column_is_asked_verbatim() -> None:
    """NUL, line ends and emoji too; the key is the messages' and, by default, the id."""
    messages: tuple[Message, ...] = (("system", "Be brief."), ("user", " a\0\r\n\U0001f600 "))
    prompt = made(maker(system="Be brief."), {"q": messages[1][1], "other": 1})
    assert prompt == Prompt(prompt_key(messages).hex(), prompt_key(messages), messages, ())


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "column 'q' is missing"),
        ({"q": None}, "column 'q' is null"),
        ({"q": 3}, "column 'q': expected text, got int"),
        ({"q": ["a"]}, "column 'q': expected text, got list"),
        ({"q": ""}, "empty prompt"),
        ({"q": " \n\t\u2003"}, "empty prompt"),
        ({"q": "a\ud800"}, "column 'q': a lone surrogate at character 1"),
    ],
)
def test_a_value_that_is_not_text_is_not_a_prompt(values: dict[str, Any], reason: str) -> None:
    """The reason names the column and does not repeat what it holds."""
    assert maker().make(values) == reason


@pytest.mark.parametrize("own_id", ["../../etc/passwd", "a/b", "CON", "x" * 10_000, "\U0001f600", ""])
def test_an_id_may_be_any_text(own_id: str) -> None:
    """It is never part of a path."""
    assert made(maker(id="i"), {"q": "a", "i": own_id}).id == own_id


def test_an_id_may_be_an_integer_of_any_size() -> None:
    """Nothing else may."""
    assert made(maker(id="i"), {"q": "a", "i": 2**70}).id == str(2**70)
    assert maker(id="i").make({"q": "a", "i": None}) == "column 'i' is null"
    assert maker(id="i").make({"q": "a"}) == "column 'i' is missing"
    assert maker(id="i").make({"q": "a", "i": True}) == "column 'i': expected text, got bool"
    assert maker(id="i").make({"q": "a", "i": 1.0}) == "column 'i': expected text, got float"
    assert maker(id="i").make({"q": "a", "i": "\udfff"}) == "column 'i': a lone surrogate at character 0"


def test_the_columns_are_those_the_template_reads() -> None:
    """Neither Jinja's own names nor the template's count as columns."""
    template = "{% set s = a %}{% for x in range(2) %}{{ x }}{{ s }}{{ b.c }}{% endfor %}"
    assert maker(template, id="i", keep=["k"]).columns == {"q", "i", "k", "a", "b"}
    assert maker(messages="m").columns == {"m"}


def test_a_template_renders_the_columns() -> None:
    """Nothing is escaped, no newline is lost, and values are data even where they look like templates."""
    prompt = made(maker("{{ q }} <{{ n + 1 }}>\n"), {"q": "{{ 7 * 7 }} & <b>", "n": 1, "unused": object()})
    assert prompt.messages == (("user", "{{ 7 * 7 }} & <b> <2>\n"),)


@pytest.mark.parametrize(
    ("template", "values", "reason"),
    [
        ("{{ missing }}", {}, "'missing' is undefined"),
        ("{{ q.nothing }}", {"q": {}}, "has no attribute 'nothing'"),
        ("{{ {}[q] }}", {"q": "\ud800"}, "has no attribute"),
        ("{{ 1 / q }}", {"q": 0}, "division by zero"),
        ("{{ q + 1 }}", {"q": "a"}, "can only concatenate str"),
        ("{{ q }}", {"q": " "}, "empty prompt"),
        ("{{ q }}", {"q": "\ud800"}, "lone surrogate"),
        ("{{ q.__class__.__mro__ }}", {"q": "a"}, "unsafe"),
        ("{{ ''['__class__'] }}", {}, "unsafe"),
        ("{{ q|attr('__class__') }}", {"q": "a"}, "unsafe"),
        ("{{ '{0.__class__}'.format(q) }}", {"q": "a"}, "unsafe"),
        ("{{ q.append(1) }}", {"q": []}, "unsafe"),
        ("{{ range(n) }}", {"n": 10**9}, "Range too big"),
        ("{{ 'x' * n }}", {"n": 10**12}, "result of * is too large"),
        ("{{ n * [1] }}", {"n": 10**12}, "result of * is too large"),
        ("{{ 10 ** n }}", {"n": 10**12}, "result of ** is too large"),
        ("{% for i in range(1000) %}{{ q }}{% endfor %}", {"q": "x" * 20_000}, "longer than"),
    ],
)
def test_a_row_on_which_the_template_fails_is_a_bad_row(template: str, values: dict[str, Any], reason: str) -> None:
    """Wrong types, missing columns, attempts to leave the sandbox, texts that fill the memory."""
    said = maker(template).make({"q": "a"} | values)
    assert isinstance(said, str)
    said.encode()
    assert reason in said


@pytest.mark.parametrize(("values", "reason"), [({"q": None}, "is null"), ({}, "is missing")])
def test_a_row_without_a_prompt_is_bad_even_with_a_template(values: dict[str, Any], reason: str) -> None:
    """A template would print null as text, and the teacher would be paid to answer it."""
    assert maker("{{ q }}!").make(values) == f"column 'q' {reason}"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("a\n{{ q", r"ask\.template, line 2: "),
        ("\n\n{{ q|nope }}", r"ask\.template, line 3: No filter named 'nope'"),
        ("{{ q|random }}", r"No filter named 'random'"),
        ("{% endfor %}", r"line 1: .*unknown tag 'endfor'"),
        ("{% include 'a' %}", r"include, import and extends"),
        ("{% import q as a %}", r"include, import and extends"),
    ],
)
def test_a_broken_template_is_refused_before_any_row(template: str, says: str) -> None:
    """With its line."""
    with pytest.raises(UsageError, match=says):
        maker(template)


def test_a_conversation_is_asked_verbatim() -> None:
    """As a list, as JSON of one, in text parts, and with the nulls that Parquet adds."""
    spoken: tuple[Message, ...] = (("user", "a"), ("assistant", ""), ("user", "b c"))
    plain = [{"role": role, "content": content} for role, content, *_ in spoken]
    padded = [{**message, "name": None, "tool_calls": None} for message in plain]
    parts = [
        *plain[:2],
        {"role": "user", "content": [{"type": "text", "text": t, "image_url": None} for t in ("b ", "c")]},
    ]
    json_text = '[{"role":"user","content":"a"},{"role":"assistant","content":""},{"role":"user","content":"b c"}]'
    for conversation in (plain, padded, parts, json_text):
        assert made(maker(messages="m"), {"m": conversation}).messages == spoken


def test_a_conversation_keeps_its_own_system_message() -> None:
    """The recipe's is only put before conversations without one."""
    make = maker(messages="m", system="Ours.")
    assert made(make, {"m": [user("a")]}).messages == (("system", "Ours."), ("user", "a"))
    for role in ("system", "developer"):
        theirs = {"role": role, "content": "Theirs."}
        assert made(make, {"m": [theirs, user("a")]}).messages == ((role, "Theirs."), ("user", "a"))


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        (None, "is null"),
        ([], "no messages"),
        ("[]", "no messages"),
        ("not JSON", "JSON of one"),
        ('{"role": "user"}', "expected a list of messages, got dict"),
        (3, "expected a list of messages, got int"),
        (["a"], "message 1: expected an object with role and content, got str"),
        ([{"role": "user"}], "message 1: expected text, got null"),
        ([{"content": "a"}], "expected a role of"),
        ([{"role": "robot", "content": "a"}], "got 'robot'"),
        ([{"role": ["user"], "content": "a"}], "got list"),
        ([user("a"), {"role": "assistant", "content": "b"}], "got one of role assistant"),
        ([{"role": "system", "content": "a"}], "got one of role system"),
        ([user("a"), user(" \n")], "empty prompt"),
        ([user("a\ud800")], "lone surrogate"),
        ([{**user("a"), "name": "bob"}], "expected only role and content, got 'name' too"),
        ([{**user("a"), "tool_calls": []}], "got 'tool_calls' too"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "text only"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}], "text only"),
        ([{"role": "user", "content": [{"type": "text", "text": 1}]}], "expected text, got int"),
    ],
)
def test_a_conversation_that_cannot_be_asked_verbatim_is_a_bad_row(conversation: object, reason: str) -> None:
    """The reason says which message."""
    said = maker(messages="m").make({"m": conversation})
    assert isinstance(said, str)
    assert reason in said


def test_kept_values_are_in_the_recipes_order_and_strings_by_default() -> None:
    """What a row lacks is null; what is not text is its JSON."""
    make = maker(keep=["a", "b", "c", "d"])
    assert made(make, {"q": "x", "c": "t", "a": {"k": [1, None, "ä"]}, "d": True}).kept == (
        '{"k":[1,null,"ä"]}',
        None,
        "t",
        "true",
    )


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [
        ("int64", "42", 42),
        ("int64", 2**63 - 1, 2**63 - 1),
        ("int64", 3.0, 3),
        ("int64", "", None),
        ("float64", "-1.5e3", -1500.0),
        ("float64", 3, 3.0),
        ("float64", 0.1, 0.1),
        ("float64", "", None),
        ("bool", "TRUE", True),
        ("bool", False, False),
        ("string", 2**70, str(2**70)),
    ],
)
def test_kept_values_become_the_declared_type(kind: str, value: object, kept: object) -> None:
    """Where they convert exactly."""
    (got,) = made(maker(keep=[{"k": kind}]), {"q": "x", "k": value}).kept
    assert (got, type(got)) == (kept, type(kept))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int64", "4 2"),
        ("int64", "1_000"),
        ("int64", "٣"),
        ("int64", 1.5),
        ("int64", math.inf),
        ("int64", 2**63),
        ("int64", "9223372036854775808"),
        ("int64", True),
        ("float64", "nan"),
        ("float64", "1e999"),
        ("float64", 2**53 + 1),
        ("float64", 10**400),
        ("float64", True),
        ("bool", 1),
        ("bool", "yes"),
        ("string", "\ud800"),
        ("string", b"bytes"),
        ("string", math.nan),
    ],
)
def test_a_kept_value_that_does_not_convert_exactly_makes_the_row_bad(kind: str, value: object) -> None:
    """It is never altered in silence."""
    said = maker(keep=[{"k": kind}]).make({"q": "x", "k": value})
    assert isinstance(said, str)
    assert said.startswith("column 'k': ")


def test_kept_values_of_a_columnar_file_are_unchanged() -> None:
    """If they are of the type that the plan froze."""
    fields = [pa.field("d", pa.decimal128(5, 2)), pa.field("l", pa.list_(pa.int32()))]
    source = Source(path="x", prompt="q", keep=["d", "l"])
    make = PromptMaker(source, Ask(), kept=fields)
    assert made(make, {"q": "x", "d": Decimal("1.50"), "l": [1, None]}).kept == (Decimal("1.50"), [1, None])
    assert make.make({"q": "x", "d": "a", "l": []}) == "column 'd': expected a value of type decimal128(5, 2), got str"


@given(value=ANY)
def test_any_value_is_a_prompt_or_a_reason(value: object) -> None:
    """On every path a row's value can take; what comes out can be written as UTF-8."""
    makers = [maker(id="q", keep=["q"]), maker("{{ q }}{{ q.content }}"), maker(messages="q", keep=[{"q": "float64"}])]
    for make in makers:
        made = make.make({"q": value})
        if isinstance(made, Prompt):
            assert prompt_key(made.messages) == made.key
            made.id.encode()
        else:
            assert made
            made.encode()


@pytest.mark.parametrize(
    "spoken",
    [
        [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "2+2?"}],
        [{"from": "system", "value": "Be brief.", "weight": None}, {"from": "Human", "value": "2+2?", "weight": 1}],
        [{"role": "system", "content": "Be brief.", "from": None}, {"role": "user", "content": "2+2?", "train": True}],
        {"role": ["system", "user"], "content": ["Be brief.", "2+2?"]},
        {"from": ["system", "human"], "value": ["Be brief.", "2+2?"], "weight": [0, 1]},
        '{"role": ["system", "user"], "content": ["Be brief.", "2+2?"]}',
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?", "id": "m1", "name": ""}],
    ],
)
def test_conversations_are_read_in_common_forms(spoken: object) -> None:
    """ShareGPT's keys and roles, a struct of lists, and trainers' marks next to role and content."""
    make = maker(messages="m")
    assert made(make, {"m": spoken}).messages == (("system", "Be brief."), ("user", "2+2?"))


@pytest.mark.parametrize(
    ("spoken", "reason"),
    [
        ({"role": ["user"], "content": ["a", "b"]}, "expected lists of equal length, one item per message, got 1 of"),
        ([{"from": "human", "value": "a", "content": "b"}], "got 'value' too"),
        ([{"from": "user", "role": "user", "content": "b"}], "got 'from' too"),
        ([{"from": "gpt", "value": "a"}], "got one of role assistant: set source.answer to drop"),
        ([{"from": "robot", "value": "a"}], "got 'robot'"),
    ],
)
def test_ambiguous_forms_are_refused(spoken: object, reason: str) -> None:
    """Nothing of them is left out."""
    said = maker(messages="m").make({"m": spoken})
    assert isinstance(said, str)
    assert reason in said


@pytest.mark.parametrize(
    ("end", "answer"),
    [
        ([], None),
        ([{"role": "assistant", "content": "4"}], "4"),
        ([{"from": "gpt", "value": "4", "reasoning": "2 and 2"}], "4"),
        ([{"role": "assistant", "content": "4"}, {"role": "assistant", "content": "Yes."}], "4\n\nYes."),
        ([{"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}], None),
        ([{"role": "assistant", "content": [{"type": "text", "text": "4"}]}], "4"),
    ],
)
def test_a_dropped_answer_is_a_column(end: list[Any], answer: str | None) -> None:
    """The last of the kept values; what came before is asked as without it."""
    make = maker(messages="m", answer="drop", keep=["n"])
    prompt = made(make, {"m": [user("hi"), {"role": "assistant", "content": "hello"}, user("2+2?"), *end], "n": "x"})
    assert prompt.messages == (("user", "hi"), ("assistant", "hello"), ("user", "2+2?"))
    assert prompt.kept == ("x", answer)


def test_a_conversation_without_a_question_stays_refused_after_dropping() -> None:
    """No message but the assistant's, or a last one of the system."""
    make = maker(messages="m", answer="drop")
    for spoken in ([{"role": "assistant", "content": "a"}], [{"role": "system", "content": "a"}]):
        assert isinstance(make.make({"m": spoken}), str)


def test_a_system_message_may_be_a_template() -> None:
    """Over the row, with a prompt, a template or a conversation; one that renders to nothing is left out."""
    system = "Answer in {{ lang }}.{% if hint %} {{ hint }}{% endif %}"
    row = {"lang": "French", "hint": None, "q": "2+2?", "m": [user("2+2?")]}
    for make in (
        maker(system=system),
        maker(system=system, prompt=None, template="{{ q }}"),
        maker(system=system, prompt=None, messages="m"),
    ):
        assert {"lang", "hint"} <= make.columns
        assert made(make, row).messages == (("system", "Answer in French."), ("user", "2+2?"))
    assert made(maker(system="{{ hint }}"), row).messages == (("user", "2+2?"),)
    assert "ask.system: 'lang' is undefined" in str(maker(system=system).make({"q": "2+2?"}))
    with pytest.raises(UsageError, match=r"ask\.system, line 1: .*put text that is not a template between {% raw %}"):
        maker(system="{{ unclosed")


def test_a_system_text_without_template_syntax_is_unchanged() -> None:
    """Comments of Jinja and lone braces too; and so does any text in a dataset from before there were templates."""
    for text in ("{# no comment #} {x}\n", "{ { a } }", " "):
        assert made(maker(system=text), {"q": "a"}).messages[0] == ("system", text)
    old = PromptMaker(Source(path="x", prompt="q"), Ask(system="Fill in {{ name }}."), templates_system=False)
    assert made(old, {"q": "a"}).messages[0] == ("system", "Fill in {{ name }}.")


def test_a_dotted_name_leads_into_structs() -> None:
    """Unless a column has that very name; the message names the part that is missing."""
    make = maker(prompt="data.question", id="data.meta.id", keep=["data.meta.level"])
    row: dict[str, Any] = {"data": {"question": "2+2?", "meta": {"id": 7, "level": "easy"}}}
    prompt = made(make, row)
    assert (prompt.id, prompt.messages, prompt.kept) == ("7", (("user", "2+2?"),), ("easy",))
    assert made(make, row | {"data.question": "flat?"}).messages == (("user", "flat?"),)
    assert make.make({"data": {"question": None}}) == "column 'data.question' is null"
    assert make.make({"data": None}) == "column 'data.question' is missing"
