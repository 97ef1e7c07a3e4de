"""The dataset card: true of what is sealed, read by `datasets`, harmless, and open to what a user writes into it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from builders import answer, body_of, chunk_of, index, open_chunk, questions, recipe_of, sealed, write_source

from stillhouse.gen.dataset.batch_intents import Intents
from stillhouse.gen.dataset.card_file import CARD_KEY, kept_card, write_card
from stillhouse.gen.dataset.layout import ChunkId, open_dataset
from stillhouse.gen.errors import DatasetError
from stillhouse.gen.views.card import BEGIN, END, card_of, markdown, size_category
from stillhouse.gen.views.report import report
from stillhouse.gen.views.verify import verify
from stillhouse.gen.worker.sealing import Sealer
from stillhouse.schemas.price import Price
from stillhouse.schemas.recipe import Recipe

LLAMA = {"name": "llama", "base_url": "http://t/v1", "model": "meta-llama/Llama-3.3-70B-Instruct"}


def part_of_a_dataset(root: Path, *, rows: int = 4, **changes: Any) -> Recipe:
    """The recipe of a dataset of two chunks, of which the first is sealed: two records, one rejected answer."""
    recipe, held = chunk_of(root, questions(rows), dataset={"prompts_per_shard": 3}, **changes)
    for ordinal, finish in enumerate(("stop", "stop", "length")):
        answer(held, ordinal, body_of(f"answer {ordinal}", finish=finish))
    sealed(recipe, held)
    return recipe


def rendered(recipe: Recipe, *, in_progress: bool = True) -> Callable[[str], str]:
    """What makes the card of the recipe's dataset."""
    return lambda stored: card_of(open_dataset(recipe), recipe if in_progress else None, stored=stored)


