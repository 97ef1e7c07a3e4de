"""Real processes, really killed: the same command then completes the dataset, and nothing received is asked again."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from faults.history import check
from faults.runs import start_run
from processes import below, kill_all
from waiting import wait_until

from stillhouse.gen import simulator
from stillhouse.gen.store import open_store
from stillhouse.gen.views.verify import verify
from stillhouse.schemas.simulator import SimulatorSettings

SAMPLES, IN_FLIGHT, PROMPTS = 2, 64, 1500


@contextmanager
def teacher(tmp_path: Path, **settings: object) -> Iterator[str]:
    """A simulator that outlives the runs; its log is the truth."""
    log = {"log": str(tmp_path / "served.jsonl")}
    with simulator.start(SimulatorSettings.model_validate(log | settings)) as process:
        yield process.url


def recipe_file(
    tmp_path: Path,
    url: str,
    *,
    count: int = PROMPTS,
    in_flight: int = IN_FLIGHT,
    changes: Mapping[str, object] | None = None,
    **run: object,
) -> Path:
    """A recipe over generated prompts; `changes` replace whole sections."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"id": n, "q": f"How much is {n} + 1?"}) + "\n" for n in range(count)))
    recipe: dict[str, object] = {
        "name": "kill",
        "source": {"path": str(prompts), "prompt": "q", "id": "id"},
        "ask": {"samples": SAMPLES, "temperature": 1.0},
        "teachers": [
            {
                "name": "t",
                "base_url": url,
                "model": "m",
                "limits": {"in_flight": in_flight},
                "terms": {"training_use": "permitted"},
            }
        ],
        "dataset": {"path": str(tmp_path / "out"), "prompts_per_shard": 100},
        "run": run,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | dict(changes or {})))
    return path


def until(condition: Callable[[], bool], *, process: "subprocess.Popen[str]") -> None:
    """Wait for it, as long as the run lives."""
    wait_until(condition, what="the moment for the fault", within_s=200, process=process)


def shards(tmp_path: Path) -> int:
    """Shards sealed so far."""
    return len(list((tmp_path / "out" / "data").glob("*.parquet")))


def workers_of(driver: int) -> list[int]:
    """The pids of the run's TeacherWorkers."""
    return [pid for pid, title in below(driver).items() if b"TeacherWorker" in title]


def test_driver_killed(tmp_path: Path) -> None:
    """kill -9 of the driver halfway: the same command completes the dataset."""
    with teacher(tmp_path, latency_s=0.2) as url:
        recipe = recipe_file(tmp_path, url)
        first = start_run(recipe)
        until(lambda: shards(tmp_path) >= 5, process=first)
        first.kill()
        first.wait()
        out, _ = start_run(recipe).communicate(timeout=120)
        end = json.loads(out.splitlines()[-1])
        again, _ = start_run(recipe).communicate(timeout=100)
    assert (end["state"], end["records"] + end["rejected"], end["remaining"]) == ("done", PROMPTS * SAMPLES, 0)
    assert json.loads(again.splitlines()[-1])["requests"] == 0
    check(tmp_path / "out", tmp_path / "served.jsonl", samples=SAMPLES, in_flight=IN_FLIGHT, kills=1)


