"""What answers cost: at the recipe's price, else that of genai-prices for providers' own hosts, looked up once per run.

genai-prices is data that comes with its release; nothing is fetched. For a price that depends on the time of day, the
highest counts. A batch costs what genai-prices says about batches, or half of the normal price if it says nothing.
"""

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from stillhouse.schemas.completion import Usage
from stillhouse.schemas.endpoint_url import is_near
from stillhouse.schemas.price import Price, PriceAbove
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.teacher import Teacher

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice

_FIELDS = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "reasoning": "output_reasoning_mtok",
}
"""Our names to theirs."""
Mode: TypeAlias = Literal["online", "batch"]
_CONTRADICTS = 0.01
"""Prices that differ by more than this share are different."""


def cost_usd(price: Price, usage: Usage) -> float | None:
    """The cost of an answer; None if the teacher did not report its usage."""
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    at: Price | PriceAbove = price
    for dearer in price.above:
        if usage.input_tokens > dearer.input_tokens:
            at = dearer
    cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
    reasoning = min(usage.reasoning_tokens or 0, usage.output_tokens)
    fresh = max(0, usage.input_tokens - cached - written)
    return (
        fresh * at.input
        + cached * (at.input if at.cached_input is None else at.cached_input)
        + written * (at.input if at.cache_write is None else at.cache_write)
        + (usage.output_tokens - reasoning) * at.output
        + reasoning * (at.output if at.reasoning is None else at.reasoning)
    ) / 1e6


def worst_usd(price: Price, *, input_tokens: int, output_tokens: int) -> float:
    """The maximum cost of a request with up to this many tokens: each token at the highest price that may apply."""
    reached = [price, *(dearer for dearer in price.above if input_tokens > dearer.input_tokens)]
    dearest_input = max(max(at.input, at.cached_input or 0.0, at.cache_write or 0.0) for at in reached)
    dearest_output = max(max(at.output, at.reasoning or 0.0) for at in reached)
    return (input_tokens * dearest_input + output_tokens * dearest_output) / 1e6


def priced(recipe: Recipe, *, now: datetime | None = None) -> tuple[Recipe, list[str]]:
    """The recipe with the known prices of teachers that state none, and notes on what is unclear about them."""
    now = now or datetime.now(UTC)
    notes: list[str] = []
    teachers = []
    for teacher in recipe.teachers:
        stated = None if teacher.price is None or teacher.price.source is not None else teacher.price
        known = _known_price(teacher, now=now)
        if known is None and stated is None and _is_public(teacher):
            notes.append(f"teacher {teacher.name}: its price is unknown; give `price` to see what is spent")
        elif known is not None and stated is not None and (different := _differences(stated, known)):
            notes.append(f"teacher {teacher.name}: the recipe's price applies, though {known.source} has {different}")
        teacher = teacher if stated is not None else teacher.model_copy(update={"price": known})
        if teacher.mode == "batch-then-online":
            teacher = teacher.model_copy(update={"online_price": _online_price(teacher, now=now)})
        teachers.append(teacher)
    return recipe.model_copy(update={"teachers": tuple(teachers)}), notes


def _is_public(teacher: Teacher) -> bool:
    """True for a server that others run; for your own, the import, which takes two thirds of a second, is skipped."""
    return any(not is_near(urlsplit(url).hostname or "") for url in teacher.urls)


def _known_price(teacher: Teacher, *, now: datetime) -> Price | None:
    """The price at all its endpoints; None if they differ or one is unknown."""
    if teacher.api == "simulator" or not _is_public(teacher):
        return None
    mode: Mode = "online" if teacher.mode == "online" else "batch"
    found = [_price_at(url, teacher.model_name, mode=mode, now=now) for url in teacher.urls]
    return None if any(each != found[0] for each in found) else found[0]


