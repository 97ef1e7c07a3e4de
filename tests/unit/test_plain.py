"""What shared actors are sent: plain data that another version can read, or refuse by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import recipe_of

from stillhouse.cluster.actors.plain import VERSION, pack, pack_recipe, unpack, unpack_any, unpack_recipe
from stillhouse.gen.coordination.counters import Counters
from stillhouse.gen.coordination.leases import Grant
from stillhouse.gen.coordination.messages import NoMore, Renewal, Wait
from stillhouse.gen.dataset.layout import ChunkId
from stillhouse.gen.dataset.shard_meta import ShardCounts
from stillhouse.gen.errors import Paused
from stillhouse.gen.limits.replies import Replies
from stillhouse.gen.limits.shares import Ceiling, Lease, Report
from stillhouse.schemas.limits import Limits

COUNTERS = Counters(open_chunks=2, last_trouble="t: slow")
COUNTERS.troubled("t", "rate", "too fast")
VALUES: list[Any] = [
    Grant(ChunkId(3, 7), died=True),
    Wait(0.5),
    NoMore(),
    Renewal([ChunkId(0, 1)], stop=True),
    COUNTERS,
    ShardCounts(records=3, rejected={"length": 1}, usd=0.25),
    Report(3, 4, Replies(1, 2, 3.0, 4), ceilings={"requests": Ceiling(1.0, 2.0, 0.5)}),
    Lease({"output": 1.5}, 3, float("inf"), 0.0),
    Limits(requests_per_minute=60),
]


def builtins_of(value: object) -> set[type]:
    """The types of all values in it."""
    if isinstance(value, dict):
        return {dict}.union(*map(builtins_of, value), *map(builtins_of, value.values()))
    if isinstance(value, (list, tuple)):
        return {type(value)}.union(*map(builtins_of, value))
    return {type(value)}


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_are_sent_as_plain_data(value: object) -> None:
    """And come back equal."""
    sent = pack(value)
    assert builtins_of(sent) <= {dict, list, tuple, str, int, float, bool, type(None)}
    assert unpack_any(sent, Grant, Wait, NoMore, type(value)) == value


def test_a_recipe_is_sent_with_the_simulators_addresses(tmp_path: Path) -> None:
    """Which no recipe may have, and every worker needs."""
    recipe = recipe_of(tmp_path, source={"keep": [{"name": "a", "as": "b"}]})
    (teacher,) = recipe.teachers
    started = teacher.model_copy(update={"endpoints": ("http://127.0.0.1:1/v1",)})
    recipe = recipe.model_copy(update={"teachers": (started,)})
    sent = pack_recipe(recipe)
    assert json.loads(json.dumps(sent))["version"] == VERSION
    assert unpack_recipe(sent) == recipe


@pytest.mark.parametrize(
    "sent",
    [
        Lease({}, 1, 1.0, 0.0),
        pack(Lease({}, 1, 1.0, 0.0)) | {"version": VERSION + 1},
        pack(Wait(1.0)),
        pack(Lease({}, 1, 1.0, 0.0)) | {"value": {"slots": "many"}},
        None,
    ],
)
def test_another_version_is_refused(sent: Any) -> None:
    """Never taken for something that it is not; the run pauses, for it may continue when the others have ended."""
    with pytest.raises(Paused, match="version"):
        unpack(sent, Lease)
