"""How the bench holds figures against bars."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from benchmark.contestants import AIOHTTP, STILLHOUSE
from benchmark.report import table
from benchmark.results import Result, verdicts
from benchmark.scenarios import Bar, Scenario


@pytest.mark.parametrize(("bound", "at_least", "met"), [(0.9, True, False), (0.8, True, True), (0.8, False, False)])
def test_a_bar_is_a_ratio_with_a_side(bound: float, at_least: bool, met: bool) -> None:
    """85 of 100 is at least 0.8 of it, and not at most."""
    bar = Bar("requests_s", bound, AIOHTTP, at_least=at_least)
    results = [
        Result("s", STILLHOUSE.title, 1, {"requests_s": 85.0}),
        Result("s", AIOHTTP.title, 1, {"requests_s": 100.0}),
    ]
    (verdict,) = verdicts(Scenario("s", "", 1, 1, bars=(bar,)), results)
    assert verdict.value == pytest.approx(0.85)
    assert verdict.met is met


def test_a_figure_that_is_missing_misses_its_bar() -> None:
    """A run that never recovered has no seconds to tell, and is still told."""
    scenario = Scenario("storm", "", 1, 1, bars=(Bar("recovered_s", 10.0),))
    results = [Result("storm", STILLHOUSE.title, 1, {})]
    found = list(verdicts(scenario, results))
    assert [verdict.met for verdict in found] == [False]
    assert "none (bar: at most 10): NOT MET" in table(results, found)
