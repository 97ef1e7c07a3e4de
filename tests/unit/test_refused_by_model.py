"""Parameters that OpenAI's and Google's own models refuse: reported when the recipe is read, with the way out."""

from typing import Any

import pytest

from stillhouse.schemas.model_rules import refusals

OPENAI = ("api.openai.com",)


def refused(
    model: str, asked: dict[str, Any], *, api: str = "openai-responses", hosts: tuple[str, ...] = OPENAI, **extra: Any
) -> dict[str, str]:
    """By parameter, why."""
    return dict(refusals(api, model, asked, extra, hosts=hosts))


@pytest.mark.parametrize(
    ("model", "asked", "names"),
    [
        ("gpt-5.1", {"temperature": 0.7}, set()),
        ("gpt-5.1-2026-02-01", {"temperature": 0.7, "reasoning_effort": "low"}, {"temperature"}),
        ("gpt-5.1-chat-latest", {"temperature": 0.7}, {"temperature"}),
        ("gpt-5", {"top_logprobs": 2, "top_p": 0.9}, {"top_logprobs", "top_p"}),
        ("gpt-5-mini", {"reasoning_effort": "none"}, {"reasoning_effort"}),
        ("gpt-5-chat-latest", {"temperature": 0.7, "reasoning_effort": "low"}, {"reasoning_effort"}),
        ("gpt-5.6", {"temperature": 0.7}, {"temperature"}),
        ("gpt-5.6", {"temperature": 0.7, "reasoning_effort": "none"}, set()),
        ("gpt-5.5-pro", {"reasoning_effort": "none"}, {"reasoning_effort"}),
        ("gpt-6-sol", {"top_logprobs": 2}, {"top_logprobs"}),
        ("gpt-6-astra", {"temperature": 1.0}, {"temperature"}),
        ("o4-mini", {"stop": "x", "temperature": 1.0}, {"stop", "temperature"}),
        ("gpt-4o-mini", {"temperature": 0.7, "top_logprobs": 2}, set()),
        ("gpt-7", {"temperature": 0.7}, set()),
        ("o100", {"temperature": 0.7}, set()),
    ],
)
def test_openai_families_are_known(model: str, asked: dict[str, Any], names: set[str]) -> None:
    """At OpenAI's own host; elsewhere such a name may be anything."""
    assert refused(model, asked, api="openai-chat").keys() == names
    assert refused(model, asked, api="openai-chat", hosts=("gateway.local",)) == {}


def test_a_parameter_an_api_lacks_is_refused_on_every_host() -> None:
    """With the way out."""
    found = refused("m", {"seed": 1, "stop": "x", "temperature": 2.0}, hosts=("gateway.local",))
    assert found.keys() == {"seed", "stop"}
    assert "`ask: {seed: null}`" in found["seed"]


def test_tools_with_reasoning_need_the_responses_api() -> None:
    """From 5.4 on."""
    tools = [{"type": "function"}]
    found = refused("gpt-5.4", {"reasoning_effort": "low"}, api="openai-chat", tools=tools)
    assert "`api: openai-responses`" in found["extra"]
    assert refused("gpt-5.4", {"reasoning_effort": "low"}, tools=tools) == {}
    assert refused("gpt-5.4", {}, api="openai-chat", tools=tools) == {}
    assert refused("gpt-5.2", {"reasoning_effort": "low"}, api="openai-chat", tools=tools) == {}


@pytest.mark.parametrize(("model", "says"), [("gemini-2.5-pro", False), ("gemini-3.1-pro", True)])
def test_gemini_3_gives_no_log_probabilities(model: str, says: bool) -> None:
    """At Google's hosts."""
    asked = {"top_logprobs": 2}
    hosts = ("us-central1-aiplatform.googleapis.com",)
    assert bool(refused(model, asked, api="gemini", hosts=hosts)) is says
    assert refused(model, asked, api="gemini", hosts=("127.0.0.1",)) == {}
