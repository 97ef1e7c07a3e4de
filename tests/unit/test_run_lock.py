"""One run at a time: a lock that the system releases on a local disk, and a heartbeat in a store that has no locks."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson
import pytest
from builders import recipe_of
from s3_server import Fault, S3Server
from waiting import wait_until

import stillhouse.gen.dataset.run_lock
import stillhouse.gen.store.lock
from stillhouse.gen.dataset.layout import RUN_KEY, open_dataset
from stillhouse.gen.dataset.run_lock import ClaimRunLock, RunLock, is_running, run_lock
from stillhouse.gen.errors import DatasetError, Paused, StoreAway
from stillhouse.gen.store.base import Store

_HOLDER = """
import sys
from stillhouse.gen.dataset.run_lock import run_lock
from stillhouse.gen.store import open_store
with run_lock(open_store(sys.argv[1]), run="first", waiting=print, lost=print):
    print("held", flush=True)
    sys.stdin.read()
"""


class Waits:
    """What a waiting run says."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.waits = threading.Event()

    def __call__(self, text: str) -> None:
        """Kept for the test."""
        self.said.append(text)
        self.waits.set()


def lock(
    store: Store, run: str = "second", *, waits: Waits | None = None, lost: threading.Event | None = None
) -> RunLock:
    """A lock that the test can watch."""
    return run_lock(store, run=run, waiting=waits or Waits(), lost=lambda _: (lost or threading.Event()).set())


def test_a_second_run_waits_until_the_first_is_gone(tmp_path: Path) -> None:
    """A real process, killed: the second says that it waits, and continues."""
    store = open_dataset(recipe_of(tmp_path))
    assert not is_running(store)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, store.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_running(store)
        waits, entered = Waits(), threading.Event()

        def second() -> None:
            with lock(store, waits=waits):
                entered.set()

        thread = threading.Thread(target=second)
        thread.start()
        assert waits.waits.wait(60)
        assert not entered.is_set()
        holder.kill()
        holder.wait()
        assert entered.wait(60)
        thread.join()
    assert waits.said == [
        f"another run is working on {store.url} ({tmp_path / 'out' / RUN_KEY}); waiting until it ends"
    ]
    assert not is_running(store)
    assert orjson.loads((tmp_path / "out" / RUN_KEY).read_bytes())["run"] == "second"


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A faster heartbeat, so that the tests need not wait."""
    monkeypatch.setattr(stillhouse.gen.store.lock, "BEAT_S", 0.1)
    monkeypatch.setattr(stillhouse.gen.store.lock, "FENCE_S", 3.0)
    monkeypatch.setattr(stillhouse.gen.store.lock, "STALE_S", 4.0)


def s3_store(tmp_path: Path, s3: S3Server) -> Store:
    """A dataset on the test's S3 server."""
    store = open_dataset(recipe_of(tmp_path, dataset={"path": "s3://lake/out", "endpoint_url": s3.endpoint_url}))
    store.probe()
    return store


def holder_of(store: Store) -> dict[str, object]:
    """What run.json says."""
    document: dict[str, object] = orjson.loads(store.get(RUN_KEY) or b"{}")
    return document


@pytest.mark.usefixtures("fast")
def test_on_s3_a_second_run_waits_for_the_end_of_the_first(tmp_path: Path, s3: S3Server) -> None:
    """It learns who holds it; a run that ended properly is not waited for."""
    store = s3_store(tmp_path, s3)
    waits, entered = Waits(), threading.Event()

    def second() -> None:
        with lock(store, waits=waits):
            entered.set()

    with lock(store, "first"):
        assert is_running(store)
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.waits.wait(60)
        assert not entered.wait(5.0)  # longer than STALE_S: the first beats
    assert entered.wait(60)
    thread.join()
    assert "another run is working on s3://lake/out" in waits.said[0]
    assert not is_running(store)
    assert (holder_of(store)["run"], holder_of(store)["ended"]) == ("second", True)


