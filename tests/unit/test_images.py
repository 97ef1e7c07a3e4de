"""Images of source rows: what is one, what a teacher would refuse, and how each protocol sends it."""

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import orjson
import pytest
from builders import FIRST, SIMULATED, index, recipe_of
from pictures import data_url, picture, write_images
from PIL import Image as Pillow

from stillhouse.gen.dataset.chunk import ChunkReader
from stillhouse.gen.dataset.image_reader import CACHE_BYTES, ImageReader, Origin
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import SourceError
from stillhouse.gen.source.formats.row import Position
from stillhouse.gen.source.prompt_maker import PromptMaker
from stillhouse.gen.source.survey import survey
from stillhouse.gen.teachers.image_tokens import image_tokens
from stillhouse.gen.teachers.keys import Credentials
from stillhouse.gen.teachers.protocols import protocol_of
from stillhouse.gen.teachers.protocols.base import Request
from stillhouse.schemas.ask import Ask
from stillhouse.schemas.image import InlineImage, LinkedImage, StoredImage, key_of
from stillhouse.schemas.image_rules import refused_image
from stillhouse.schemas.prompt import Prompt, prompt_key
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.source import Source
from stillhouse.schemas.teacher import Teacher

PNG = picture(1)
LINK = "https://example.org/cat.png"


def made(value: Any, *, api: str = "openai-chat", **more: Any) -> Prompt | str:
    """What a row with this value in its image column makes."""
    source = Source.model_validate({"path": "x", "prompt": "q", "images": ["image", *more]})
    return PromptMaker(source, Ask(), teachers=[teacher(api)]).make({"q": "What is it?", "image": value} | more)


def teacher(api: str, **changes: Any) -> Teacher:
    """One of this API."""
    given = {"name": "t", "api": api, "base_url": "https://t.example/v1", "model": "m", "api_key": "env:K"}
    aws = {"aws": {"region": "us-east-1"}} if api == "bedrock" else {}
    return Teacher.model_validate(given | {"terms": {"training_use": "permitted"}} | aws | changes)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp"])
def test_only_image_types_that_teachers_accept_are_read(kind: str) -> None:
    """By what the bytes are, in every form that a column may hold."""
    data = picture(3, kind=kind)
    forms: list[Any] = [data, bytearray(data), {"bytes": data, "path": None}, {"bytes": data, "path": "a.bin"}]
    for value in [*forms, data_url(data, kind=kind), [data], [{"bytes": data}]]:
        prompt = made(value)
        assert isinstance(prompt, Prompt), prompt
        (image,) = prompt.images
        assert isinstance(image, StoredImage)
        assert (image.media_type, image.width, image.height, image.size) == (f"image/{kind}", 16, 12, len(data))
        assert prompt.key == prompt_key(prompt.messages, [key_of(data)])


def test_a_link_is_kept_as_it_is() -> None:
    """It is never fetched."""
    for value in (LINK, [LINK], {"bytes": None, "path": LINK}):
        prompt = made(value)
        assert isinstance(prompt, Prompt)
        assert prompt.images == (LinkedImage(LINK),)


def test_the_key_covers_images_and_leaves_texts_as_they_were() -> None:
    """A text's key is a fixed value; another image, or the same ones in another order, is another prompt."""
    assert prompt_key((("user", "2+2?"),)).hex() == prompt_key((("user", "2+2?"),), []).hex() == TEXT_KEY
    assert prompt_key((("user", "2+2?"),), [key_of(b"a")]).hex() == IMAGE_KEY
    both = [made([picture(1), picture(2)]), made([picture(2), picture(1)]), made([picture(1)]), made([LINK]), made([])]
    keys = {prompt.key for prompt in both if isinstance(prompt, Prompt)}
    assert len(keys) == 5


TEXT_KEY = "338e742c9674d4ae8fa7e65e62a6b5b7"
IMAGE_KEY = "e87e5534648b33b250eea75bf2140dd9"


def bomb() -> bytes:
    """A PNG of a kilobyte that is 100,000 pixels a side."""
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 10_000)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def tiff() -> bytes:
    """A good image of a type that teachers do not take."""
    sink = io.BytesIO()
    Pillow.new("RGB", (4, 4)).save(sink, format="tiff")
    return sink.getvalue()


NOISE = Pillow.effect_noise((200, 200), 90).tobytes()


