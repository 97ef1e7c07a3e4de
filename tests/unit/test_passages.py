"""Text files as sources: passages of bounded length, from any of which reading resumes."""

import gzip
from pathlib import Path

import pytest
from builders import index, open_chunk, recipe_of
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.gen.source.files import SourceFile, read_rows
from stillhouse.gen.source.formats.passages import NOT_UTF8
from stillhouse.gen.source.formats.row import Row
from stillhouse.gen.source.survey import survey
from stillhouse.schemas.source import Source

PARAGRAPHS = [f"Paragraph {number}. " + "Some more words follow here. " * 8 for number in range(40)]


def read(file: SourceFile, chars: int = 500, *, after: Row | None = None) -> list[Row]:
    """The file's passages, from one of them on."""
    source = Source(path=file.url, prompt="text", passage_chars=chars)
    return list(read_rows(file, source=source) if after is None else read_rows(file, source=source, start=after.at))


def found(path: Path) -> SourceFile:
    """The file at the path."""
    (file,) = survey(Source(path=str(path), prompt="text")).files
    return file


def texts(rows: list[Row]) -> list[str]:
    """Of good rows."""
    return [row.values["text"] for row in rows if row.values]


def test_a_passage_is_whole_paragraphs(tmp_path: Path) -> None:
    """As many as fit; a heading goes with what follows it."""
    path = tmp_path / "a.md"
    path.write_text("# Title\r\n\r\n" + "\n\n".join(PARAGRAPHS))
    rows = read(found(path), 600)
    assert texts(rows)[0] == "# Title\r\n\r\n" + "\n\n".join(PARAGRAPHS[:2]).rstrip()
    assert "\n\n".join(texts(rows)).split() == path.read_text().split()
    assert all(len(text) <= 600 for text in texts(rows))
    assert [row.values["passage"] for row in rows if row.values] == list(range(len(rows)))
    assert [row.at.line for row in rows[:3]] == [1, 7, 11]


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="ab é\n\r\t.!😀。", max_size=900), chars=st.integers(100, 200))
def test_reading_resumes_from_any_passage(tmp_path_factory: pytest.TempPathFactory, text: str, chars: int) -> None:
    """And all passages together hold all that is not white space, whatever the text."""
    path = tmp_path_factory.mktemp("passages") / "a.txt"
    path.write_bytes(text.encode())
    rows = read(found(path), chars)
    assert "".join("".join(texts(rows)).split()) == "".join(text.split())
    assert all(0 < len(each) <= chars for each in texts(rows))
    for place in range(0, len(rows), 3):
        assert read(found(path), chars, after=rows[place]) == rows[place:]
        assert path.read_bytes()[rows[place].at.offset :].startswith((texts(rows)[place]).encode())


def test_bytes_that_are_not_text_cost_only_their_passage(tmp_path: Path) -> None:
    """Also in a compressed file, and after a byte order mark."""
    path = tmp_path / "a.txt.gz"
    with gzip.open(path, "wb") as file:
        file.write(b"\xef\xbb\xbf" + b"good " * 90 + b"\n\n" + b"bad \xff " * 70 + b"\n\n" + b"fine " * 90)
    rows = read(found(path), 460)
    assert [row.bad for row in rows] == [None, NOT_UTF8, None]
    assert texts(rows)[0].startswith("good")
    assert read(found(path), 460, after=rows[2]) == rows[2:]


def test_documents_are_a_source_if_there_is_nothing_else(tmp_path: Path) -> None:
    """A README next to prompts, or next to a .json file, is not a source."""
    (tmp_path / "README.md").write_text("Read me.")
    (file,) = survey(Source(path=str(tmp_path), prompt="text")).files
    assert file.url == str(tmp_path / "README.md")
    (tmp_path / "a.json").write_text('[{"question": "Why?"}]')
    kinds = survey(Source(path=str(tmp_path), prompt="question"))
    assert [file.url for file in kinds.files] == [str(tmp_path / "a.json")]
    assert kinds.passed_over == (str(tmp_path / "README.md"),)


def test_a_recipe_can_ask_about_passages(tmp_path: Path) -> None:
    """Their length decides what the dataset is; left at its default it is not in the identity."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.txt").write_text("\n\n".join(PARAGRAPHS))
    changes = {"prompt": None, "id": None, "keep": ["passage", {"text": "string"}]}
    recipe = recipe_of(
        tmp_path, source=changes | {"passage_chars": 1000}, ask={"template": "Ask about:\n{{ text }}"},
    )  # fmt: skip
    index(recipe)
    prompts = open_chunk(recipe).chunk.prompts
    assert len(prompts) == 10
    assert prompts[0].messages[-1][1].startswith("Ask about:\nParagraph 0.")
    assert prompts[1].kept[0] == "1"
    assert recipe.identity()["source"]["passage_chars"] == 1000
    assert (
        "passage_chars" not in recipe_of(tmp_path, source=changes, ask={"template": "{{ text }}"}).identity()["source"]
    )
