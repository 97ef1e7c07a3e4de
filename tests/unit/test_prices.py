"""What answers cost: as each provider counts its tokens, by the recipe's price or by genai-prices."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import genai_prices
import pytest
from builders import recipe_of
from pydantic import ValidationError

from stillhouse.gen.teachers.prices import asked_by, cost_usd, priced
from stillhouse.schemas.completion import Usage
from stillhouse.schemas.price import Price
from stillhouse.schemas.recipe import Recipe

NOW = datetime(2026, 11, 26, tzinfo=UTC)


def recipe(**teacher: Any) -> Recipe:
    """A recipe with one teacher behind a URL."""
    terms = {"training_use": "by-authorisation", "authorisation": "a"}
    given = {"name": "t", "base_url": "https://api.openai.com/v1", "model": "gpt-5.1", "terms": terms}
    return recipe_of(Path("/data"), teachers=[given | teacher])


def price_of(**teacher: Any) -> tuple[Price | None, list[str]]:
    """(the teacher's price, the notes)."""
    found, notes = priced(recipe(**teacher), now=NOW)
    return found.teachers[0].price, notes


def test_cached_written_and_reasoning_tokens_have_their_own_prices() -> None:
    """100 read, 50 written, 850 fresh; 30 of 40 output tokens are reasoning."""
    price = Price(input=1, output=10, cached_input=0.1, cache_write=1.25, reasoning=20)
    usage = Usage(1000, 100, 40, 30, 50)
    assert cost_usd(price, usage) == pytest.approx((850 * 1 + 100 * 0.1 + 50 * 1.25 + 10 * 10 + 30 * 20) / 1e6)
    assert cost_usd(Price(input=1, output=10), usage) == pytest.approx((1000 + 400) / 1e6)
    assert cost_usd(price, Usage(None, None, 40)) is None


def test_long_requests_cost_more_as_a_whole() -> None:
    """Above the bound, all of the request."""
    above = [{"input_tokens": 200, "input": 2, "output": 20}]
    price = Price.model_validate({"input": 1, "output": 10, "above": above})
    assert cost_usd(price, Usage(200, None, 10)) == pytest.approx((200 + 100) / 1e6)
    assert cost_usd(price, Usage(201, None, 10)) == pytest.approx((402 + 200) / 1e6)
    for second in (200, 100):
        with pytest.raises(ValidationError, match="in ascending order of `input_tokens`"):
            Price.model_validate({"input": 1, "output": 10, "above": [*above, above[0] | {"input_tokens": second}]})


@pytest.mark.parametrize(
    ("url", "api", "model", "usage"),
    [
        ("https://api.openai.com/v1", "openai-responses", "gpt-5.1", {"input_tokens": 1000, "output_tokens": 90}),
        ("https://generativelanguage.googleapis.com", "gemini", "gemini-2.5-pro", {"input_tokens": 1000}),
        ("https://generativelanguage.googleapis.com", "gemini", "models/gemini-2.5-pro", {"input_tokens": 300_000}),
        ("https://api.deepseek.com", "openai-chat", "deepseek-chat", {"input_tokens": 5, "output_tokens": 7}),
    ],
)
def test_a_provider_s_own_price_is_looked_up(url: str, api: str, model: str, usage: dict[str, int]) -> None:
    """A cost is what genai-prices computes, or the highest of the day; its version and day are kept with it."""
    price, notes = price_of(base_url=url, api=api, model=model)
    assert (notes, price is not None) == ([], True)
    assert price is not None
    assert price.source == f"genai-prices {genai_prices.__version__}, 2026-11-26"
    theirs = genai_prices.calc_price(
        genai_prices.Usage(**usage), model.removeprefix("models/"), provider_api_url=url, genai_request_timestamp=NOW
    )
    ours = cost_usd(price, Usage(usage.get("input_tokens"), None, usage.get("output_tokens", 0)))
    assert ours is not None
    assert ours >= float(theirs.total_price) * 0.999
    if "deepseek" not in url:
        assert ours == pytest.approx(float(theirs.total_price))


def test_the_recipes_price_wins_and_a_contradiction_is_reported() -> None:
    """With the known price; a price that agrees, or was looked up itself, is not a contradiction."""
    own = {"input": 1.0, "output": 10.0}
    price, notes = price_of(price=own)
    assert price == Price.model_validate(own)
    (note,) = notes
    assert "the recipe's price applies" in note
    assert "input 1.25 (not 1)" in note
    assert "output" not in note
    assert price_of(price={"input": 1.25, "output": 10})[1] == []
    found, notes = priced(priced(recipe(), now=NOW)[0], now=datetime(2026, 11, 27, tzinfo=UTC))
    assert notes == []
    assert found.teachers[0].price is not None
    assert (found.teachers[0].price.source or "").endswith("2026-11-27")


@pytest.mark.parametrize(
    ("given", "batch", "online"),
    [
        ({}, 0.625, 1.25),
        ({"price": {"input": 0.7, "output": 5}}, 0.7, 1.4),
        ({"online_price": {"input": 1.3, "output": 10}}, 0.625, 1.3),
        ({"base_url": "http://vllm-0:8000/v1", "price": {"input": 0.7, "output": 5}}, 0.7, 1.4),
        ({"base_url": "http://vllm-0:8000/v1"}, None, None),
    ],
)
def test_batch_then_online_has_two_prices(given: dict[str, Any], batch: float | None, online: float | None) -> None:
    """Each is the recipe's, else looked up, or twice the recipe's for batches; pricing it again changes neither."""
    found = recipe(mode="batch-then-online", **given)
    for _ in range(2):
        found, _ = priced(found, now=NOW)
        teacher = found.teachers[0]
        prices = [None if each is None else each.input for each in (teacher.price, teacher.online_price)]
        assert prices == [pytest.approx(batch), pytest.approx(online)]
        assert asked_by(teacher, "online", now=NOW).price == teacher.online_price
        assert asked_by(teacher, "batch", now=NOW).price == teacher.price


def test_a_missing_price_is_reported_only_for_public_hosts() -> None:
    """The price of your own server is what you say it is."""
    price, notes = price_of(model="no-such-model")
    assert (price, len(notes)) == (None, 1)
    assert "give `price`" in notes[0]
    assert price_of(base_url="http://vllm-0:8000/v1") == (None, [])


@pytest.mark.parametrize(
    ("url", "model", "source"),
    [
        ("https://api.openai.com/v1", "gpt-5.1", "genai-prices {}, 2026-11-26, in batches"),
        ("https://api.groq.com/openai/v1", "llama-3.3-70b-versatile", "half of genai-prices {}, 2026-11-26"),
    ],
)
def test_a_batch_has_the_providers_batch_price_or_half_the_online_one(url: str, model: str, source: str) -> None:
    """The price's source says which; the same teacher's online price follows from it."""
    online, _ = price_of(base_url=url, model=model)
    batch, _ = price_of(base_url=url, model=model, mode="batch")
    assert online is not None
    assert batch is not None
    assert (batch.input, batch.output) == (online.input / 2, online.output / 2)
    assert batch.source == source.format(genai_prices.__version__)
    there = priced(recipe(base_url=url, model=model), now=NOW)[0].teachers[0]
    assert asked_by(there, "batch", now=NOW).price == batch
    assert asked_by(asked_by(there, "batch", now=NOW), "online", now=NOW).price == online
