"""Reasoning in a text: cut where the text plainly begins with it; otherwise all of it stays, and markup is noticed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gen.teachers.thinking import Dialect, Split, has_markup, split_thoughts

QUOTING = [
    "Split the text at the closing tag `</think>`:\n\n    head, _, rest = text.partition('</think>')\n\nThen strip.",
    "Write `<think>` first, then `</think>` last.",
    '{"pattern": "</think>", "why": "it ends the thoughts"}',
    "Use:\n```python\ntext = '''\n</think>\n'''\n```\nand that is all.",
    "In ChatML a turn ends with `<|im_end|>`.",
    "a < b and c > d, <b>bold</b>, [1], List<String>",
]


@pytest.mark.parametrize("text", QUOTING)
def test_an_answer_about_tags_is_left_whole(text: str) -> None:
    """In code and in quotes a tag means itself."""
    assert split_thoughts(text) == Split(text, None)
    assert not has_markup(text)


@pytest.mark.parametrize(
    ("text", "answer", "thoughts"),
    [
        ("<think>\n2+2\n</think>\n\n4", "4", "2+2"),
        ("<think>The tag `</think>` ends.\n</think>\nDone.", "Done.", "The tag `</think>` ends."),
        ("<think>\nIt ends at </think> here.\n</think>\n\nDone.", "Done.", "It ends at </think> here."),
        ("<think>\n```\nx = 1\n</think>\n\nDone.\n```\ny\n```", "Done.\n```\ny\n```", "```\nx = 1"),
        ("Six sevens make 42.\n</think>\n\n42", "42", "Six sevens make 42."),
        ("[THINK]Add.[/THINK]Four.", "Four.", "Add."),
        ("<seed:think>Add.</seed:think>Four.", "Four.", "Add."),
        ("<think time=3>Add.</think>Four.", "Four.", "Add."),
        ("<thinking>\nAdd.\n</thinking>\nFour.", "Four.", "Add."),
        ("<|begin_of_thought|>Add.<|end_of_thought|>Four.", "Four.", "Add."),
        ("<think>\nStill thinking", "", "Still thinking"),
        (
            "<|channel|>analysis<|message|>Six sevens.<|end|><|start|>assistant<|channel|>final<|message|>42<|return|>",
            "42",
            "Six sevens.",
        ),
        ("analysisSix sevens.assistantfinal42", "42", "Six sevens."),
    ],
)
def test_leading_thoughts_are_split_off(text: str, answer: str, thoughts: str) -> None:
    """In the dialects of many models."""
    assert split_thoughts(text) == Split(answer, thoughts)
    assert not has_markup(answer)


@pytest.mark.parametrize(
    "text",
    [
        "42<|im_end|>",
        "42</s>",
        "So 6 x 7.</think>\n\n42",  # not alone on its line: nobody can say
        "It is <think>a thought</think> of mine.",
        "<|channel|>commentary to=functions.f<|message|>{}<|call|>",
        "<start_of_turn>model\n42",
        "[INST] what? [/INST] 42",
    ],
)
def test_leftover_markup_is_detected(text: str) -> None:
    """So that its answer is rejected, never taught in silence."""
    split = split_thoughts(text)
    assert split == Split(text, None)
    assert has_markup(text)


@pytest.mark.parametrize(
    ("dialect", "text", "split"),
    [
        ("none", "<think>a</think>b", Split("<think>a</think>b", None)),
        (("<think>", "</think>"), "So 6 x 7.</think>42", Split("42", "So 6 x 7.")),
        (("<a>", "</a>"), "<a>x</a>y", Split("y", "x")),
        (("<a>", "</a>"), "plain", Split("plain", None)),
        (("<a>", "</a>"), "<a>never closed", Split("", "never closed")),
        (("", "@@"), "x@@y", Split("y", "x")),
    ],
)
def test_a_recipe_can_set_the_thinking_tags(dialect: Dialect, text: str, split: Split) -> None:
    """`none` leaves every text unchanged; two tags are matched literally."""
    assert split_thoughts(text, dialect) == split


PIECES = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "\n", "`", "```\n", '"', "'", "word ", "<|end|>", "[THINK]", "[/THINK]", " "]
    )
)


@given(PIECES.map("".join))
def test_no_text_is_lost(text: str) -> None:
    """But for tags and space at the seam, all of it is in the text or in the thoughts."""

    def bare(part: str) -> str:
        for tag in ("<think>", "</think>", "[THINK]", "[/THINK]"):
            part = part.replace(tag, "")
        return "".join(part.split())

    split = split_thoughts(text)
    assert bare((split.thoughts or "") + split.text) == bare(text)
    if split.thoughts is None:
        assert split.text == text
