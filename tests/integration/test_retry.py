"""`stillhouse retry` as a user types it, on a real Ray: the dataset alone says what to ask, and whom."""

import json
import subprocess
import sys
from pathlib import Path

import yaml


def stillhouse(*args: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The command, whose exit code is checked."""
    command = [sys.executable, "-m", "stillhouse.cluster.cli", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=cwd)
    assert done.returncode == code, done.stderr
    return done


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    """The JSON of the last line."""
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_failures_are_retried(tmp_path: Path) -> None:
    """What failed at a broken teacher is asked of a working one, from another folder; then nothing is left to do."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"q": f"How much is {n} + {n}?"}) + "\n" for n in range(50)))
    broken = [{"kind": "status", "status": 400, "share": 0.3}, {"kind": "truncate", "share": 0.3}]
    teacher = {"name": "t", "api": "simulator", "max_attempts": 1, "limits": {"in_flight": 32}}
    recipe = {
        "name": "retried",
        "source": {"path": "a.jsonl", "prompt": "q"},
        "ask": {"samples": 2},
        "teachers": [teacher | {"simulator": {"faults": broken}}],
        "dedup": {"answers": False},
        "dataset": {"path": "out", "prompts_per_shard": 20},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    first = last_line(stillhouse("run", "recipe.yaml", "--json", cwd=tmp_path))
    assert first["failed"]

    mended = ["-o", "teachers.t.simulator={first_serial: 1000}", "--json"]
    elsewhere = tmp_path / "data"
    elsewhere.mkdir()
    one_kind = last_line(stillhouse("retry", "../out", "--kind", "ambiguous", *mended, cwd=elsewhere))
    assert 0 < int(str(one_kind["failed"])) < int(str(first["failed"]))
    rest = last_line(stillhouse("retry", str(tmp_path / "out"), *mended, cwd=elsewhere))
    assert (rest["state"], rest["records"], rest["failed"], rest["remaining"]) == ("done", 100, 0, 0)
    assert rest["requests"] == one_kind["failed"]
    nothing = stillhouse("retry", "out", cwd=tmp_path)
    assert "records    100" in nothing.stdout
    assert "sound" in stillhouse("verify", "out", cwd=tmp_path).stdout


def test_retry_names_what_is_missing(tmp_path: Path) -> None:
    """A kind that does not exist is answered with those that do; a folder that is not a dataset is refused."""
    wrong = stillhouse("retry", "out", "--kind", "bad_row", cwd=tmp_path, code=2)
    assert all(kind in wrong.stderr for kind in ("too_long", "malformed", "ambiguous", "overload", "poison"))
    assert "not a Stillhouse dataset" in stillhouse("retry", "out", cwd=tmp_path, code=2).stderr
    assert list(tmp_path.iterdir()) == []