def test_worker_killed(tmp_path: Path) -> None:
    """kill -9 of the worker, two times: the run itself completes the dataset."""
    with teacher(tmp_path, latency_s=0.2) as url:
        recipe = recipe_file(tmp_path, url)
        run = start_run(recipe)
        for number in (4, 9):
            until(lambda number=number: shards(tmp_path) >= number, process=run)  # type: ignore[misc]
            os.kill(workers_of(run.pid)[0], signal.SIGKILL)
        out, _ = run.communicate(timeout=180)
    end = json.loads(out.splitlines()[-1])
    assert (end["state"], end["records"] + end["rejected"], end["remaining"]) == ("done", PROMPTS * SAMPLES, 0)
    check(tmp_path / "out", tmp_path / "served.jsonl", samples=SAMPLES, in_flight=IN_FLIGHT, kills=2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_protocols_that_each_answer_killed_at_three_points(tmp_path: Path) -> None:
    """kill -9 of the worker, then of the driver, then of everything: each teacher has answered each prompt once."""
    prompts, limits, terms = 240, {"in_flight": 8}, {"training_use": "permitted"}
    with teacher(tmp_path, latency_s=0.2) as url:
        teachers = [
            {"name": api, "api": api, "base_url": url.removesuffix("/v1" * (api == "gemini")), "model": f"{api}-model"}
            | {"ask": {"max_tokens": 500}, "limits": limits, "account": api, "terms": terms}
            for api in ("openai-chat", "anthropic", "gemini")
        ]
        dataset = {"path": str(tmp_path / "out"), "prompts_per_shard": 30}
        changes = {"route": "each", "ask": {"samples": 1}, "teachers": teachers, "dataset": dataset}
        recipe = recipe_file(tmp_path, url, count=prompts, changes=changes)
        first = start_run(recipe)
        until(lambda: shards(tmp_path) >= 1, process=first)
        os.kill(workers_of(first.pid)[0], signal.SIGKILL)
        until(lambda: shards(tmp_path) >= 3, process=first)
        first.kill()
        first.wait()
        second = start_run(recipe)
        until(lambda: shards(tmp_path) >= 5, process=second)
        kill_all(second.pid)
        second.wait()
        out, _ = start_run(recipe).communicate(timeout=300)
    end = json.loads(out.splitlines()[-1])
    assert (end["state"], end["records"] + end["rejected"], end["remaining"]) == ("done", prompts * len(teachers), 0)
    check(tmp_path / "out", tmp_path / "served.jsonl", samples=len(teachers), in_flight=3 * 8, kills=3)
    # A kill in the middle of a seal leaves the files that were being written, which `verify --repair` removes.
    findings = verify(open_store(str(tmp_path / "out"))).findings
    assert [each for each in findings if not each.key.startswith("_stillhouse/tmp/")] == []


@pytest.mark.slow
def test_stopped_by_a_signal(tmp_path: Path) -> None:
    """SIGTERM: requests in flight finish, exit 3, and the same command resumes without asking anything again."""
    with teacher(tmp_path, latency_s=0.2) as url:
        recipe = recipe_file(tmp_path, url)
        first = start_run(recipe)
        until(lambda: shards(tmp_path) >= 5, process=first)
        first.terminate()
        out, _ = first.communicate(timeout=100)
        assert first.returncode == 3
        last = json.loads(out.splitlines()[-1])
        assert (last["state"], last["why"]) == ("paused", "stopped by a signal; the same command resumes")
        out, _ = start_run(recipe).communicate(timeout=120)
    end = json.loads(out.splitlines()[-1])
    assert end["state"] == "done"
    figures = check(tmp_path / "out", tmp_path / "served.jsonl", samples=SAMPLES, in_flight=0, kills=0)
    assert figures["answered"] == PROMPTS * SAMPLES


def test_stopped_during_the_last_answers(tmp_path: Path) -> None:
    """Ctrl-C: the last answers are waited for and sealed; nothing is left, so the run is done, and `status` agrees."""
    with teacher(tmp_path, latency_s=3.0) as url:
        run = start_run(recipe_file(tmp_path, url, count=10))

        def all_asked() -> bool:
            return int(httpx.get(url.removesuffix("/v1") + "/_stats").json()["in_flight"]) == 10 * SAMPLES

        until(all_asked, process=run)
        run.send_signal(signal.SIGINT)
        out, _ = run.communicate(timeout=100)
    assert run.returncode == 0, (tmp_path / "stderr.txt").read_text()
    end = json.loads(out.splitlines()[-1])
    assert (end["state"], end["records"]) == ("done", 10 * SAMPLES)


@pytest.mark.slow
def test_stopped_at_once_by_a_second_signal(tmp_path: Path) -> None:
    """Two Ctrl-C: exit 3 without waiting for requests in flight; only those may be asked again."""
    with teacher(tmp_path, latency_s=3.0) as url:
        recipe = recipe_file(tmp_path, url, in_flight=500)
        first = start_run(recipe)
        until(lambda: shards(tmp_path) >= 3, process=first)
        first.send_signal(signal.SIGINT)
        until(lambda: "again: stop at once" in (tmp_path / "stderr.txt").read_text(), process=first)
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=100)
        assert first.returncode == 3
        out, _ = start_run(recipe).communicate(timeout=120)
    assert json.loads(out.splitlines()[-1])["state"] == "done"
    check(tmp_path / "out", tmp_path / "served.jsonl", samples=SAMPLES, in_flight=500, kills=1)


@pytest.mark.slow
def test_a_worker_that_hangs_and_wakes_up(tmp_path: Path) -> None:
    """SIGSTOP past the lease: another worker takes over its chunks, and its work after waking up is discarded."""
    with teacher(tmp_path, latency_s=0.2) as url:
        recipe = recipe_file(tmp_path, url, workers=2)
        run = start_run(recipe)
        until(lambda: shards(tmp_path) >= 4 and len(workers_of(run.pid)) == 2, process=run)
        stopped = workers_of(run.pid)[0]
        os.kill(stopped, signal.SIGSTOP)
        until(lambda: shards(tmp_path) == PROMPTS // 100, process=run)
        os.kill(stopped, signal.SIGCONT)
        out, _ = run.communicate(timeout=100)
    end = json.loads(out.splitlines()[-1])
    assert (end["state"], end["records"] + end["rejected"], end["remaining"]) == ("done", PROMPTS * SAMPLES, 0)
    check(tmp_path / "out", tmp_path / "served.jsonl", samples=SAMPLES, in_flight=IN_FLIGHT, kills=1)
