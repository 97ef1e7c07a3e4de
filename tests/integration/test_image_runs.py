"""Runs over sources with images: every protocol sends them, and records keep them as trainers take them."""

import asyncio
import hashlib
import io
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from builders import recipe_of, write_source
from harness import run_in_process
from pictures import data_url, picture, write_images
from PIL import Image as Pillow

from stillhouse.gen.dataset import source_planning
from stillhouse.gen.dataset.generations import read_generations
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.errors import SourceError
from stillhouse.gen.simulator import serve
from stillhouse.gen.views.card import card_of
from stillhouse.gen.views.preview import preview, render
from stillhouse.gen.views.report import report
from stillhouse.gen.views.verify import verify
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.simulator import SimulatorSettings

APIS = ("openai-chat", "openai-responses", "anthropic", "gemini", "bedrock")


def teacher(api: str, url: str) -> dict[str, Any]:
    """A teacher of this protocol at the simulator."""
    base_url = url if api == "openai-chat" else url.removesuffix("/v1")
    given = {"name": api, "api": api, "base_url": base_url, "model": f"{api}-model", "api_key": "env:T_KEY"}
    return given | {"terms": {"training_use": "permitted"}, "limits": {"in_flight": 4}, "ask": {"max_tokens": 400}}


def rows(recipe: Recipe, folder: str = "data") -> list[dict[str, Any]]:
    """All rows of a folder of the dataset."""
    path = Path(recipe.dataset.path) / folder
    return pq.read_table(path, partitioning=None).to_pylist() if path.exists() else []


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment; the simulator takes any."""
    monkeypatch.setenv("T_KEY", "canary-key-of-the-tests")


def recipe_with(root: Path, url: str, *apis: str, **changes: Any) -> Recipe:
    """Teachers of these protocols at the simulator, asked about images."""
    teachers = [teacher(api, url) for api in apis]
    source = {"images": ["image"]} | changes.pop("source", {})
    return recipe_of(root, source=source, teachers=teachers, **changes)


def seen(data: bytes) -> str:
    """The start of the simulator's answers to prompts with this image."""
    return f"In view: {hashlib.sha256(data).digest()[:4].hex()}. "


async def test_all_protocols_send_images(tmp_path: Path) -> None:
    """Each teacher saw the image of its row, and the record says where it is."""
    images = [picture(number, kind=("png", "jpeg", "webp")[number % 3]) for number in range(60)]
    path = tmp_path / "source" / "a.parquet"
    write_images(path, [{"bytes": data, "path": f"{n}.bin"} for n, data in enumerate(images)])
    async with await serve(SimulatorSettings()) as server:
        recipe = recipe_with(tmp_path, server.url, *APIS, dataset={"prompts_per_shard": 25})
        summary = await run_in_process(recipe, workers=2)
        again = await run_in_process(recipe)
    assert (summary.records, summary.failed, summary.rejected, again.requests) == (60, 0, 0, 0)
    kept = rows(recipe)
    assert {row["teacher"] for row in kept} == set(APIS)
    for row in kept:
        number = int(row["prompt_id"][1:])
        assert row["completion"][0]["content"].startswith(seen(images[number]))
        digest = hashlib.sha256(images[number]).hexdigest()
        assert row["images"] == [{"bytes": None, "path": f"{path}#row={number}&image=0&sha256={digest}"}]
        assert row["prompt"] == [{"role": "user", "content": f"what is {number} + 1?"}]
    assert verify(open_dataset(recipe)).ok


