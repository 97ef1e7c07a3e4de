"""A plan compares batches with asking online: what each costs, at whose price, and how long it takes."""

from pathlib import Path
from typing import Any

import pytest
from builders import recipe_of

from stillhouse.gen.teachers.prices import priced
from stillhouse.gen.views.batch_plan import modes_of, plan_of_batches
from stillhouse.gen.views.workload import Workload
from stillhouse.schemas.recipe import Recipe

TERMS = {"training_use": "by-authorisation", "authorisation": "a"}
PRICE = {"input": 1.0, "output": 10.0}


def recipe(ask: dict[str, Any] | None = None, *others: dict[str, Any], per_shard: int = 100, **teacher: Any) -> Recipe:
    """A recipe of a teacher at OpenAI, and of others."""
    first = {"name": "t", "base_url": "https://api.openai.com/v1", "model": "gpt-5.1", "terms": TERMS} | teacher
    teachers = [first, *({"terms": TERMS} | other for other in others)]
    asked = {"samples": 1, "max_tokens": 100} if ask is None else ask
    shards = {"path": "/data", "prompts_per_shard": per_shard}
    return recipe_of(Path("/data"), ask=asked, teachers=teachers, dataset=shards)


def test_batches_cost_half_and_take_days() -> None:
    """1,000 prompts in chunks of 100: ten batches, four at a time, so three days; online by the limit, at twice."""
    asked = recipe(mode="batch", price=PRICE, batch={"max_open": 4}, limits={"requests_per_minute": 100})
    load = Workload(asked, samples=1000, chars_per_prompt=400)
    modes = modes_of(load)
    batch, online = modes["batch"], modes["online"]
    assert (batch.batches, batch.at_once, batch.rounds, batch.hours) == (10, 4, 1, 72)
    assert online.batches == 0
    assert online.hours == pytest.approx(1 / 6)
    assert batch.usd == pytest.approx(1.1)
    assert online.usd == pytest.approx(2.2)
    assert batch.prices == {"t": "the recipe"}
    assert online.prices == {"t": "twice the price in the recipe"}
    assert plan_of_batches(load) == batch
    assert plan_of_batches(Workload(recipe(), samples=1000, chars_per_prompt=400)) is None


def test_batches_of_verdicts_follow_the_answers() -> None:
    """Ten chunks, five at a time: two days for each of the judge's two checks, after six minutes of answers."""
    judge: dict[str, Any] = {
        "name": "j",
        "role": "judge",
        "base_url": "https://api.openai.com/v1",
        "model": "gpt-5.1",
        "mode": "batch",
    }
    judge |= {"terms": TERMS, "batch": {"max_open": 5}, "price": PRICE, "ask": {"max_tokens": 100}}
    checks = [
        {"judge": {"name": name, "teacher": "j", "template": "Score it.\n", "accept_if": "> 2"}} for name in ("a", "b")
    ]
    teacher = {"name": "t", "base_url": "https://api.openai.com/v1", "model": "gpt-5.1", "terms": TERMS, "price": PRICE}
    teacher["limits"] = {"requests_per_minute": 100}
    judged = recipe_of(
        Path("/data"),
        ask={"max_tokens": 100},
        teachers=[teacher, judge],
        checks=checks,
        dataset={"path": "/data", "prompts_per_shard": 100},
    )
    load = Workload(judged, samples=1000, chars_per_prompt=400)
    plan = plan_of_batches(load)
    assert plan is not None
    assert plan.hours == pytest.approx(1 / 6 + 2 * 48)
    assert plan.bound_by.endswith(", then batches of j, then batches of j")
    assert (plan.batches, plan.at_once) == (20, 10)
    assert plan.usd == pytest.approx(1.1)


