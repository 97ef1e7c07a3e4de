"""Workers that can't start where they run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.faults.test_drain import three_nodes
from tests.faults.test_kill import recipe_file, teacher


@pytest.mark.slow
def test_a_secret_that_the_nodes_lack_ends_the_run(tmp_path: Path) -> None:
    """Row 44: exit 2 with the secret's name, and no worker after worker; the driver having it is of no use."""
    with teacher(tmp_path, latency_s=0.2) as url, three_nodes() as cluster:
        recipe = recipe_file(tmp_path, url, workers=2)
        document = yaml.safe_load(recipe.read_text())
        document["teachers"][0]["api_key"] = "env:ONLY_THE_DRIVER_HAS_IT"
        recipe.write_text(yaml.safe_dump(document))
        command = [sys.executable, "-m", "cluster.cli", "run", str(recipe), "--json", "--address", cluster.address]
        run = subprocess.run(
            command,
            env=os.environ | {"ONLY_THE_DRIVER_HAS_IT": "canary-0123456789"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert run.returncode == 2
    assert "ONLY_THE_DRIVER_HAS_IT" in run.stderr
    assert "died" not in run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["state"] == "failed"
    assert "canary-0123456789" not in run.stderr + run.stdout