async def test_datasets_reads_embedded_images(tmp_path: Path) -> None:
    """As images, with the pixels of the source, in records and in what is rejected."""
    images = [picture(number) for number in range(6)]
    write_images(
        tmp_path / "source" / "a.parquet", [{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(images)]
    )
    async with await serve(SimulatorSettings()) as server:
        changes: dict[str, Any] = {"dataset": {"images": "embed", "messages": True}, "ask": {"samples": 2}}
        recipe = recipe_with(tmp_path, server.url, "openai-chat", **changes)
        summary = await run_in_process(recipe)
    assert summary.records == 12
    read = datasets.load_dataset("parquet", data_dir=str(tmp_path / "out" / "data"), cache_dir=str(tmp_path / "hf"))
    for row in read["train"]:
        number = int(row["prompt_id"][1:])
        (image,) = row["images"]
        assert isinstance(image, Pillow.Image)
        assert image.tobytes() == Pillow.open(io.BytesIO(images[number])).tobytes()
    assert rows(recipe)[0]["images"][0]["path"].endswith(".png")
    assert verify(open_dataset(recipe)).ok


async def test_text_sources_can_name_images_by_url(tmp_path: Path) -> None:
    """data: URLs are sent as their bytes, links as they are; bad images are bad rows."""
    image, link = picture(5), "https://example.org/a.png"
    given = [data_url(image), link, [link, data_url(image)], [], "cat.png", None]
    write_source(tmp_path, [{"id": f"q{n}", "question": f"{n}?", "image": each} for n, each in enumerate(given)])
    async with await serve(SimulatorSettings()) as server:
        recipe = recipe_with(tmp_path, server.url, "anthropic", dataset={"images": "embed"})
        shown = preview(recipe)
        summary = await run_in_process(recipe)
    assert (shown.to_ask, shown.bad, [example.images for example in shown.examples]) == (4, 2, [1, 1, 2])
    assert "example 3: q2 with 2 images" in render(shown)
    assert (summary.records, summary.bad) == (4, 2)
    kept = {row["prompt_id"]: row for row in rows(recipe)}
    assert [kept[f"q{n}"]["images"] for n in range(4)] == [
        [{"bytes": image, "path": None}],
        [{"bytes": None, "path": link}],
        [{"bytes": None, "path": link}, {"bytes": image, "path": None}],
        [],
    ]
    assert kept["q1"]["completion"][0]["content"].startswith(f"In view: {link}. ")
    assert not kept["q3"]["completion"][0]["content"].startswith("In view")


async def test_image_links_are_never_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher gets the link; plan, run, card, report and verify never contact its host."""
    came: list[str] = []
    look_up = socket.getaddrinfo

    def to_us(name: Any, *args: Any, **options: Any) -> Any:
        if name == "pictures.example":
            came.append("a look-up")
        return look_up("127.0.0.1" if name == "pictures.example" else name, *args, **options)

    def hear(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append("a connection")
        writer.close()

    monkeypatch.setattr(socket, "getaddrinfo", to_us)
    host = await asyncio.start_server(hear, "127.0.0.1", 0)
    port = host.sockets[0].getsockname()[1]
    links = [f"https://pictures.example:{port}/{number}.png" for number in range(5)]
    write_source(tmp_path, [{"id": f"q{n}", "question": f"{n}?", "image": link} for n, link in enumerate(links)])
    async with host, await serve(SimulatorSettings()) as server:
        recipe = recipe_with(tmp_path, server.url, "openai-chat", dataset={"images": "embed"})
        store = open_dataset(recipe)
        planned = await asyncio.to_thread(preview, recipe)
        summary = await run_in_process(recipe)
        found = await asyncio.to_thread(verify, store)
        pages = [await asyncio.to_thread(make, store) for make in (card_of, report)]
        assert (planned.to_ask, summary.records, found.ok, len(pages)) == (5, 5, True, 2)
        assert came == []
        reader, writer = await asyncio.open_connection("pictures.example", port)
        await reader.read()
        writer.close()
        assert came == ["a look-up", "a connection"]  # so it would have been heard
    assert {row["images"][0]["path"] for row in rows(recipe)} == set(links)


async def test_a_source_with_images_can_move_but_not_change(tmp_path: Path) -> None:
    """Images are found again by their file's content; other images in its place are refused by name."""
    path = tmp_path / "source" / "a.parquet"
    write_images(path, [{"bytes": picture(number), "path": None} for number in range(30)])
    async with await serve(SimulatorSettings()) as server:
        recipe = recipe_with(tmp_path, server.url, "gemini")
        assert (await run_in_process(recipe, limit=10)).records == 10
        shutil.move(path, path.with_name("moved.parquet"))
        assert (await run_in_process(recipe, limit=10)).records == 20
        write_images(path.with_name("moved.parquet"), [{"bytes": picture(n + 50), "path": None} for n in range(30)])
        os.utime(path.with_name("moved.parquet"), (1, 1))
        with pytest.raises(SourceError, match=r"moved\.parquet"):
            await run_in_process(recipe)


async def test_equal_prompts_with_equal_images_are_asked_once(tmp_path: Path) -> None:
    """The same question about another image is another prompt."""
    one, other = ({"bytes": picture(number), "path": None} for number in (1, 2))
    path = tmp_path / "source" / "a.parquet"
    write_images(path, [one, other, one])
    async with await serve(SimulatorSettings()) as server:
        recipe = recipe_with(tmp_path, server.url, "openai-chat", source={"prompt": None}, ask={"template": "What?"})
        summary = await run_in_process(recipe)
    assert (summary.records, summary.duplicates) == (2, 1)


async def test_the_first_requests_need_only_a_small_part_of_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image takes milliseconds to index; what fails in a later part is found again."""
    monkeypatch.setattr(source_planning, "_IMAGE_ROWS_PER_PART", 20)
    images = [picture(number) for number in range(60)]
    write_images(tmp_path / "source" / "a.parquet", [{"bytes": data, "path": None} for data in images])
    dataset = {"prompts_per_shard": 10}
    refusing = {"kind": "status", "status": 400, "share": 0.2}
    async with await serve(SimulatorSettings.model_validate({"faults": [refusing]})) as server:
        recipe = recipe_with(tmp_path, server.url, "openai-chat", dataset=dataset)
        first = await run_in_process(recipe)
    (generation,) = read_generations(open_dataset(recipe))
    assert [len(part.asks) for part in generation.parts] == [2, 2, 2]
    assert 0 < first.failed < 30
    async with await serve(SimulatorSettings()) as server:
        mended = recipe_with(tmp_path, server.url, "openai-chat", dataset=dataset)
        last = await run_in_process(mended, retry=["bad_request"])
    assert (last.records, last.requests) == (60, first.failed)
    assert {row["prompt_id"] for row in rows(mended)} == {f"q{number}" for number in range(60)}
    assert verify(open_dataset(mended)).ok