def test_batch_then_online_costs_between_the_two() -> None:
    """At most what asking online costs, and half of it if batches answer everything; it takes as long as batches."""
    asked = recipe(mode="batch-then-online", price=PRICE, limits={"requests_per_minute": 100})
    plan = plan_of_batches(Workload(asked, samples=1000, chars_per_prompt=400))
    assert plan is not None
    assert plan.usd == pytest.approx(2.2)
    assert plan.usd_if_answered == pytest.approx(1.1)
    assert (plan.batches, plan.rounds, plan.hours, plan.bound_by) == (10, 1, 24, "batches of t")
    assert plan.prices == {"t": "the recipe, then twice the price in the recipe"}
    stated = recipe(mode="batch-then-online", price=PRICE, online_price={"input": 1.5, "output": 15.0})
    other = plan_of_batches(Workload(stated, samples=1000, chars_per_prompt=400))
    assert other is not None
    assert other.usd == pytest.approx(1.65)


def test_under_accept_later_rounds_are_online() -> None:
    """Two wanted of at most eight: a quarter of the samples in one round of batches, the others after it."""
    ask = {"accept": 2, "at_most": 8, "max_tokens": 100}
    asked = recipe(ask, mode="batch-then-online", price=PRICE, limits={"requests_per_minute": 100})
    load = Workload(asked, samples=8 * 200, chars_per_prompt=400)
    plan = plan_of_batches(load)
    assert plan is not None
    assert (plan.rounds, plan.batches, plan.at_once) == (1, 2, 2)
    assert plan.hours == pytest.approx(24 + 1200 / 100 / 60)
    assert plan.bound_by.startswith("batches of t, then limits.requests_per_minute of ")
    assert plan.usd == pytest.approx(3.52)
    assert plan.usd_if_answered == pytest.approx(3.52 * (0.25 / 2 + 0.75))
    modes = modes_of(load)
    assert modes["online"].usd == pytest.approx(3.52)
    assert modes["batch"].usd == pytest.approx(1.76)
    assert modes["batch"].rounds == 7


def test_comparisons_include_answers_asked_online() -> None:
    """Users who don't know about batches see what they would save; a server without batches has nothing to compare."""
    asked, _ = priced(recipe())
    modes = modes_of(Workload(asked, samples=1000, chars_per_prompt=400))
    assert modes["online"].usd
    assert modes["batch"].usd == pytest.approx(modes["online"].usd / 2)
    assert modes["batch"].prices["t"].endswith(", in batches")
    own = recipe(base_url="http://vllm-0:8000/v1")
    assert modes_of(Workload(own, samples=1000, chars_per_prompt=400)) == {}


def test_long_prompts_and_small_batches_make_more_batches() -> None:
    """A chunk of 100 in batches of 30 is four; prompts of 4 MB fit into a batch by sixteen at most."""
    small = recipe(mode="batch", batch={"max_requests": 30})
    assert modes_of(Workload(small, samples=200, chars_per_prompt=400))["batch"].batches == 8
    long = modes_of(Workload(recipe(mode="batch"), samples=100, chars_per_prompt=4_200_000))["batch"]
    assert long.batches == 7


def test_under_accept_rounds_follow_each_other() -> None:
    """Two wanted of at most eight: in the worst case one more at a time, seven rounds, a day each."""
    asked = recipe({"accept": 2, "at_most": 8, "max_tokens": 100}, mode="batch")
    batch = modes_of(Workload(asked, samples=8 * 200, chars_per_prompt=400))["batch"]
    assert (batch.rounds, batch.batches, batch.at_once, batch.hours) == (7, 14, 2, 7 * 24)


def test_a_teacher_without_a_batch_api_stays_online() -> None:
    """Half of the samples are in batches, and the limits of the other hold."""
    own = {"name": "own", "base_url": "http://vllm-0:8000/v1", "model": "m", "limits": {"requests_per_minute": 1}}
    mixed = recipe(None, own | {"price": {"input": 0, "output": 0}}, mode="batch")
    batch = modes_of(Workload(mixed, samples=6000, chars_per_prompt=400))["batch"]
    assert (batch.batches, batch.hours) == (60, 3 * 24)
    slower = modes_of(Workload(mixed, samples=60_000, chars_per_prompt=400))["batch"]
    assert slower.hours == pytest.approx(30 * 24)
