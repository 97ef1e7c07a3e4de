"""How the bench holds figures against bars."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from benchmark import labels, stream
from benchmark.contestants import AIOHTTP, STILLHOUSE
from benchmark.report import table
from benchmark.results import Result, verdicts
from benchmark.scenarios import Bar, Scenario


@pytest.mark.parametrize(("bound", "at_least", "met"), [(0.9, True, False), (0.8, True, True), (0.8, False, False)])
def test_a_bar_is_a_ratio_with_a_direction(bound: float, at_least: bool, met: bool) -> None:
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
    """A run that never recovered has no recovery time, and is still reported."""
    scenario = Scenario("storm", "", 1, 1, bars=(Bar("recovered_s", 10.0),))
    results = [Result("storm", STILLHOUSE.title, 1, {})]
    found = list(verdicts(scenario, results))
    assert [verdict.met for verdict in found] == [False]
    assert "none (bar: at most 10): NOT MET" in table(results, found)


@pytest.mark.parametrize(("cost_us", "code", "said"), [(20.0, 0, "): met"), (20.1, 1, "): NOT MET")])
def test_a_part_that_misses_its_bar_exits_1(
    cost_us: float, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipeline then fails without anyone reading the output."""
    assert stream.report(cost_us) == code
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(("bar", "code"), [(0.0, 1), (float("inf"), 0)])
def test_a_measured_part_exits_by_its_bar(bar: float, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured for real, on a small reply."""
    monkeypatch.setattr(labels, "TOKENS", 20)
    monkeypatch.setattr(labels, "BAR", bar)
    assert labels.main() == code
