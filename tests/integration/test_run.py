"""`stillhouse run` as a user types it, on a real Ray, and what is read from the dataset afterwards."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import boto3
import pyarrow.dataset as ds
import pytest
import yaml
from s3_server import S3Server
from waiting import wait_until

RECORDS, REJECTED = 590, 239
"""Of the quickstart's 594 different problems, those that got a right answer; and the wrong answers."""


def stillhouse(*args: str, code: int = 0) -> str:
    """The command's standard output; checks its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "stillhouse.cluster.cli", *args], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def last_line(output: str) -> dict[str, object]:
    """The JSON of the last line."""
    return dict(json.loads(output.splitlines()[-1]))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> "subprocess.CompletedProcess[str]":
    """The quickstart, run once with --quiet in a separate folder."""
    args = ("run", "quickstart", "--quiet", "--json", "-o", "dataset.path=ds")
    command = [sys.executable, "-m", "stillhouse.cluster.cli", *args]
    folder = tmp_path_factory.mktemp("quickstart")
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def quickstart(quiet: "subprocess.CompletedProcess[str]") -> Path:
    """Its dataset."""
    return Path(str(last_line(quiet.stdout)["dataset"]))


def test_the_quickstart_finishes_and_quiet_prints_nothing(quiet: "subprocess.CompletedProcess[str]") -> None:
    """A successful run writes nothing to stderr, except about a slow start, and its result to stdout."""
    said = [line for line in quiet.stderr.splitlines() if not line.startswith("no worker has started after")]
    assert said == []
    (line,) = quiet.stdout.splitlines()
    end = json.loads(line)
    assert (end["state"], end["prompts"], end["duplicates"], end["bad"]) == ("done", 600, 6, 0)
    # The recipe's seed decides every answer: these are right, these wrong, and so many more than four were not tried.
    assert (end["records"], end["rejected"], end["failed"], end["remaining"]) == (RECORDS, REJECTED, 0, 0)
    assert (end["requests"], end["not_needed"], end["short"]) == (RECORDS + REJECTED, 1547, 594 - RECORDS)
    assert end["rejected_by_reason"] == {"check:math": REJECTED}


def test_a_second_run_asks_nothing(quickstart: Path) -> None:
    """A finished run sends no request and changes nothing in data/."""
    before = sorted((p.name, p.stat().st_mtime_ns) for p in (quickstart / "data").iterdir())
    end = last_line(stillhouse("run", "quickstart", "--json", "-o", f"dataset.path={quickstart}"))
    assert (end["state"], end["requests"], end["records"]) == ("done", 0, RECORDS)
    assert sorted((p.name, p.stat().st_mtime_ns) for p in (quickstart / "data").iterdir()) == before


def test_status_and_verify_report_a_finished_dataset(quickstart: Path) -> None:
    """From storage alone, they report that it is done and sound."""
    assert last_line(stillhouse("status", str(quickstart), "--json"))["state"] == "done"
    stillhouse("verify", str(quickstart))


def test_a_source_is_followed_until_ctrl_c(tmp_path: Path) -> None:
    """From an empty folder on: files that appear together are a generation, and a repeated prompt is asked once."""
    source, data = tmp_path / "source", tmp_path / "out" / "data"
    recipe = {
        "name": "followed",
        "source": {"path": str(source), "prompt": "q"},
        "teachers": [{"name": "t", "api": "simulator"}],
        "dataset": {"path": str(data.parent)},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))

    def add(**files: list[str]) -> None:
        source.mkdir(exist_ok=True)
        for name, asked in files.items():
            part = source / f"{name}.jsonl.tmp"
            part.write_text("".join(json.dumps({"q": text}) + "\n" for text in asked))
            part.rename(part.with_suffix(""))

    command = [sys.executable, "-m", "stillhouse.cluster.cli", "run", str(path), "--follow", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            add(a=["one", "two"], b=["two", "three"])
            first, second = data / "part-000-000000.parquet", data / "part-001-000000.parquet"
            wait_until(first.exists, what="the first files are sealed", within_s=120, process=run)
            add(c=["three", "four"])
            wait_until(second.exists, what="the next file is sealed", within_s=60, process=run)
            run.send_signal(signal.SIGINT)
            out, err = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 0, err
    end = last_line(out)
    assert (end["state"], end["prompts"], end["duplicates"], end["records"]) == ("done", 6, 2, 4)
    stillhouse("verify", str(data.parent))


def test_a_finished_dataset_without_records_is_an_error(tmp_path: Path) -> None:
    """Exit 1 with the counts if the teacher refuses each prompt; the next run asks nothing and reports the same."""
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"q": text}) + "\n" for text in ("one", "two", "three")))
    refuses = {"kind": "status", "status": 400, "body": json.dumps({"error": {"code": "content_filter"}})}
    recipe = {
        "name": "refused",
        "source": {"path": str(source), "prompt": "q"},
        "teachers": [{"name": "t", "api": "simulator", "simulator": {"faults": [refuses]}}],
        "dataset": {"path": str(tmp_path / "out")},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "stillhouse.cluster.cli", "run", str(path)]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 1, done.stderr
        assert "there are no records: 3 rejected (refused 3), 0 failed" in done.stderr
    assert last_line(stillhouse("status", str(tmp_path / "out"), "--json"))["state"] == "done"


def test_a_run_on_s3_finishes(s3: S3Server, tmp_path: Path) -> None:
    """From a source on S3 to a dataset on S3; another recipe is refused, and the same one asks nothing."""
    rows = "".join(json.dumps({"id": f"p{n}", "q": f"How much is {n} + {n}?"}) + "\n" for n in range(120))
    client = boto3.client("s3", endpoint_url=s3.endpoint_url)
    client.put_object(Bucket=s3.bucket, Key="prompts/a.jsonl", Body=rows.encode())
    recipe = {
        "name": "s3",
        "source": {
            "path": f"s3://{s3.bucket}/prompts/*.jsonl",
            "prompt": "q",
            "id": "id",
            "endpoint_url": s3.endpoint_url,
        },
        "ask": {"samples": 2},
        "teachers": [{"name": "t", "api": "simulator", "limits": {"in_flight": 32}}],
        "dataset": {"path": f"s3://{s3.bucket}/out", "prompts_per_shard": 25, "endpoint_url": s3.endpoint_url},
        "run": {"journal_dir": str(tmp_path / "journal")},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    end = last_line(stillhouse("run", str(path), "--json"))
    assert (end["state"], end["records"], end["remaining"]) == ("done", 240, 0)
    table = ds.dataset(s3.data / s3.bucket / "out" / "data", format="parquet").to_table()
    assert len(set(table["record_id"].to_pylist())) == 240
    assert last_line(stillhouse("run", str(path), "--json"))["requests"] == 0
    stillhouse("run", str(path), "-o", "ask.temperature=0.3", code=2)
    stillhouse("verify", f"s3://{s3.bucket}/out", "--endpoint-url", s3.endpoint_url)
    left = client.list_objects_v2(Bucket=s3.bucket, Prefix="out/_stillhouse/journal/")
    assert "Contents" not in left
