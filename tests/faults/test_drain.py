"""A node that has to leave, like a spot node: its worker finishes its requests in flight, and another resumes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from faults.history import check
from faults.test_kill import PROMPTS, SAMPLES, recipe_file, shards, teacher, until
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated import autoscaler_pb2
from ray_nodes import ray_nodes

from stillhouse.gen.journal.names import writer_of


@pytest.mark.slow
@pytest.mark.timeout(600)  # nodes may have to be started again
def test_a_drained_node_loses_nothing(tmp_path: Path) -> None:
    """Row 42: every answer delivered is stored, nothing is asked again, and another worker finishes the run."""
    with teacher(tmp_path, latency_s=0.5) as url, ray_nodes(0, 1, 1) as cluster:
        recipe = recipe_file(tmp_path, url, workers=1)
        errors = tmp_path / "stderr.txt"
        with errors.open("w") as stderr:
            command = [
                sys.executable,
                "-m",
                "stillhouse.cluster.cli",
                "run",
                str(recipe),
                "--json",
                "--address",
                cluster.address,
            ]
            run = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ | {"RAY_ADDRESS": ""}
            )
        until(lambda: shards(tmp_path) >= 3, process=run)
        drain(cluster.address, node_of_the_worker(tmp_path))
        out, _ = run.communicate(timeout=120)
    end = json.loads(out.splitlines()[-1])
    assert (end["state"], end["remaining"], end["maybe_billed"]) == ("done", 0, 0)
    assert "its node is about to go" in errors.read_text()
    figures = check(tmp_path / "out", tmp_path / "served.jsonl", samples=SAMPLES, in_flight=0, kills=0)
    assert figures["answered"] == PROMPTS * SAMPLES


def node_of_the_worker(tmp_path: Path) -> str:
    """The start of its node's id, taken from its journals' names."""
    journal = next((tmp_path / "out" / "_stillhouse" / "journal").rglob("*.journal"))
    return writer_of(journal.stem).partition(".")[0]


def drain(address: str, node: str) -> None:
    """Tell Ray that the node is about to go, as a cloud's notice does."""
    gcs = GcsClient(address=address)
    (node_id,) = [each.hex() for each in gcs.get_all_node_info() if each.hex().startswith(node)]
    reasons: Any = autoscaler_pb2.DrainNodeReason  # type: ignore[attr-defined]
    preemption = reasons.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = gcs.drain_node(node_id, preemption, "a spot notice", 0)
    assert accepted, why
