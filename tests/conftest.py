"""Fixtures that every test may use."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Tests are imported by `importlib`, which puts no folder on the path: this makes the helpers beside us importable.
sys.path.insert(0, str(Path(__file__).parent))

from faults.runs import end_runs
from s3_server import S3Server, rclone_s3

# Started in a shell's background, we ignore Ctrl-C, and so would all that a test starts and then interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Ray gives its workers 15 less than everybody: with other tests beside, a cluster's would hardly ever start.
os.environ.setdefault("RAY_worker_niceness", "0")

# No deadline: the machine may be busy, and no test is of its speed. The same code always gets the same examples, and so
# the same verdict; `--hypothesis-profile=search` looks for new ones.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("suite", settings.get_profile("search"), derandomize=True)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def no_run_left() -> Iterator[None]:
    """End the runs that a failed test leaves behind."""
    yield
    end_runs()


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A real S3 server with one empty bucket; its credentials are in the environment, as a user's would be."""
    with rclone_s3(tmp_path) as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.delenv(name, raising=False)
        yield server