def asked_by(teacher: Teacher, mode: Mode, *, now: datetime | None = None) -> Teacher:
    """The teacher as if it were asked in this mode, at the price for that mode.

    If genai-prices does not have that price, batches cost half, and asking online twice as much.
    """
    if teacher.mode == mode:
        return teacher
    other = teacher.model_copy(update={"mode": mode, "online_price": None})
    if teacher.mode == "batch-then-online":
        if mode == "batch":
            return other
        if teacher.online_price is not None:
            return other.model_copy(update={"price": teacher.online_price})
    stated = None if teacher.price is None or teacher.price.source is not None else teacher.price
    price = _known_price(other, now=now or datetime.now(UTC)) if stated is None else None
    if price is None and teacher.price is not None:
        factor, words = (0.5, "half of") if mode == "batch" else (2.0, "twice")
        price = _times(teacher.price, factor, source=f"{words} {teacher.price.source or 'the price in the recipe'}")
    return other.model_copy(update={"price": price})


def _online_price(teacher: Teacher, *, now: datetime) -> Price | None:
    """The price of what a teacher in `mode: batch-then-online` is asked online."""
    stated = teacher.online_price
    if stated is not None and stated.source is None:
        return stated
    return asked_by(teacher.model_copy(update={"online_price": None}), "online", now=now).price


def _times(price: Price, factor: float, *, source: str) -> Price:
    def times(each: Price | PriceAbove) -> dict[str, float | None]:
        return {name: None if (usd := getattr(each, name)) is None else usd * factor for name in _FIELDS}

    above = tuple(each.model_copy(update=times(each)) for each in price.above)
    return price.model_copy(update={**times(price), "above": above, "source": source})


def _price_at(url: str, model: str, *, mode: Mode, now: datetime) -> Price | None:
    from genai_prices import __version__
    from genai_prices.data_snapshot import get_snapshot

    try:
        _, info = get_snapshot().find_provider_model(model.rpartition("models/")[2], None, None, url)
    except LookupError:
        return None
    prices = [info.get_prices(now)]
    if isinstance(info.prices, list):
        prices += [each.prices for each in info.prices if getattr(each.constraint, "start_time", None) is not None]
    source = f"genai-prices {__version__}, {now:%Y-%m-%d}"
    if mode == "batch" and (batch := info.get_prices(now, {"processing": "batch"})) != info.get_prices(now):
        return _price_of(batch, source=f"{source}, in batches")
    found = [price for each in prices if (price := _price_of(each, source=source)) is not None]
    online = max(found, key=lambda price: (price.output, price.input), default=None)
    return online if mode == "online" or online is None else _times(online, 0.5, source=f"half of {source}")


def _price_of(theirs: "ModelPrice", *, source: str) -> Price | None:
    """None if it also counts something that a reply does not state, such as requests."""
    values = {ours: getattr(theirs, name) for ours, name in _FIELDS.items()}
    if values["input"] is None or values["output"] is None or theirs.requests_kcount is not None:
        return None
    starts = sorted({tier.start for value in values.values() for tier in getattr(value, "tiers", ())})
    above = tuple(PriceAbove(input_tokens=start, **_at(values, start)) for start in starts)
    return Price(**_at(values, 0), above=above, source=source)


def _at(values: dict[str, Any], start: int) -> dict[str, float]:
    """The prices of requests with more input tokens than `start`."""
    found = {}
    for name, value in values.items():
        if value is None:
            continue
        base = getattr(value, "base", value)
        tiers = [tier.price for tier in getattr(value, "tiers", ()) if start and tier.start <= start]
        found[name] = float(tiers[-1] if tiers else base)
    return found


def _differences(stated: Price, known: Price) -> str:
    """The known prices that contradict the stated ones, in words."""
    pairs = ((name, getattr(stated, name), getattr(known, name)) for name in ("input", "output", "cached_input"))
    return ", ".join(_different(pairs))


def _different(pairs: Iterable[tuple[str, float | None, float | None]]) -> Iterable[str]:
    for name, ours, theirs in pairs:
        if ours is not None and theirs is not None and not math.isclose(ours, theirs, rel_tol=_CONTRADICTS):
            yield f"{name} {theirs:g} (not {ours:g})"
