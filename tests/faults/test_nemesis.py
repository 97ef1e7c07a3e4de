"""A few of the nemesis's kills at every test run; `python -m tests.faults.nemesis --kills 100` does many."""

from pathlib import Path

import pytest
from faults.nemesis import torment


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_few_kills(tmp_path: Path) -> None:
    """Workers, queue, limiter, driver or all of them die; every received answer is stored once and asked once."""
    figures = torment(tmp_path, None, kills=5, prompts=2000, samples=2, seed=3, generations=2)
    assert figures["stored"] == 4000
