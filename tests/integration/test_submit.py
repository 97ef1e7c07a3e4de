"""A run as a Ray job on a real cluster with a token: submitted, followed, stopped, resumed, refused."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import questions, write_source
from click.testing import CliRunner
from dashboard_proxy import Reply, Request, dashboard_proxy
from installs import ROOT, make_hostile
from ray_head import TOKEN, RayHead, ray_head, second_raylet
from waiting import wait_until

from stillhouse.cluster.cli import main
from stillhouse.cluster.jobs import submit


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    """One cluster for all tests here."""
    with ray_head() as running:
        yield running


def write_recipe(folder: Path, *, rows: int = 60, **settings: Any) -> Path:
    """Write a recipe over this many rows to the folder; `settings` are the simulator's."""
    write_source(folder, questions(rows))
    recipe = {
        "name": "submitted",
        "source": {"path": str(folder / "source"), "prompt": "question", "id": "id"},
        "teachers": [{"name": "t", "api": "simulator", "limits": {"in_flight": 8}, "simulator": settings}],
        "dataset": {"path": str(folder / "out"), "prompts_per_shard": 10},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def stillhouse(
    *args: object, env: dict[str, str], code: int, cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """The command's output; checks its exit code."""
    command = [sys.executable, "-m", "stillhouse.cluster.cli", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=env, cwd=cwd)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done


def test_a_submitted_run_is_followed_to_its_end(head: RayHead, tmp_path: Path) -> None:
    """Its result is the last line, its metadata says what it is, and only code and recipe were shipped."""
    for name in (".env", "prod.key"):
        (tmp_path / name).write_text("CANARY")
    recipe = write_recipe(tmp_path)
    before = head.shipped()
    args = ("submit", recipe, "--address", head.dashboard, "--ship", "code", "--json", "-o", "ask.samples=2")
    done = stillhouse(*args, env=head.env, code=0, cwd=tmp_path)
    end = json.loads(done.stdout)
    assert (end["state"], end["records"], end["requests"]) == ("done", 120, 120)

    (files,) = [shipped for shipped in head.shipped() if shipped not in before]
    assert {name.split("/")[0] for name in files if "__pycache__" not in name} == {
        "recipe.yaml", "stillhouse"
    }  # fmt: skip
    assert "stillhouse/cluster/quickstart/prompts.jsonl" not in files
    status = stillhouse("status", tmp_path / "out", "--address", head.dashboard, env=head.env, code=0)
    assert "no job on" in status.stderr
    logs = stillhouse(
        "logs", tmp_path / "recipe.yaml", "--no-follow", "--address", head.dashboard, env=head.env, code=0
    )
    assert done.stdout.strip() in logs.stdout


def interrupt_following(job: str, head: RayHead) -> None:
    """Ctrl-C while following ends the following alone, and says how to continue."""
    command = [sys.executable, "-m", "stillhouse.cluster.cli", "logs", job, "--address", head.dashboard]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=head.env, stdout=pipe, stderr=pipe, text=True) as following:
        assert following.stdout is not None
        found = any("Running entrypoint" in line for line in following.stdout)
        following.send_signal(signal.SIGINT)
        _, said = following.communicate()
    assert found
    assert following.returncode == 130
    assert f"stillhouse stop {job} --address {head.dashboard}" in said
    assert "Traceback" not in said


def test_a_stopped_job_finishes_its_requests_and_can_be_resumed(head: RayHead, tmp_path: Path) -> None:
    """Followers of a stopped job exit with 3; the next submit asks only for what is missing."""
    recipe = write_recipe(tmp_path, rows=1000, latency_s=4.0)
    where = ("--address", head.dashboard)
    args = ("submit", recipe, *where, "--ship", "code", "--json")
    job = json.loads(stillhouse(*args, "--no-follow", env=head.env, code=0).stdout)["job"]
    wait_until(lambda: any((tmp_path / "out").glob("_stillhouse/journal/*/*.journal")), what="it asks", within_s=150)
    refused = stillhouse(*args, env=head.env, code=2)
    assert f"job {job} already works on" in refused.stderr
    status = stillhouse("status", tmp_path / "out", "--json", *where, env=head.env, code=0)
    assert f"job {job}: running" in status.stderr
    assert json.loads(status.stdout)["state"] == "running"
    interrupt_following(job, head)

    stillhouse("stop", tmp_path / "recipe.yaml", *where, env=head.env, code=0)
    first = json.loads(stillhouse("logs", job, "--json", *where, env=head.env, code=3).stdout)
    assert first["state"] == "paused"
    assert 0 < first["requests"] < 1000
    again = json.loads(stillhouse(*args, "-o", "teachers.t.simulator.latency_s=0", env=head.env, code=0).stdout)
    assert (again["state"], again["records"], again["maybe_billed"]) == ("done", 1000, 0)
    assert first["requests"] + again["requests"] == 1000
    stillhouse("verify", tmp_path / "out", env=head.env, code=0)


def test_plain_ray_job_submit_does_the_same(head: RayHead, tmp_path: Path) -> None:
    """From a checkout with a recipe in it; the checkout's .rayignore keeps back keys, data and caches."""
    checkout = tmp_path / "checkout"
    for package in ("schemas", "gen", "cluster", "stillhouse"):
        shutil.copytree(ROOT / package, checkout / package, symlinks=True)
    shutil.copy(ROOT / ".rayignore", checkout)
    shutil.copy(write_recipe(tmp_path), checkout / "recipe.yaml")
    canaries = (".env", ".env.yaml", "prod.key", "creds.json", "out/part.parquet", "gen/.env", "gen/x.pem")
    for name in canaries:
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text("CANARY")
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", head.dashboard]
    command += ["--working-dir", ".", "--", "python", "-m", "stillhouse.cluster.cli", "run", "recipe.yaml", "--json"]
    before = head.shipped()
    done = subprocess.run(command, cwd=checkout, env=head.env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '{"state":"done"' in done.stdout
    assert "Ray deletes" not in done.stdout
    (files,) = [shipped for shipped in head.shipped() if shipped not in before]
    assert {"recipe.yaml", "stillhouse/cluster/cli.py"} <= files
    assert files & set(canaries) == set()


def test_a_relative_path_means_the_folder_of_the_command(head: RayHead, tmp_path: Path) -> None:
    """With `run --address`, whose cluster was started in another folder."""
    recipe = write_recipe(tmp_path, rows=20)
    args = ("run", recipe, "--address", head.gcs, "--json", "-o", "dataset.path=relative/out")
    done = stillhouse(*args, env=head.env, code=0, cwd=tmp_path)
    assert json.loads(done.stdout.splitlines()[-1])["records"] == 20
    assert len(list((tmp_path / "relative" / "out" / "data").iterdir())) == 2


def test_a_working_dir_may_contain_folders_named_like_ours(head: RayHead, tmp_path: Path) -> None:
    """It comes first on the path of the job's driver and workers, and may hold more than the package."""
    folder = make_hostile(tmp_path / "job")  # and no queue.py: Ray's own processes would end at it, before any of ours
    shutil.copytree(ROOT / "stillhouse", folder / "stillhouse", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(write_recipe(tmp_path), folder / "recipe.yaml")
    command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", head.dashboard]
    command += ["--working-dir", ".", "--", "python", "-m", "stillhouse.cluster.cli", "run", "recipe.yaml", "--json"]
    command += ["-o", "dataset.path=out"]
    done = subprocess.run(command, cwd=folder, env=head.env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '{"state":"done"' in done.stdout
    assert "out is in Ray's copy of the job's folder, which Ray deletes" in done.stdout


def test_a_job_exits_as_its_run_does(head: RayHead, tmp_path: Path) -> None:
    """A missing source: exit 2, with the run's own message."""
    recipe = write_recipe(tmp_path)
    missing = ("-o", "source.path=missing-*.jsonl", "--ship", "code")
    done = stillhouse("submit", recipe, *missing, "--address", head.dashboard, env=head.env, code=2, cwd=tmp_path)
    assert str(tmp_path / "missing-*.jsonl") in done.stderr


def test_one_of_two_simultaneous_submissions_wins(head: RayHead, tmp_path: Path) -> None:
    """Neither finds a job of the dataset, yet one is refused. Once that job has ended, another can be submitted."""
    args = ["submit", str(write_recipe(tmp_path)), "-o", "source.path=missing.jsonl", "--ship", "code", "--no-follow"]
    command = [sys.executable, "-m", "stillhouse.cluster.cli", *args, "--json", "--address", head.dashboard]
    both = [
        subprocess.Popen(command, env=head.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"
    ]
    said = [(*each.communicate(timeout=200), each.returncode) for each in both]
    assert sorted(code for _, _, code in said) == [0, 2]
    (job,) = [json.loads(out)["job"] for out, _, code in said if code == 0]
    (refused,) = [errors for _, errors, code in said if code == 2]
    assert f"job {job} already works on" in refused
    stillhouse("logs", job, "--address", head.dashboard, env=head.env, code=2)
    again = json.loads(stillhouse(*command[3:], env=head.env, code=0).stdout)["job"]
    assert again != job


def hands_in(request: Request) -> bool:
    """True for the request that submits a job."""
    return (request.method, request.path) == ("POST", "/api/jobs/")


def test_a_submission_with_a_lost_reply_is_found(head: RayHead, tmp_path: Path) -> None:
    """The cluster accepted it but the reply was lost: it is submitted again under the same id, and there is one job."""
    recipe = write_recipe(tmp_path)
    seen: list[str] = []

    def mute_once(request: Request, forward: Callable[[], Reply]) -> Reply | None:
        reply = forward()
        if hands_in(request):
            seen.append(json.loads(request.body)["submission_id"])
        return None if hands_in(request) and len(seen) == 1 else reply

    with dashboard_proxy(head.dashboard, mute_once) as proxy:
        args = ("submit", recipe, "-o", "source.path=missing.jsonl", "--ship", "code", "--no-follow", "--json")
        job = json.loads(stillhouse(*args, "--address", proxy, env=head.env, code=0).stdout)["job"]
    assert set(seen) == {job}
    assert len(seen) >= 2
    stillhouse("logs", job, "--address", head.dashboard, env=head.env, code=2)


def test_a_head_without_an_agent_is_retried(head: RayHead, tmp_path: Path) -> None:
    """As a head is right after `ray start`: with a message, and under the same id."""
    recipe = write_recipe(tmp_path)
    seen: list[str] = []

    def late(request: Request, forward: Callable[[], Reply]) -> Reply:
        if hands_in(request):
            seen.append(json.loads(request.body)["submission_id"])
            if len(seen) < 3:
                return Reply(500, b"No available agent to submit job, please try again later.")
        return forward()

    with dashboard_proxy(head.dashboard, late) as proxy:
        args = ("submit", recipe, "-o", "source.path=missing.jsonl", "--ship", "code", "--no-follow", "--json")
        done = stillhouse(*args, "--address", proxy, env=head.env, code=0)
    assert done.stderr.count("the head can't start jobs yet") == 1
    job = json.loads(done.stdout)["job"]
    assert seen == [job] * 3
    stillhouse("logs", job, "--address", head.dashboard, env=head.env, code=2)


def test_a_head_that_never_gets_an_agent_is_explained(
    head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 2 after a while, naming the log to read and the likely reasons; no job is left."""
    recipe = write_recipe(tmp_path)
    monkeypatch.setattr(submit, "AGENT_WAIT_S", 0.0)
    for name, value in head.env.items():
        monkeypatch.setenv(name, value)
    seen: list[str] = []

    def never(request: Request, forward: Callable[[], Reply]) -> Reply:
        if hands_in(request):
            seen.append(json.loads(request.body)["submission_id"])
            return Reply(500, b"No available agent to submit job, please try again later.")
        return forward()

    with dashboard_proxy(head.dashboard, never) as proxy:
        done = CliRunner().invoke(main, ["submit", str(recipe), "--ship", "code", "--no-follow", "--address", proxy])
    assert done.exit_code == 2, done.output
    assert "has had no available agent for 0 s" in done.stderr
    assert "dashboard_agent.log" in done.stderr
    assert "--dashboard-agent-listen-port=0" in done.stderr
    assert len(set(seen)) == 1
    stillhouse("logs", seen[0], "--address", head.dashboard, env=head.env, code=2)


def test_36_a_gateway_gets_its_headers(head: RayHead, tmp_path: Path) -> None:
    """Case 36-job-headers, by every command; it and the dashboard each get what they ask for."""
    recipe = write_recipe(tmp_path, rows=3)

    def gate(request: Request, forward: Callable[[], Reply]) -> Reply:
        if request.headers.get("X-Made-Up-Auth") == "opens":
            return forward()
        return Reply(200, b"<html><title>Sign in</title></html>", {"Content-Type": "text/html"})

    opens = head.env | {"RAY_JOB_HEADERS": json.dumps({"X-Made-Up-Auth": "opens"})}
    with dashboard_proxy(head.dashboard, gate) as proxy:
        where = ("--address", proxy)
        shut = stillhouse("submit", recipe, "--ship", "code", *where, env=head.env, code=2)
        assert "RAY_JOB_HEADERS" in shut.stderr
        submit = ("submit", recipe, "--ship", "code", "--no-follow", "--json", *where)
        job = json.loads(stillhouse(*submit, env=opens, code=0).stdout)["job"]
        wait_until((tmp_path / "out/_stillhouse/recipe.yaml").exists, what="it has a dataset", within_s=150)
        stillhouse("stop", job, *where, env=opens, code=0)
        assert "ended" in stillhouse("stop", tmp_path / "out", *where, env=opens, code=0).stderr
        assert "RAY_JOB_HEADERS" in stillhouse("status", tmp_path / "out", *where, env=head.env, code=2).stderr
        stillhouse("status", tmp_path / "out", *where, env=opens, code=0)
        assert job in stillhouse("logs", job, "--no-follow", *where, "--json", env=opens, code=0).stdout
        doctor = stillhouse("doctor", *where, env=opens, code=0)
        assert "accepts jobs" in doctor.stdout


def test_a_terminal_follows_a_job_with_the_panel(head: RayHead, tmp_path: Path) -> None:
    """The same table as `run` shows, from the job's own figures, replaces its lines; the end is the same."""
    recipe = write_recipe(tmp_path, rows=300, latency_s=0.15)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "stillhouse.cluster.cli", "submit", str(recipe), "--ship", "code"]
    command += ["--address", head.dashboard]
    env = head.env | {"TERM": "xterm-256color", "COLUMNS": "200"}
    with subprocess.Popen(command, env=env, stderr=theirs, stdout=subprocess.PIPE, text=True) as child:
        os.close(theirs)
        shown = b"".join(iter(lambda: read(ours), b"")).decode(errors="replace")
        assert child.stdout is not None
        result = child.stdout.read()
    os.close(ours)
    assert child.returncode == 0, shown
    assert f"stillhouse · submitted → {tmp_path}/out" in shown
    assert "of 300 settled" in shown
    assert "time gone" in shown
    assert "Running entrypoint" in shown
    assert "; this call: " not in shown.partition("time gone")[2]  # perhaps a line before the first figures, none after
    assert result.splitlines()[0] == f"done: {tmp_path}/out"
    assert "this call  300 records" in result
    assert "next:" in result
    assert f"stillhouse verify {tmp_path}/out" in result


def read(fd: int) -> bytes:
    """What a terminal is sent; nothing once the other side is closed."""
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""


def test_a_cluster_without_a_free_cpu_is_reported(head: RayHead, tmp_path: Path) -> None:
    """If others hold every CPU, the wait is explained, by `doctor` too."""
    hold = (
        "import ray, sys\n"
        f"ray.init(address={head.gcs!r}, log_to_driver=False)\n"
        "class Hold:\n    def there(self): return True\n"
        "held = [ray.remote(Hold).options(num_cpus=1).remote() for _ in range(int(ray.cluster_resources()['CPU']))]\n"
        "ray.get([each.there.remote() for each in held])\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", hold]
    with subprocess.Popen(
        command, env=head.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as holder:
        assert holder.stdout is not None
        assert "held" in holder.stdout.readline()
        doctor = stillhouse("doctor", "--address", head.gcs, env=head.env, code=0)
        assert "a worker needs a CPU" in doctor.stdout
        args = ["submit", str(write_recipe(tmp_path, rows=10)), "--address", head.dashboard, "--ship", "code"]
        with subprocess.Popen(
            [sys.executable, "-m", "stillhouse.cluster.cli", *args], env=head.env, stderr=subprocess.PIPE, text=True
        ) as following:
            assert following.stderr is not None
            assert any("needs a CPU" in line for line in following.stderr)
            holder.communicate("")
            following.communicate()
            assert following.returncode == 0


def test_a_secret_missing_on_the_nodes_ends_the_run(head: RayHead, tmp_path: Path) -> None:
    """Exit 2 with the secret's name, and no dataset left behind; it does not help if only the driver has it."""
    recipe = write_recipe(tmp_path)
    document = yaml.safe_load(recipe.read_text())
    teacher = {"name": "t", "base_url": "http://127.0.0.1:1/v1", "model": "m", "api_key": "env:ONLY_THE_DRIVER_HAS_IT"}
    document["teachers"] = [teacher | {"terms": {"training_use": "permitted"}}]
    recipe.write_text(yaml.safe_dump(document))
    env = head.env | {"ONLY_THE_DRIVER_HAS_IT": "canary-0123456789"}
    run = stillhouse("run", recipe, "--json", "--address", head.gcs, env=env, code=2)
    assert "ONLY_THE_DRIVER_HAS_IT" in run.stderr
    assert "died" not in run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["state"] == "failed"
    assert "canary-0123456789" not in run.stderr + run.stdout
    assert not (tmp_path / "out").exists()


def test_actors_that_the_nodes_cannot_load_end_the_run(head: RayHead, tmp_path: Path) -> None:
    """Exit 1 with the reason and what to do, once: another worker could not be loaded either."""
    (tmp_path / "nodes" / "stillhouse").mkdir(parents=True)
    (tmp_path / "nodes" / "stillhouse" / "__init__.py").write_text("")
    nodes = {"runtime_env": {"env_vars": {"PYTHONPATH": str(tmp_path / "nodes")}}}
    env = head.env | {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(nodes)}
    recipe = write_recipe(tmp_path)
    run = stillhouse("run", recipe, "--json", "--address", head.gcs, env=env, code=1, cwd=tmp_path)
    (reason,) = [line for line in run.stderr.splitlines() if "No module named" in line]
    assert re.match(r"stillhouse: \w+ can't be loaded on the cluster \(ModuleNotFoundError: No module named ", reason)
    assert "--ship code" in reason
    assert "Traceback" not in run.stderr
    assert "died" not in run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["state"] == "failed"


def test_a_wrong_token_is_reported(head: RayHead, tmp_path: Path) -> None:
    """By submit and by run, with what to set; the token itself is not repeated."""
    wrong = head.env | {"RAY_AUTH_TOKEN": TOKEN[::-1]}
    submit = stillhouse("submit", write_recipe(tmp_path), "--address", head.dashboard, env=wrong, code=2)
    assert "RAY_AUTH_TOKEN" in submit.stderr
    run = stillhouse("run", tmp_path / "recipe.yaml", "--address", head.gcs, env=wrong, code=2)
    assert "token refused" in run.stderr
    assert TOKEN[::-1] not in submit.stderr + run.stderr


def test_a_token_is_enough(head: RayHead, tmp_path: Path) -> None:
    """Ray on its own also requires RAY_AUTH_MODE."""
    env = {name: value for name, value in head.env.items() if name != "RAY_AUTH_MODE"}
    done = stillhouse("stop", tmp_path / "nix", "--address", head.dashboard, env=env, code=2)
    assert "has no job" in done.stderr


def test_the_token_in_rays_own_file_is_enough(head: RayHead, tmp_path: Path) -> None:
    """The one that a first local run leaves in the user's home; for joining through the GCS too."""
    env = {name: value for name, value in head.env.items() if not name.startswith("RAY_AUTH")} | {"HOME": str(tmp_path)}
    none = stillhouse("stop", tmp_path / "nix", "--address", head.dashboard, env=env, code=2)
    assert "no token given" in none.stderr
    none = stillhouse("run", write_recipe(tmp_path, rows=3), "--address", head.gcs, env=env, code=2)
    assert "no token given" in none.stderr
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    done = stillhouse("stop", tmp_path / "nix", "--address", head.dashboard, env=env, code=2)
    assert "has no job" in done.stderr
    assert f"joined at {head.gcs}" in stillhouse("doctor", "--address", head.gcs, env=env, code=0).stdout


def test_a_different_ray_version_cannot_be_joined(head: RayHead, tmp_path: Path) -> None:
    """The versions of both sides are named."""
    program = "import ray; ray.__version__ = '2.59.0'; from stillhouse.cluster.cli import main; main()"
    args = ["run", str(write_recipe(tmp_path)), "--address", head.gcs]
    command = [sys.executable, "-c", program, *args]
    done = subprocess.run(command, env=head.env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2, done.stderr
    assert "2.59.0" in done.stderr
    assert "stillhouse submit" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_with_an_old_python_is_reported(tmp_path: Path) -> None:
    """The shipped code runs on any Python, so it reports itself which one it needs."""
    program = "import sys; sys.version_info = (3, 10, 1); sys.version = '3.10.1 x'; import stillhouse.cluster.cli"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "stillhouse: expected Python 3.11 or newer on the cluster, found 3.10.1; update its image"
    ]


@pytest.mark.parametrize(
    ("address", "said"),
    [("DASHBOARD", "is a web server"), ("http://DASHBOARD", "expected `auto` or a cluster's host:port")],
)
def test_run_recognises_a_dashboard_address(head: RayHead, tmp_path: Path, address: str, said: str) -> None:
    """It joins through the GCS port; the dashboard's address is for `submit`."""
    address = address.replace("DASHBOARD", head.dashboard.removeprefix("http://"))
    done = stillhouse("run", write_recipe(tmp_path), "--address", address, env=head.env, code=2)
    assert said in done.stderr


def test_an_unknown_job_is_reported(head: RayHead, tmp_path: Path) -> None:
    """It is neither a job's id nor a dataset with a job."""
    done = stillhouse("stop", tmp_path / "nix", "--address", head.dashboard, env=head.env, code=2)
    assert "has no job" in done.stderr


@pytest.mark.slow
def test_two_raylets_share_a_sessions_folder(head: RayHead, tmp_path: Path) -> None:
    """The second deletes the job's folder and unpacks it again; no process of ours is started before it has."""
    recipe = write_recipe(tmp_path, rows=20)
    before = {*head.working_dirs()}
    with second_raylet(head, cpus=2, late_s=4):
        command = [sys.executable, "-m", "stillhouse.cluster.cli", "submit", str(recipe), "--ship", "code"]
        command += ["-o", "run.workers=3", "--address", head.dashboard]
        with subprocess.Popen(command, env=head.env, stderr=subprocess.PIPE, text=True) as following:
            assert following.stderr is not None
            lines = iter(following.stderr)
            assert any("starting workers" in line for line in lines)
            started_at = time.time()
            rest = "".join(lines)
        assert following.returncode == 0, rest
        (folder,) = {*head.working_dirs()} - before
        assert folder.stat().st_mtime < started_at