def noise(kind: str) -> bytes:
    """An image of some size, so that half of it lacks pixels."""
    sink = io.BytesIO()
    Pillow.frombytes("L", (200, 200), NOISE).convert("RGB").save(sink, format=kind)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "is null"),
        ([None], "expected an image"),
        (7, "expected an image"),
        ({"path": "a.png"}, "has a path and no bytes"),
        ({"bytes": None, "path": "a.png"}, "embed_table_storage"),
        ({"bytes": None, "path": "/etc/passwd"}, "files that rows name are not opened"),
        ({"bytes": None, "path": None}, "expected an image"),
        ({"bytes": "aGk=", "path": None}, "data: URL"),
        ({"bytes": PNG, "width": 3}, "expected an image"),
        (b"", "got nothing"),
        (b"hello", "expected a PNG, JPEG, GIF or WebP image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "expected a PNG"),
        (tiff(), "expected a PNG"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "can't be decoded"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "can't be decoded"),
        (b"GIF89a", "can't be decoded"),
        (b"\xff\xd8\xff\xe0", "can't be decoded"),
        *((noise(kind)[: len(noise(kind)) // 2], "can't be decoded") for kind in ("png", "jpeg", "gif", "webp")),
        (bomb(), "megapixels"),
        ("cat.png", "expected an https:// or data: URL"),
        ("http://example.org/a.png", "expected an https://"),
        ("file:///etc/passwd", "expected an https://"),
        ("https://169.254.169.254/latest/meta-data", "public URL"),
        ("https://10.0.0.1/a.png", "public URL"),
        ("https://[::1]/a.png", "public URL"),
        ("https://localhost/a.png", "public URL"),
        ("https://user:pw@example.org/a.png", "public URL"),
        ("https:///a.png", "no host"),
        ("https://[bad/a.png", "no host"),
        ("https://example.org/a b.png", "without spaces"),
        ("https://example.org/" + "a" * 9000, "at most 8,192"),
        ("https://example.org/\ud800.png", "lone surrogate"),
        ("data:image/png,abc", "in base64"),
        ("data:image/png;base64,@@@", "not valid base64"),
        ("data:image/png;base64,aGVsbG8=", "expected a PNG"),
        ([PNG] * 1001, "at most 1,000"),
    ],
)
def test_a_value_that_is_not_an_image_makes_a_bad_row(value: Any, why: str) -> None:
    """With a reason that says what was expected, and without its content."""
    said = made(value)
    assert isinstance(said, str)
    assert why in said
    assert "\ud800" not in said


def test_a_row_may_lack_an_image_of_several() -> None:
    """But not all of them; an empty list says that there are no images."""
    two = made(None, other=PNG)
    assert isinstance(two, Prompt)
    assert len(two.images) == 1
    assert made(None, other=None) == (
        "source.images: column 'image' is null, 'other' is null; a row without images has an empty list"
    )
    none = made([])
    assert isinstance(none, Prompt)
    assert none.images == ()
    assert none.key == prompt_key(none.messages)


@pytest.mark.parametrize(
    ("api", "value", "why"),
    [
        ("bedrock", LINK, "teacher t: `api: bedrock` takes images as bytes"),
        ("bedrock", [PNG] * 21, "at most 20 images"),
        ("gemini", picture(1, kind="gif"), "got image/gif"),
        ("anthropic", [LINK] * 101, "at most 100"),
        ("anthropic", picture(1, size=(8001, 2)), "8,000 pixels a side"),
        ("anthropic", PNG + b"\0" * (5 * 2**20), "at most 5,242,880 bytes"),
    ],
)
def test_an_image_that_a_teacher_would_refuse_makes_a_bad_row(api: str, value: Any, why: str) -> None:
    """Before anything is asked; others take the same."""
    said = made(value, api=api)
    assert isinstance(said, str)
    assert why in said
    assert isinstance(made(value, api="openai-chat"), Prompt)


def test_claude_on_vertex_accepts_no_links() -> None:
    """Unlike Anthropic's own API."""
    vertex = teacher("anthropic", base_url="https://aiplatform.googleapis.com/v1/projects/p/locations/global")
    link = LinkedImage(LINK)
    assert refused_image([link], [teacher("anthropic")]) is None
    assert "`api: anthropic` on Vertex takes images as bytes" in str(refused_image([link], [vertex]))


def spoken(*contents: Any) -> Prompt | str:
    """What a conversation with one image makes."""
    source = Source.model_validate({"path": "x", "messages": "m", "images": "image", "answer": "drop"})
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": content} for n, content in enumerate(contents)]
    return PromptMaker(source, Ask()).make({"m": messages, "image": PNG})


def test_conversations_mark_where_their_images_are_sent() -> None:
    """At the head of the first user message, as trainers store them; or not at all."""
    image, text = {"type": "image", "text": None}, {"type": "text", "text": "What is it?"}
    for prompt in (spoken([image, text]), spoken("What is it?"), spoken([image, text], "A cat.")):
        assert isinstance(prompt, Prompt), prompt
        assert prompt.messages == (("user", "What is it?"),)
        assert len(prompt.images) == 1
    answered = spoken([image, text], "A cat.")
    assert isinstance(answered, Prompt)
    assert answered.kept == ("A cat.",)
    for contents in (([text, image],), ("Hi.", "Hello.", [image, text])):
        assert "an image part is elsewhere" in str(spoken(*contents))
    assert "per image, got 2 of 1" in str(spoken([image, image, text]))


def body(api: str, *images: InlineImage | LinkedImage) -> Any:
    """The request's messages, in the protocol's form."""
    ask = Request((("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V")), images=images)
    made = protocol_of(teacher(api), Ask(max_tokens=9)).request(ask, base_url="https://t", key=Credentials(), now=0.0)
    return orjson.loads(made.body)


def test_each_protocol_sends_images_in_its_own_way() -> None:
    """Before the text of the first user message."""
    inline, link = InlineImage("image/png", b"abc"), LinkedImage(LINK)
    data = base64.b64encode(b"abc").decode()
    url = f"data:image/png;base64,{data}"
    assert body("openai-chat", inline, link)["messages"][1]["content"] == [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": {"url": LINK}},
        {"type": "text", "text": "U"},
    ]
    assert body("openai-responses", inline, link)["input"][1]["content"] == [
        {"type": "input_image", "image_url": url},
        {"type": "input_image", "image_url": LINK},
        {"type": "input_text", "text": "U"},
    ]
    assert body("anthropic", inline, link)["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
        {"type": "image", "source": {"type": "url", "url": LINK}},
        {"type": "text", "text": "U"},
    ]
    assert body("gemini", inline, link)["contents"][0]["parts"] == [
        {"inlineData": {"mimeType": "image/png", "data": data}},
        {"fileData": {"mimeType": "image/png", "fileUri": LINK}},
        {"text": "U"},
    ]
    assert body("bedrock", inline)["messages"][0]["content"] == [
        {"image": {"format": "png", "source": {"bytes": data}}},
        {"text": "U"},
    ]
    assert [message["content"] for message in body("openai-chat", inline)["messages"][2:]] == ["A", "V"]


def test_the_tokens_of_an_image_are_estimated() -> None:
    """By the provider's formula, or a bound; a link counts as large."""
    image = StoredImage("image/png", b"", 9, width=1000, height=750)
    assert image_tokens(image, api="anthropic", model="claude-opus-5") == 1000
    assert image_tokens(image, api="bedrock", model="us.anthropic.claude-opus-5-v1:0") == 1000
    assert image_tokens(image, api="gemini", model="gemini-2.5-pro") == 258 * 2 * 2 + 88
    assert image_tokens(image, api="openai-chat", model="gpt-4o") >= 85 + 170 * 4
    for api in ("openai-chat", "anthropic", "gemini", "bedrock"):
        assert image_tokens(LinkedImage(LINK), api=api, model="m") > image_tokens(image, api=api, model="m")


def image_recipe(root: Path, **changes: Any) -> Recipe:
    """Over Parquet files with a column of images."""
    source = {"images": ["image"]} | changes.pop("source", {})
    return recipe_of(root, source=source, teachers=[SIMULATED], **changes)


def test_images_are_read_again_in_any_order(tmp_path: Path) -> None:
    """Each is that of its row; a file that changed is refused."""
    images = [picture(number) for number in range(50)]
    path = tmp_path / "source" / "a.parquet"
    write_images(path, [{"bytes": data, "path": None} for data in images])
    recipe = image_recipe(tmp_path)
    (file,) = survey(recipe.source).files
    reader = ImageReader(recipe.source)
    for row in (0, 1, 2, 30, 3, 31, 49, 0, 12):
        described = made(images[row])
        assert isinstance(described, Prompt)
        origin = Origin(file, Position(row, 0, row + 1))
        assert reader.read(origin, described.images) == (InlineImage("image/png", images[row]),)
        assert reader.at_hand(origin, described.images) is not None
        with pytest.raises(SourceError, match="its images are not the planned ones"):
            reader.read(origin, made_images(picture(999)))
    write_images(path, [{"bytes": data, "path": None} for data in reversed(images)])
    with pytest.raises(SourceError, match="changed since it was planned"):
        ImageReader(recipe.source).read(Origin(file, Position(4, 0, 5)), made_images(images[4]))


def made_images(data: bytes) -> tuple[Any, ...]:
    """What is known about an image."""
    prompt = made(data)
    assert isinstance(prompt, Prompt)
    return prompt.images


def test_memory_does_not_grow_with_the_source(tmp_path: Path) -> None:
    """Only a bounded part of what was read stays in memory."""
    size = 1_000_000
    count = CACHE_BYTES // size + 30
    tail = b"\0" * (size - len(PNG))
    path = tmp_path / "source" / "a.parquet"
    write_images(path, [{"bytes": PNG + tail, "path": None}] * count)
    recipe = image_recipe(tmp_path)
    (file,) = survey(recipe.source).files
    reader = ImageReader(recipe.source)
    images = made_images(PNG + tail)
    origins = [Origin(file, Position(row, 0, row + 1)) for row in range(count)]
    for origin in origins:
        reader.read(origin, images)
    held = [reader.at_hand(origin, images) is not None for origin in origins]
    assert held == [row >= count - CACHE_BYTES // size for row in range(count)]


def test_open_chunks_hold_no_images(tmp_path: Path) -> None:
    """They say where they are."""
    write_images(tmp_path / "source" / "a.parquet", [{"bytes": picture(n), "path": f"{n}.png"} for n in range(8)])
    recipe = image_recipe(tmp_path)
    index(recipe)
    chunk = ChunkReader(open_dataset(recipe), recipe).read(FIRST)
    assert b"PNG" not in repr(chunk.prompts).encode()
    assert chunk.images is not None
    sent = [chunk.images.read(prompt) for prompt in chunk.prompts]
    assert sent == [(InlineImage("image/png", picture(n)),) for n in range(8)]
