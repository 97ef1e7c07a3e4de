"""Parameters that an API or a model refuses are reported before anything is asked, each where it is written."""

import json
from typing import Any

import pytest

from stillhouse.schemas.claude_models import claude_of, is_claude
from stillhouse.schemas.model_rules import refusals
from stillhouse.schemas.recipe_file import RecipeError, load_recipe

TERMS = {"training_use": "by-authorisation", "authorisation": "letter 7"}


@pytest.mark.parametrize(
    ("api", "model", "asked", "refused"),
    [
        ("anthropic", "claude-opus-4-8", {}, ["max_tokens"]),
        ("anthropic", "claude-opus-4-8", {"max_tokens": 9, "temperature": 1.0}, ["temperature"]),
        ("anthropic", "claude-opus-4-5", {"max_tokens": 9, "temperature": 1.0}, []),
        ("anthropic", "claude-opus-4-5", {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9}, ["top_p"]),
        ("anthropic", "claude-3-7-sonnet-latest", {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9}, []),
        ("anthropic", "claude-opus-4-5", {"max_tokens": 9, "reasoning_effort": "max"}, ["reasoning_effort"]),
        ("anthropic", "claude-sonnet-4-5", {"max_tokens": 9, "reasoning_effort": "low"}, ["reasoning_effort"]),
        ("anthropic", "claude-fable-5", {"max_tokens": 9, "reasoning_effort": "none"}, ["reasoning_effort"]),
        ("anthropic", "claude-opus-5", {"max_tokens": 9, "reasoning_effort": "none"}, []),
        ("anthropic", "claude-opus-9", {"max_tokens": 9, "temperature": 0.5, "reasoning_effort": "huge"}, []),
        ("anthropic", "kimi-k2", {"max_tokens": 9, "temperature": 1.5}, ["temperature"]),
        ("anthropic", "m", {"max_tokens": 9, "seed": 1, "top_logprobs": 0}, ["seed", "top_logprobs"]),
        ("bedrock", "us.anthropic.claude-opus-4-8-v1:0", {"top_p": 0.9}, ["top_p"]),
        ("bedrock", "us.amazon.nova-pro-v1:0", {"seed": 1, "top_p": 0.9, "temperature": 0.1}, ["seed"]),
        ("openai-chat", "claude-opus-4-8", {"seed": 1, "temperature": 2.0}, []),
    ],
)
def test_parameters_that_a_model_refuses_are_refused_first(
    api: str, model: str, asked: dict[str, Any], refused: list[str]
) -> None:
    """Known families only; through a gateway of another API, it is the gateway's to say."""
    assert sorted(name for name, _ in refusals(api, model, asked, {})) == sorted(refused)


def test_extra_bypasses_the_rules() -> None:
    """It is sent as it is, and the API's own answer is what counts."""
    assert list(refusals("anthropic", "claude-opus-4-8", {}, {"max_tokens": 9, "temperature": 1.0})) == []


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("claude-opus-4-7", True),
        ("claude-sonnet-4-20250514", True),
        ("claude-haiku-4-5@20251001", True),
        ("anthropic/claude-opus-4.6", True),
        ("arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-3-5-sonnet-20241022-v2:0", True),
        ("claude-opus-9", False),
    ],
)
def test_a_family_is_known_however_its_name_is_spelt(model: str, known: bool) -> None:
    """By Anthropic, Vertex, Bedrock or a gateway."""
    assert is_claude(model)
    assert (claude_of(model) is not None) is known


def test_each_fault_is_reported_where_it_is_written() -> None:
    """Together with all other faults of the file."""
    teachers = [
        {"name": "a", "api": "anthropic", "model": "claude-opus-5", "terms": TERMS, "ask": {"temperature": 1}},
        {"name": "b", "api": "bedrock", "model": "m", "aws": {"region": "us-east-1"}, "terms": TERMS},
    ]
    text = f"""name: t
source: {{path: x, prompt: p}}
ask:
  seed: 1
teachers: {json.dumps(teachers)}
dataset: {{path: y}}
"""
    with pytest.raises(RecipeError) as caught:
        load_recipe(text, origin="r.yaml")
    places = [line.split(": ")[:3] for line in str(caught.value).splitlines()]
    assert places == [
        ["r.yaml:4", "ask.seed", "teacher a"],
        ["r.yaml:4", "ask.seed", "teacher b"],
        ["r.yaml:5", "teachers.0", "teacher a"],
        ["r.yaml:5", "teachers.0.ask.temperature", "teacher a"],
    ]