@pytest.mark.usefixtures("fast")
def test_on_s3_a_silent_run_is_taken_over(tmp_path: Path, s3: S3Server) -> None:
    """Its file has not changed for STALE_S by our own clock, whatever time it states."""
    store = s3_store(tmp_path, s3)
    store.put(RUN_KEY, orjson.dumps({"run": "first", "host": "far", "pid": 1, "beat": time.time() + 1e6}))
    start = time.monotonic()
    waits = Waits()
    with lock(store, waits=waits):
        assert time.monotonic() - start >= 4.0
        assert holder_of(store)["run"] == "second"
    assert "(far, process 1)" in waits.said[0]


@pytest.mark.usefixtures("fast")
def test_on_s3_a_run_that_lost_its_lock_stops(tmp_path: Path, s3: S3Server) -> None:
    """It hung and another took over: it notices, and does not take the lock back."""
    store = s3_store(tmp_path, s3)
    lost = threading.Event()
    with lock(store, "first", lost=lost):
        store.put(RUN_KEY, orjson.dumps({"run": "second", "beat": time.time()}))
        assert lost.wait(60)
    assert holder_of(store)["run"] == "second"


@pytest.mark.usefixtures("fast")
def test_on_s3_a_lost_reply_does_not_lose_the_lock(tmp_path: Path, s3: S3Server) -> None:
    """The renewal was written but its reply was lost: the stored lock is our own."""
    store = s3_store(tmp_path, s3)
    lost = threading.Event()
    with lock(store, "first", lost=lost):
        s3.gate.faults.append(Fault("lose the answer", path="run.json", times=3))
        assert not lost.wait(4.0)  # longer than FENCE_S
    assert holder_of(store)["ended"] is True


@pytest.mark.usefixtures("fast")
def test_on_s3_a_hanging_renewal_does_not_stop_the_clock(tmp_path: Path, s3: S3Server) -> None:
    """The store takes the call and says nothing: the run may not count on its place, and may again afterwards."""
    store = s3_store(tmp_path, s3)
    lost = threading.Event()
    with lock(store, "first", lost=lost) as held:
        assert isinstance(held, ClaimRunLock)
        told: list[float] = []
        held.report_to(told.append)
        wait_until(lambda: len(told) > 3 and told[-1] > 0.5, what="renewals are told", within_s=10)
        os.kill(s3.pid, signal.SIGSTOP)
        try:
            time.sleep(0.2)  # a renewal that was under way may still have been answered
            runs_out_at = time.monotonic() + held.good_for_s
            wait_until(lambda: held.good_for_s == 0.0, what="it has run out", within_s=10)
            assert time.monotonic() >= runs_out_at
        finally:
            os.kill(s3.pid, signal.SIGCONT)
        wait_until(lambda: held.good_for_s > 0.5, what="it is renewed", within_s=10)
        held.report_to(None)
    assert not lost.is_set()


@pytest.mark.usefixtures("fast")
def test_on_s3_a_run_gives_up_a_store_that_stays_away(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops for that reason: no other run took over, and the same command resumes."""
    monkeypatch.setattr(stillhouse.gen.dataset.run_lock, "GIVE_UP_S", 1.0)
    store = s3_store(tmp_path, s3)
    reasons: list[Paused] = []
    with run_lock(store, run="first", waiting=Waits(), lost=reasons.append) as held:
        assert isinstance(held, ClaimRunLock)
        s3.gate.faults.append(Fault("answer", path="run.json", status=503, code="SlowDown", times=1000))
        wait_until(lambda: bool(reasons), what="it is lost", within_s=30)
        s3.gate.faults.clear()
        assert held.good_for_s == 0.0
    assert isinstance(reasons[0], StoreAway)
    assert "could not be reached" in str(reasons[0])


def test_on_s3_a_damaged_lock_is_named(tmp_path: Path, s3: S3Server) -> None:
    """With what to do."""
    store = s3_store(tmp_path, s3)
    store.put(RUN_KEY, b"{")
    with pytest.raises(DatasetError, match=r"run\.json: is damaged; if no run works"), lock(store):
        pass
    with pytest.raises(DatasetError, match=r"run\.json: is damaged"):
        is_running(store)