def written(recipe: Recipe) -> tuple[dict[str, Any], str]:
    """The head and the body of the card, written now."""
    write_card(open_dataset(recipe), rendered(recipe))
    text = (Path(recipe.dataset.path) / CARD_KEY).read_text()
    head, body = re.fullmatch(r"---\n(.*?)---\n(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    return yaml.safe_load(head), body


def test_datasets_loads_data_and_nothing_else(tmp_path: Path) -> None:
    """`load_dataset(<folder>)` loads the records, but neither rejected answers nor our own files."""
    recipe = part_of_a_dataset(tmp_path)
    write_card(open_dataset(recipe), rendered(recipe, in_progress=False))
    loaded = datasets.load_dataset(recipe.dataset.path, split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["content"] for (row,) in loaded["completion"]] == ["answer 0", "answer 1"]


def test_card_and_report_mention_missing_log_probabilities_and_custom_columns(tmp_path: Path) -> None:
    """What was asked for and is null, and what `messages` and the calls inside a message are."""
    tools = {"tools": [{"type": "function", "function": {"name": "f"}}]}
    recipe, held = chunk_of(tmp_path, questions(1), ask={"top_logprobs": 2, "extra": tools}, dataset={"messages": True})
    answer(held, 0, body_of())
    sealed(recipe, held)
    _, body = written(recipe)
    assert "1 record lacks the log-probabilities" in body
    assert "1 record lacks the log-probabilities" in report(open_dataset(recipe))
    row = next(line for line in body.splitlines() if line.startswith("| messages |"))
    assert "tool" in row
    assert row.endswith("Prompt and completion as one conversation. |")


def test_the_card_gives_costs_by_teacher(tmp_path: Path) -> None:
    """From the shards, and from a run whose first shard is still to come."""
    priced = LLAMA | {"price": {"input": 1, "output": 2.5, "cached_input": 0.1}}
    recipe = part_of_a_dataset(tmp_path, teachers=[priced])
    said = "* Price: input 1, output 2.5, cached input 0.1 USD per million tokens, by the recipe"
    assert said in card_of(open_dataset(recipe))
    source = "genai-prices 0.2.3, 2026-11-26"
    dearer = recipe.teachers[0].model_copy(update={"price": Price(input=3, output=4, source=source)})
    both = card_of(open_dataset(recipe), recipe.model_copy(update={"teachers": (dearer,)}))
    assert said in both
    assert f"* Price: input 3, output 4 USD per million tokens, by {source}" in both


def test_card_and_report_give_batches_by_state_and_price(tmp_path: Path) -> None:
    """The sealed chunk's batch has ended, the other's is open; a stated price is the one for batches."""
    batched = LLAMA | {"price": {"input": 1, "output": 2}, "mode": "batch", "profile": "openai"}
    recipe = part_of_a_dataset(tmp_path, teachers=[batched])
    store = open_dataset(recipe)
    intents = Intents(store, who="0")
    for number in (0, 1):
        intents.decide(ChunkId(0, number), 0, [0], at=1e9, url="http://t/v1", kept_days=2)
    intents.expired(ChunkId(0, 0), 0, [0])
    said = "1 open, 1 ended (1 with expired requests); collect by 2001-09-11"
    _, body = written(recipe)
    assert f"| batches | {markdown(said)} |" in body
    assert "* Price: input 1, output 2 USD per million tokens, by the recipe, for batches" in card_of(store)
    assert said in report(store)


def test_a_card_gives_the_prices_of_batches_and_of_online_requests_after_them(tmp_path: Path) -> None:
    """One line each, read from the shard."""
    prices = {"price": {"input": 1, "output": 2}, "online_price": {"input": 2, "output": 4}}
    mixed = LLAMA | prices | {"mode": "batch-then-online", "profile": "openai"}
    said = card_of(open_dataset(part_of_a_dataset(tmp_path, teachers=[mixed])))
    assert "* Price: input 1, output 2 USD per million tokens, by the recipe, for batches" in said
    assert "* Price: input 2, output 4 USD per million tokens, by the recipe, for what no batch answered" in said


def test_the_card_of_a_partial_dataset_says_so(tmp_path: Path) -> None:
    """The counts are those of the sealed shards, and what is left to ask is named."""
    head, body = written(part_of_a_dataset(tmp_path))
    assert head["size_categories"] == ["n<1K"]
    assert head["license"] == "other"
    assert "2 records in 1 shard, with 1 sample still to be asked" in body
    assert "| rejected | 1 (length 1) |" in body


def test_a_dataset_without_shards_has_a_card(tmp_path: Path) -> None:
    """A run that only begins writes one, with the teachers it is about to ask."""
    write_source(tmp_path, questions(2))
    recipe = recipe_of(tmp_path, teachers=[LLAMA])
    index(recipe)
    assert "Built with Llama" in written(recipe)[1]


def test_the_card_of_a_finished_dataset_is_written_once(tmp_path: Path) -> None:
    """A run that finds everything there leaves the card as it is."""
    recipe = part_of_a_dataset(tmp_path, rows=3)
    assert "not finished" not in written(recipe)[1]
    path = Path(recipe.dataset.path) / CARD_KEY
    before = path.stat()
    write_card(open_dataset(recipe), rendered(recipe))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_terms_and_obligations_come_from_the_shards(tmp_path: Path) -> None:
    """A later run's different declaration is listed next to the terms under which earlier shards were made."""
    part_of_a_dataset(tmp_path, teachers=[LLAMA])
    own = {"license": "ours", "training_use": "by-authorisation", "authorisation": "letter 7"}
    body = written(recipe_of(tmp_path, dataset={"prompts_per_shard": 3}, teachers=[LLAMA | {"terms": own}]))[1]
    assert "Licence: Llama 3.3 Community License, known from the model's name" in body
    assert "Licence: ours, as declared by the user" in body
    assert "Authorisation: letter 7" in body
    assert body.count('must display "Built with Llama"') == 1


def test_a_reply_from_a_different_model_is_named(tmp_path: Path) -> None:
    """The terms are those of the model that was asked; its name with a version or without its organisation is still its
    name.
    """
    recipe, held = chunk_of(tmp_path, questions(3), teachers=[LLAMA])
    for ordinal, model in enumerate(("llama-3.3-70b-instruct", "Llama-3.3-70B-Instruct-0725", "gpt-<b>4o</b>")):
        answer(held, ordinal, body_of(f"answer {ordinal}", model=model))
    meta, _ = sealed(recipe, held)
    assert len(meta.answered_as["llama"]) == 3
    assert r"Answers name another model: gpt-\<b\>4o\</b\>." in written(recipe)[1]
    assert "Answers name another model: <bdi>gpt-&lt;b&gt;4o&lt;/b&gt;</bdi>" in report(open_dataset(recipe))


def test_the_requested_model_is_recognised_under_its_other_names(tmp_path: Path) -> None:
    """Nothing is said about it."""
    recipe = part_of_a_dataset(tmp_path)
    assert "name another model" not in written(recipe)[1] + report(open_dataset(recipe))


def test_text_written_by_the_user_stays(tmp_path: Path) -> None:
    """Text around our part and fields of the head are the user's; our part and the counts are written again."""
    recipe = part_of_a_dataset(tmp_path)
    head, body = written(recipe)
    mine = head | {"license": "cc-by-4.0", "language": ["en"], "size_categories": ["n>1T"]}
    text = f"---\n{yaml.safe_dump(mine)}---\n\nMy own words.\n{body}\nAnd more of them.\n"
    (Path(recipe.dataset.path) / CARD_KEY).write_text(text)
    held = open_chunk(recipe, ChunkId(0, 1))
    answer(held, 0, body_of("the last"))
    Sealer(open_dataset(recipe), recipe, held).seal()
    head, body = written(recipe)
    assert (head["license"], head["language"], head["size_categories"]) == ("cc-by-4.0", ["en"], ["n<1K"])
    assert (body.count("My own words."), body.count("And more of them."), body.count(BEGIN)) == (1, 1, 1)
    assert "3 records in 2 shards" in body


@pytest.mark.parametrize(
    ("broken", "kept"),
    [
        (lambda text: text.replace(END, ""), "And more of them."),
        (lambda text: text.replace(BEGIN, ""), "And more of them."),
        (lambda text: f"{text}\nBetween.\n{BEGIN}\n{END}\n", "Between."),
        (lambda text: text.replace(BEGIN, "@").replace(END, BEGIN).replace("@", END), "My own words."),
        (lambda text: text.replace("\n", "\r\n"), "My own words."),
        (lambda text: f"\ufeff{text}", "My own words."),
        (lambda text: text.replace("license: mine", "license: mine\nreleased: 2026-02-30"), "2026-02-30"),
        (lambda text: text.replace("license: mine", "license: mine\nx: !!int zz"), "zz"),
        (lambda text: text.replace("license: mine", "license: mine\nx: " + 3000 * "["), 3000 * "["),
    ],
    ids=["no end", "no begin", "two parts", "swapped", "CRLF", "BOM", "no date", "no number", "deep"],
)
def test_nothing_in_a_broken_card_is_lost(tmp_path: Path, broken: Callable[[str], str], kept: str) -> None:
    """Unpaired marks, a Windows editor, a head that YAML can't read: the text stays, also when written twice."""
    recipe = part_of_a_dataset(tmp_path)
    head, body = written(recipe)
    card = Path(recipe.dataset.path) / CARD_KEY
    text = f"---\n{yaml.safe_dump(head | {'license': 'mine'})}---\n\nMy own words.\n{body}\nAnd more of them.\n"
    card.write_bytes(broken(text).encode())
    for _ in range(2):
        write_card(open_dataset(recipe), rendered(recipe))
        text = card.read_text()
        assert kept in text
        assert "license: mine" in text
        assert (text.count(BEGIN), text.count(END)) == (1, 1)


def test_a_card_in_another_encoding_is_left_alone(tmp_path: Path) -> None:
    """Rewriting would garble it, and a run continues without it."""
    recipe = part_of_a_dataset(tmp_path)
    card = Path(recipe.dataset.path) / CARD_KEY
    card.write_bytes("Größe".encode("latin-1"))
    with pytest.raises(DatasetError, match="expected UTF-8"):
        write_card(open_dataset(recipe), rendered(recipe))
    with kept_card(open_dataset(recipe), rendered(recipe)):
        pass
    assert card.read_bytes() == "Größe".encode("latin-1")


def test_a_hostile_recipe_stays_text(tmp_path: Path) -> None:
    """Nothing in a recipe ends the fence, our part or a table's cell, or is HTML."""
    system = f"````\n{END}\n<script>alert(1)</script>\n---\n# head"
    terms = {"training_use": "permitted", "license": "<b>|x|</b>\u202e", "url": "javascript:alert(1)"}
    teacher = {"name": "t", "base_url": "http://t/v1", "model": "m", "terms": terms}
    recipe = part_of_a_dataset(tmp_path, ask={"system": system}, teachers=[teacher])
    written(recipe)
    body = written(recipe)[1]
    prose, fenced = body.split("`````yaml\n")
    assert (body.count("## Columns"), body.count(END)) == (1, 1)
    assert not re.search(r"(?<!\\)<(?!!-- stillhouse)", prose)
    assert "\u202e" not in body
    assert "alert(1)" in fenced


def test_a_run_updates_the_card_and_survives_its_errors(tmp_path: Path) -> None:
    """It exists at the start and is true at the end; a card that can't be written ends no run."""
    write_source(tmp_path, questions(1))
    recipe = recipe_of(tmp_path)
    index(recipe)
    path = Path(recipe.dataset.path) / CARD_KEY
    with kept_card(open_dataset(recipe), rendered(recipe)):
        held = open_chunk(recipe)
        answer(held, 0, body_of())
        sealed(recipe, held)
    assert "1 record in 1 shard" in path.read_text()
    path.unlink()
    path.mkdir()
    with kept_card(open_dataset(recipe), rendered(recipe)):
        pass


def test_verify_knows_the_card(tmp_path: Path) -> None:
    """It is not reported as an unknown file."""
    recipe = part_of_a_dataset(tmp_path)
    write_card(open_dataset(recipe), rendered(recipe, in_progress=False))
    assert CARD_KEY not in [finding.key for finding in verify(open_dataset(recipe)).findings]


def test_size_categories_are_those_of_the_hub() -> None:
    """From nothing to more than a trillion."""
    rows = (0, 999, 1000, 18_093, 10**6, 10**12 - 1, 10**12)
    words = ["n<1K", "n<1K", "1K<n<10K", "10K<n<100K", "1M<n<10M", "100B<n<1T", "n>1T"]
    assert list(map(size_category, rows)) == words
