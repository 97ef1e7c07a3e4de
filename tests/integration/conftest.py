"""Fixtures of runs in batches."""

import pytest

from stillhouse.cluster.actors import prompt_queue
from stillhouse.gen.coordination import parking
from stillhouse.gen.worker import feeder, lease_renewal
from stillhouse.gen.worker.lanes import batch_calls, batch_creation, batch_search, batch_work


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of a provider's hours in fractions of a second."""
    monkeypatch.setenv("AWS_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET", "a secret of some length")
    monkeypatch.setattr(batch_search, "LISTED_WITHIN_S", 0.5)
    monkeypatch.setattr(batch_work, "LOOK_S", (0.05, 0.2))
    monkeypatch.setattr(batch_creation, "FULL_S", 0.05)
    monkeypatch.setattr(batch_calls, "RETRY_S", (0.05, 0.2))


@pytest.fixture
def parks(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are parked as soon as they may be."""
    monkeypatch.setattr(batch_work, "PARK_AFTER_S", 0.0)
    monkeypatch.setattr(parking, "LOOK_S", (0.05, 0.2))
    monkeypatch.setattr(feeder, "RENEW_S", 0.1)
    monkeypatch.setattr(lease_renewal, "RENEW_S", 0.1)
    monkeypatch.setattr(prompt_queue, "RENEW_S", 0.1)
