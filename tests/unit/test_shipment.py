"""What a submitted run takes along, and above all what not."""

import py_compile
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import recipe_of
from ray.job_submission import JobDetails, JobStatus, JobType

from stillhouse.cluster.jobs.compiled import compiled
from stillhouse.cluster.jobs.ended import check_ended, lacks_pip
from stillhouse.cluster.jobs.shipment import Ship, fingerprint, packed, requirements
from stillhouse.gen.errors import StillhouseError
from stillhouse.schemas.recipe_file import read_recipe

KEYED = {
    "name": "t",
    "base_url": "https://teacher.example/v1",
    "model": "m",
    "api_key": "env:A_KEY",
    "terms": {"training_use": "permitted"},
}


@pytest.mark.parametrize(("ship", "packages"), [("all", 1), ("code", 1), ("recipe", 0)])
def test_the_folder_holds_only_the_recipe_and_our_code(tmp_path: Path, ship: Ship, packages: int) -> None:
    """As the nodes' images need it; what is installed there is our requirements, never another Ray."""
    with packed(recipe_of(tmp_path), ship=ship) as shipment:
        folder = Path(shipment.runtime_env["working_dir"])
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert len(list(folder.iterdir())) == 1 + packages
        assert {path.suffix for path in files} <= {".py", ".pyc", ".yaml", ".j2", ".css"}
        assert [path.name for path in files if path.suffix == ".yaml"] == ["recipe.yaml"]
        pip = shipment.runtime_env.get("pip")
    assert not folder.exists()
    assert pip == (requirements() if ship == "all" else None)
    assert not any(line.startswith("ray") for line in requirements())


def test_shipped_modules_are_compiled(tmp_path: Path) -> None:
    """A job's processes would each compile hundreds of modules; what was compiled from another source is not used."""
    module = tmp_path / "module.py"
    module.write_text("VALUE = 1\n")
    assert compiled(module) is None
    py_compile.compile(str(module))
    found = compiled(module)
    assert found is not None
    name, content = found
    folder = tmp_path / "elsewhere"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "__pycache__" / name).write_bytes(content)
    (folder / "module.py").write_text("VALUE = 1\n")
    assert _loaded(folder) == ["1", "cached"]
    (folder / "module.py").write_text("VALUE = 2\n")  # the same size, perhaps in the same second
    assert _loaded(folder) == ["2", "compiled"]
    module.write_text("VALUE = 11\n")
    assert compiled(module) is None


def _loaded(folder: Path) -> list[str]:
    """The value in the module, and whether its cache was used."""
    code = (
        "import importlib._bootstrap_external as b; real = b._compile_bytecode; used = []\n"
        "b._compile_bytecode = lambda *given, **named: used.append(1) or real(*given, **named)\n"
        "import module; print(module.VALUE, 'cached' if used else 'compiled')"
    )
    command = [sys.executable, "-B", "-c", code]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.split()


def test_nodes_get_what_the_checks_need(tmp_path: Path) -> None:
    """Only where a check needs more than everything does."""
    for check, more in (({"length": {"max": 9}}, 0), ({"math": {"answer": "answer"}}, 2)):
        with packed(recipe_of(tmp_path, checks=[check]), ship="all") as shipment:
            pip = shipment.runtime_env["pip"]
        assert (pip[: len(requirements())], len(pip)) == (requirements(), len(requirements()) + more)
    assert [line.split(">=")[0] for line in pip[-2:]] == ["math-verify", "py3langid"]


def test_nodes_get_what_vertex_needs(tmp_path: Path) -> None:
    """Tokens are made where the requests are sent."""
    url = "https://us-east5-aiplatform.googleapis.com/v1/projects/P/locations/us-east5"
    teacher = {
        "name": "claude",
        "api": "anthropic",
        "base_url": url,
        "model": "claude-sonnet-4-5",
        "ask": {"max_tokens": 9},
    }
    terms = {"training_use": "by-authorisation", "authorisation": "a letter"}
    with packed(recipe_of(tmp_path, teachers=[teacher | {"terms": terms}]), ship="all") as shipment:
        pip = shipment.runtime_env["pip"]
    assert [line.split(">=")[0] for line in pip[len(requirements()) :]] == ["google-auth", "requests"]


