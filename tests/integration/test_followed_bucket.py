"""A source on S3 that is followed: objects that come, change and go."""

import json
from pathlib import Path

import boto3
import pytest
from builders import questions, recipe_of
from s3_server import BUCKET, Fault, S3Server

from stillhouse.gen.clock import ManualClock
from stillhouse.gen.dataset.binding import bind
from stillhouse.gen.dataset.indexer import Indexer
from stillhouse.gen.dataset.layout import open_dataset
from stillhouse.gen.dataset.planners import SourcePlanner
from stillhouse.gen.dataset.planning import Step, Wait
from stillhouse.gen.dataset.plans import SourcePlan
from stillhouse.gen.errors import SourceError, StoreRefused
from stillhouse.gen.source.arrivals import STILL_S, Arrivals


def names_in(plan: Step) -> list[str]:
    """The names of the files that it plans."""
    assert isinstance(plan, SourcePlan)
    return [Path(file.url).name for file in plan.files]


def test_objects_come_change_and_go(tmp_path: Path, s3: S3Server) -> None:
    """What is not planned yet may change; what is planned may be renamed, and its name reused, but not be replaced."""
    source = {"path": f"s3://{BUCKET}/prompts/", "endpoint_url": s3.endpoint_url}
    recipe, clock = recipe_of(tmp_path, source=source), ManualClock()
    store, arrivals = open_dataset(recipe), Arrivals(recipe.source, clock=clock)
    planner = SourcePlanner(store, bind(store, recipe), arrivals=arrivals)
    client = boto3.client("s3", endpoint_url=s3.endpoint_url)

    def put(name: str, *, start: int, count: int = 2) -> None:
        rows = "".join(json.dumps(row) + "\n" for row in questions(count, start=start))
        client.put_object(Bucket=BUCKET, Key=f"prompts/{name}", Body=rows.encode())

    def delete(name: str) -> None:
        client.delete_object(Bucket=BUCKET, Key=f"prompts/{name}")

    def arrive() -> None:
        for _ in range(2):
            clock.now += STILL_S
            arrivals.look()

    def planned() -> Step:
        arrive()
        step = planner.step()
        if isinstance(step, SourcePlan):
            list(Indexer(store, recipe, step).parts([]))
            assert planner.step() == Wait("sealed")
        return step

    assert planned() == Wait("files")
    put("a.jsonl", start=0)
    put("b.jsonl", start=2)
    arrive()
    delete("a.jsonl")
    assert planner.step() == Wait("files")
    assert names_in(planned()) == ["b.jsonl"]
    put("c.jsonl", start=2)
    delete("b.jsonl")
    assert planned() == Wait("sealed")
    put("b.jsonl", start=4)
    assert names_in(planned()) == ["b.jsonl"]
    put("b.jsonl", start=6, count=3)
    with pytest.raises(SourceError, match=r"b\.jsonl: changed after it was planned"):
        planned()


def test_a_bucket_that_refuses_says_so(tmp_path: Path, s3: S3Server) -> None:
    """With the store's own words."""
    source = {"path": f"s3://{BUCKET}/prompts/", "endpoint_url": s3.endpoint_url}
    arrivals = Arrivals(recipe_of(tmp_path, source=source).source, clock=ManualClock())
    s3.gate.faults.append(Fault("answer", method="GET", status=403, code="AccessDenied", message="not yours", times=9))
    with pytest.raises(StoreRefused, match="not yours"):
        arrivals.look()
