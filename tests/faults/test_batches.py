"""One kill of everything during a run in batches; `python -m tests.faults.batches` does each step of each API."""

from pathlib import Path

import pytest
from faults.batches import TEACHER, steps, survived
from s3_server import rclone_s3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_datasets_on_one_account_are_killed_and_resumed_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after a batch is created, in the API whose batches have no names: neither takes the other's."""
    step = next(each for each in steps(TEACHER) if each.name == "after create, before its record")
    with rclone_s3(tmp_path) as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        figures = survived(tmp_path, server, "anthropic", step, prompts=40, elsewhere=True, datasets=2)
    assert (figures["batches"], figures["records"]) == (8, 80)