def test_no_secret_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe names the key; runtime_env and metadata, which the cluster shows, know nothing of it."""
    monkeypatch.setenv("A_KEY", "secret-value")
    recipe = recipe_of(tmp_path, teachers=[KEYED])
    with packed(recipe, ship="code") as shipment:
        folder = Path(shipment.runtime_env["working_dir"])
        assert read_recipe(folder / "recipe.yaml") == recipe
        assert shipment.runtime_env.keys() == {"working_dir", "excludes", "env_vars"}
        assert shipment.runtime_env["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
        shipped = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
        assert b"secret-value" not in shipped + repr(shipment).encode()


def test_metadata_finds_the_dataset(tmp_path: Path) -> None:
    """By its canonical url; the fingerprint changes with what is asked, not with limits."""
    recipe = recipe_of(tmp_path)
    with packed(recipe, ship="recipe", limit=7) as shipment:
        assert shipment.entrypoint == "python -m stillhouse.cluster.cli run recipe.yaml --json --limit 7"
        assert shipment.metadata["stillhouse_dataset"] == str(tmp_path / "out")
        assert shipment.metadata["stillhouse_recipe"] == fingerprint(recipe)
    with packed(recipe, ship="recipe", follow=True) as shipment:
        assert shipment.entrypoint == "python -m stillhouse.cluster.cli run recipe.yaml --json --follow"
    assert fingerprint(recipe_of(tmp_path, run={"workers": 7})) == fingerprint(recipe)
    assert fingerprint(recipe_of(tmp_path, ask={"samples": 2})) != fingerprint(recipe)


def test_local_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job has another working directory; what is in a store stays as it is."""
    monkeypatch.chdir(tmp_path)
    paths = ["a.jsonl", "s3://lake/b/*.jsonl"]
    changes: dict[str, Any] = {"dataset": {"path": "out/x"}, "run": {"journal_dir": "journals"}}
    recipe = recipe_of(Path(), source={"path": paths}, **changes).with_absolute_paths()
    assert recipe.run.journal_dir == str(tmp_path / "journals")
    assert recipe.source.paths == (str(tmp_path / "a.jsonl"), "s3://lake/b/*.jsonl")
    assert recipe.dataset.path == str(tmp_path / "out/x")


def test_kuberay_accepts_the_rayjob() -> None:
    """The example parses, waits as long as a stop takes, and holds no secret but as a mounted file."""
    path = Path(__file__).resolve().parents[2] / "cluster" / "deploy" / "rayjob.yaml"
    (config, job) = yaml.safe_load_all(path.read_text())
    spec: Any = job["spec"]
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
    (worker,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    for pod in (spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"], worker["template"]["spec"]):
        assert pod["terminationGracePeriodSeconds"] >= 60
        (container,) = pod["containers"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    recipe = read_text_recipe(config["data"]["recipe.yaml"])
    mounts = {mount["mountPath"] for mount in worker["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert recipe["run"]["journal_dir"] in mounts
    key = recipe["teachers"][0]["api_key"].removeprefix("file:")
    assert str(Path(key).parent) in mounts


def read_text_recipe(text: str) -> dict[str, Any]:
    """The recipe in the text, which is a valid one."""
    from stillhouse.schemas.recipe_file import load_recipe

    return load_recipe(text, origin="rayjob.yaml").model_dump(mode="json")


def failed(message: str, **known: Any) -> JobDetails:
    """A job that ended so."""
    known |= {"type": JobType.SUBMISSION, "submission_id": "raysubmit_x", "entrypoint": "python"}
    return JobDetails(status=JobStatus.FAILED, message=message, **known)


SETUP = "runtime_env setup failed: Failed to set up runtime environment.\nTraceback:\n"


def test_a_failed_install_on_a_node_gives_advice() -> None:
    """Ray's many lines become the last one, with the two ways around it."""
    job = failed(f"{SETUP}  /x/python: No module named pip\n\n")
    with pytest.raises(StillhouseError, match=r"No module named pip; this takes pip .* --ship code; .* --ship recipe"):
        check_ended(job)
    assert lacks_pip(job)
    assert not lacks_pip(failed(f"{SETUP}  ERROR: No matching distribution found for httpx\n"))


def test_a_full_disk_on_a_node_gives_advice() -> None:
    """No other way of shipping would help."""
    with pytest.raises(
        StillhouseError, match=r"disk .* is full \(OSError: .*\); free some space, or start Ray .* --temp-dir"
    ):
        check_ended(failed(f"{SETUP}OSError: [Errno 28] No space left on device: '/tmp/ray/session_x'"))


def test_a_head_without_our_packages_is_reported() -> None:
    """This applies to a job that started and could not import; any other that fails gives its own reason."""
    log = "Job entrypoint command failed with exit code 1, last available logs:\nTraceback (most recent call last):\n"
    with pytest.raises(StillhouseError, match="the head's Python has no httpx; every node needs what Stillhouse needs"):
        check_ended(failed(f"{log}ModuleNotFoundError: No module named 'httpx'\n", driver_exit_code=1))
    check_ended(failed(f"{log}stillhouse: the source is empty\n", driver_exit_code=1))
