"""A run as a job on a real Ray head, scraped by a real Prometheus: what a person sees of it is right and whole."""

import json
import math
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import questions, write_source
from ports import reserved_ports
from ray_head import RayHead, answers, ray_head
from waiting import wait_until

from stillhouse.cluster.jobs.ended import exit_code_of
from stillhouse.cluster.jobs.submit import Jobs
from stillhouse.cluster.progress.job_lines import figures_in
from stillhouse.schemas.recipe_file import read_recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Prometheus: scripts/setup --all"),
]

DASHBOARD = Path(__file__).parents[2] / "cluster" / "deploy" / "grafana" / "stillhouse.json"
PROMPTS, PER_SHARD = 2000, 100
RUN_S = 240.0
AFTER_S = 4.0
"""Scraping continues for this long, because a rate needs two samples of the last counts."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen of one run."""

    summary: dict[str, Any]
    messages: list[str]
    """The job's, in turn."""
    actors: list[dict[str, Any]]
    """As the dashboard lists them."""
    events: list[dict[str, Any]]
    """Log lines of the actors."""
    prometheus: str
    since: float
    until: float


def recipe(root: Path) -> Path:
    """2,000 prompts for a teacher with limits and a price, that fails now and then, in five seconds or so."""
    write_source(root, questions(PROMPTS))
    faults = [
        {"kind": "status", "status": 400, "share": 0.02},
        {"kind": "status", "status": 500, "share": 0.05},
        {"kind": "status", "status": 429, "share": 0.02, "headers": {"retry-after": "0.1"}},
    ]
    teacher = {
        "name": "sim",
        "api": "simulator",
        "simulator": {"latency_s": 0.1, "latency_spread": 0.5, "output_tokens": [16, 96], "faults": faults},
        "limits": {"requests_per_minute": 15_000, "output_tokens_per_minute": 2_000_000, "in_flight": 64},
        "price": {"input": 1.0, "output": 2.0},
    }
    document = {
        "name": "watched",
        "source": {"path": str(root / "source"), "prompt": "question", "id": "id"},
        "ask": {"max_tokens": 90},
        "teachers": [teacher],
        "dataset": {"path": str(root / "größe '1'"), "prompts_per_shard": PER_SHARD},
        "run": {"workers": 2},
    }
    path = root / "recipe.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@contextmanager
def prometheus(root: Path, *, target: str) -> Iterator[str]:
    """A Prometheus that scrapes the target every second; its address."""
    config = {"global": {"scrape_interval": "1s"}}
    config |= {"scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [target]}]}]}  # type: ignore[dict-item]
    (root / "prometheus.yml").write_text(yaml.safe_dump(config))
    with reserved_ports(1) as (port,), (root / "prometheus.log").open("wb") as log:
        options = {
            "config.file": root / "prometheus.yml",
            "storage.tsdb.path": root / "tsdb",
            "web.listen-address": f"127.0.0.1:{port}",
        }
        command = ["prometheus", *(f"--{name}={value}" for name, value in options.items())]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: answers(f"{url}/-/ready"), what="Prometheus is ready", within_s=120)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=60)


def get(url: str, **parameters: str | float) -> Any:
    """The JSON at the address."""
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(parameters)}", timeout=10) as reply:
        return json.load(reply)


def value(watched: Watched, query: str) -> float:
    """The one value of an instant query; 0 where nothing has it."""
    found = get(f"{watched.prometheus}/api/v1/query", query=query)["data"]["result"]
    assert len(found) <= 1
    return float(found[0]["value"][1]) if found else 0.0


def work(head: RayHead, path: Path) -> tuple[list[str], dict[str, Any]]:
    """Run the recipe as a job: the progress in its log, and its Summary."""
    jobs = Jobs(head.dashboard)
    job = jobs.submit(read_recipe(path), ship="code", note=print)
    wait_until(lambda: jobs.details(job).status.is_terminal(), what="the job has ended", within_s=RUN_S)
    logs = jobs.logs(job)
    assert exit_code_of(jobs.details(job)) == 0, logs
    lines = logs.splitlines()
    messages = [shown.figures.as_line() for line in lines if (shown := figures_in(line)) is not None]
    return messages, json.loads(lines[-1])


