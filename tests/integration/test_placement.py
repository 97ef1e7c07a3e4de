"""Where shared actors run, how one that can't be reached is reported, and what outlives it, on a Ray of five nodes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import questions, recipe_of, write_source
from ray_nodes import ray_nodes

from stillhouse.gen.dataset.binding import bind
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.planners import SourcePlanner
from stillhouse.gen.dataset.plans import Plan

_DRIVER = """
import sys, time
import ray
from stillhouse.cluster.actors.handles import start_limiter, start_queue
from stillhouse.cluster.actors.places import head_node
from stillhouse.cluster.actors.plain import pack, unpack
from stillhouse.cluster.control import Control
from stillhouse.cluster.progress.display import Quiet
from stillhouse.cluster.progress.stats import QueueStats
from stillhouse.cluster.runtime import connected, this_node
from stillhouse.gen.coordination.counters import Counters, Tally
from stillhouse.schemas.recipe import Recipe
from stillhouse.schemas.limits import Limits

recipe = Recipe.model_validate_json(open(sys.argv[2]).read())
with connected(sys.argv[1]):
    head, node = head_node(), this_node()
    queues = [start_queue(recipe, opened=[0], known=1, workers=1, node=node) for _ in range(4)]
    limiters = [start_limiter(str(n), Limits(), node=head) for n in range(4)]
    print(sum(node[:8] in place for place in ray.get([queue.where.remote() for queue in queues])))
    print(sum(head[:8] in place for place in ray.get([limiter.where.remote() for limiter in limiters])))

    queue, control = queues[0], Control(queues[0], {})

    def look():
        try:
            stats = unpack(ray.get(queue.stats.remote(), timeout=2.0), QueueStats)
        except Exception:
            stats = None
        control.look(stats, Quiet())
        return stats

    counters = Counters({"t": Tally(requests=7)})
    ray.get(queue.renew.remote("gone.w", [], pack(counters)))
    while not control._totals:
        look()
        time.sleep(0.1)
    ray.kill(queue, no_restart=False)
    until = time.monotonic() + 60
    while ((stats := look()) is None or stats.total.requests != 7) and time.monotonic() < until:
        time.sleep(0.2)
    print(stats.total.requests)
    until = time.monotonic() + 7
    while time.monotonic() < until:
        control.look(None, Quiet())
        time.sleep(0.1)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)  # nodes may have to be started again
def test_shared_actors_run_where_their_loss_costs_nothing(tmp_path: Path) -> None:
    """The queue on the driver's node and limiters on the head; a queue that dies is reported and loses no counts."""
    write_source(tmp_path, questions(10))
    recipe = recipe_of(tmp_path)
    store = open_dataset(recipe)
    planner = SourcePlanner(store, bind(store, recipe))
    while isinstance(planner.step(), Plan):
        pass
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    with ray_nodes(0, 1, 1, 1, 1) as cluster:
        command = [sys.executable, "-c", _DRIVER, cluster.address, str(tmp_path / "recipe.json")]
        env = os.environ | {"RAY_ADDRESS": ""}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.stdout.split() == ["4", "4", "7"], done.stderr
    assert "the PromptQueue on " in done.stderr
    assert "has not answered for 5 s" in done.stderr
