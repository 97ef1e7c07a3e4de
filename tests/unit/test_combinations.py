"""Which features of a recipe go together: every pair of the table is read, or refused with its sentence."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from builders import SIMULATED, recipe_of
from pydantic import ValidationError

from stillhouse.schemas.combinations import FEATURES, REFUSED

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
EXAMPLES: dict[str, dict[str, Any]] = {
    "each": {"route": "each"},
    "fallback": {"route": "fallback"},
    "weight": {"teacher": {"weight": 2.0}},
    "accept": {"ask": {"accept": 1, "at_most": 2}},
    "checks": {"checks": [{"length": {"min": 1}}]},
    "judge": {
        "checks": [{"judge": {"teacher": "j", "template": "Score it.\n", "accept_if": "> 2"}}],
        "judges": [{"name": "j", "api": "simulator", "role": "judge"}],
    },
    "per_chunk": {"checks": [{"function": {"name": "json:loads", "per": "chunk"}}]},
    "majority": {"select": {"majority": {"answer": "exact"}}},
    "stream": {"teacher": {"stream": True}},
    "tools": {"ask": {"extra": {"tools": [TOOL]}}},
    "schema": {"ask": {"schema": {"type": "object"}}},
    "batch": {"teacher": {"mode": "batch"}},
    "budget": {"budget": {"requests": 10}},
    "images": {"source": {"images": ["image"]}},
    "score": {"ask": {"score": {"prompt_ids": "p", "completion_ids": "c"}}, "source": {"prompt": None}},
}
"""The least that a recipe says to use a feature; `teacher`: of its first teacher."""


def changes_of(*features: str) -> dict[str, Any]:
    """The sections of a recipe with these features and two teachers."""
    changes: dict[str, Any] = {}
    teacher: dict[str, Any] = dict(SIMULATED)
    judges: list[dict[str, Any]] = []
    for example in (EXAMPLES[feature] for feature in features):
        for section, value in example.items():
            if section == "judges":
                judges = value
            elif section == "teacher":
                teacher |= value
            elif isinstance(value, dict):
                changes[section] = changes.get(section, {}) | value
            elif isinstance(value, list):  # a function that judges whole chunks comes last
                changes[section] = sorted([*changes.get(section, []), *value], key=lambda check: "function" in check)
            else:
                changes[section] = value
    return changes | {"teachers": [teacher, SIMULATED | {"name": "other"}, *judges]}


def test_every_feature_has_an_example_that_uses_it_alone(tmp_path: Path) -> None:
    """The table's names are the examples'; an example uses its feature and no other."""
    assert set(EXAMPLES) == set(FEATURES)
    for name in FEATURES:
        recipe = recipe_of(tmp_path, **changes_of(name))
        assert [feature for feature, find in FEATURES.items() if find(recipe) is not None] == [name]


def test_every_pair_is_accepted_or_refused_with_its_own_message(tmp_path: Path) -> None:
    """A pair in the table is refused at its first feature's field; every other pair makes a recipe with both."""
    refused = 0
    for one, other in itertools.permutations(FEATURES, 2):
        if {one, other} == {"each", "fallback"}:  # one field can't say both
            continue
        if (words := REFUSED.get((one, other))) is not None:
            refused += 1
            with pytest.raises(ValidationError) as error:
                recipe_of(tmp_path, **changes_of(one, other))
            assert words in str(error.value)
        elif (other, one) not in REFUSED:
            recipe = recipe_of(tmp_path, **changes_of(one, other))
            assert {one, other} == {name for name, find in FEATURES.items() if find(recipe) is not None}
    assert refused == len(REFUSED)