def events_in(logs: Path) -> list[dict[str, Any]]:
    """The lines that our actors logged."""
    lines = [line for path in logs.glob("worker-*.err") for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.startswith('{"at"')]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One run, and Prometheus with what it saw of it."""
    root = tmp_path_factory.mktemp("watched")
    with ray_head(cpus=4, token=None) as head, prometheus(root, target=head.metrics) as url:
        since = time.time()
        messages, summary = work(head, recipe(root))
        actors = get(f"{head.dashboard}/api/v0/actors", detail=1)["data"]["result"]["result"]
        until = time.time() + AFTER_S
        seen = Watched(summary, messages, actors, events_in(head.logs), url, since, until)
        wait_until(lambda: value(seen, "max(timestamp(up))") > until, what="scrapes after the end", within_s=120)
        yield seen


def test_counters_are_exact_at_the_end(watched: Watched) -> None:
    """What Prometheus has of a finished run equals the run's own Summary."""
    summary = watched.summary
    assert summary["state"] == "done"
    wanted = {
        "requests_total": summary["requests"],
        "retries_total": summary["retries"],
        "outcomes_total": summary["requests"],
        'tokens_total{direction="input"}': summary["input_tokens"],
        'tokens_total{direction="output"}': summary["output_tokens"],
        "records_total": summary["records"],
        "rejected_total": summary["rejected"],
        "failures_total": summary["failed"],
        "shards_total": PROMPTS // PER_SHARD,
        'latency_seconds_bucket_total{le="+Inf"}': summary["records"] + summary["rejected"],
    }
    assert {name: value(watched, f"sum(ray_stillhouse_{name})") for name in wanted} == wanted
    assert value(watched, "sum(ray_stillhouse_dollars_total)") == pytest.approx(summary["usd"])


def panels() -> list[Any]:
    """(title, query) of every panel of the Grafana dashboard."""
    document = json.loads(DASHBOARD.read_text())
    return [
        pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
        for panel in document["panels"]
        for target in panel["targets"]
    ]


@pytest.mark.parametrize("query", panels())
def test_every_dashboard_panel_shows_data(watched: Watched, query: str) -> None:
    """Every query of the dashboard finds figures in the run's time."""
    for variable, text in {"$dataset": ".*", "$__rate_interval": "10s", "$__range": "10m"}.items():
        query = query.replace(variable, text)
    found = get(
        f"{watched.prometheus}/api/v1/query_range", query=query, start=watched.since, end=watched.until, step=1
    )["data"]["result"]
    assert any(math.isfinite(float(text)) for series in found for _, text in series["values"])


def test_labels_do_not_grow_with_the_prompts(watched: Watched) -> None:
    """2,000 prompts make no more series than two would."""
    assert 30 < value(watched, 'count({__name__=~"ray_stillhouse_.*"})') < 100


def test_a_job_reports_its_progress(watched: Watched) -> None:
    """The job's log contains the run's progress in the form that a follower's panel reads."""
    assert any("of 2,000 settled" in message for message in watched.messages), watched.messages


def test_actors_have_recognisable_names(watched: Watched) -> None:
    """The dashboard's list says which actor is what."""
    names = " ".join(actor["name"] for actor in watched.actors)
    assert all(name in names for name in ("worker-0 watched", "worker-1 watched", "prompt-queue watched"))
    reprs = [actor["repr_name"] for actor in watched.actors]
    assert sum("asks sim" in text for text in reprs) == 2
    assert any(text.startswith("PromptQueue(watched") for text in reprs)


def test_actors_log_one_event_per_line(watched: Watched) -> None:
    """Every chunk's lease and seal is a line of JSON with chunk and teacher; troubles are counted, not listed."""
    sealed = [event for event in watched.events if event["event"] == "chunk sealed"]
    assert len({event["chunk"] for event in sealed}) == len(sealed) == PROMPTS // PER_SHARD
    assert {event["teacher"] for event in sealed} == {"sim"}
    assert sum(event["records"] for event in sealed) == watched.summary["records"]
    troubles = [event for event in watched.events if event["event"] == "teacher trouble"]
    assert {event["kind"] for event in troubles} == {"bad_request", "server_error", "rate"}
    assert len(troubles) < 60 < sum(event["count"] for event in troubles)
