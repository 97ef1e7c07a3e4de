"""A node's slots: no more children than slots over all pools, and no pool waits forever."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from processes import below

from stillhouse.gen.checks.base import Answer, CheckResult
from stillhouse.gen.checks.pool import CheckPool
from stillhouse.gen.checks.slots import Slots
from stillhouse.gen.process.cpus import usable_cpus
from stillhouse.schemas.checks import Check

LENGTH = [Check.model_validate({"length": {"max": 3}})]


def children() -> int:
    """Check processes that are ours."""
    return sum(b"stillhouse.gen.checks.child" in title for title in below(os.getpid()).values())


def test_a_slot_is_for_one_at_a_time(tmp_path: Path) -> None:
    """It is free again once released; pools that have one see who is waiting."""
    mine, theirs = Slots(tmp_path, count=2), Slots(tmp_path, count=2)
    taken = [mine.take(), theirs.take()]
    assert None not in taken
    assert mine.take() is None
    assert not mine.are_wanted()
    with theirs.waiting():
        assert mine.are_wanted()
        with mine.waiting():
            assert theirs.are_wanted()
    assert not mine.are_wanted()
    assert taken[0] is not None
    taken[0].release()
    assert theirs.take() is not None


async def test_pools_share_the_slots_of_their_node(tmp_path: Path) -> None:
    """Two pools with one slot: the idle one gives it up to the other, again and again."""
    async with CheckPool(LENGTH, size=2, slots=Slots(tmp_path, count=1)) as first:
        second = CheckPool(LENGTH, size=2, slots=Slots(tmp_path, count=1))
        async with asyncio.timeout(30), second:
            for pool in (second, first):
                (verdict,) = await pool.judge(Answer("ab"), {})
                assert isinstance(verdict, CheckResult)
                assert children() == 1
    assert children() == 0
    assert Slots(tmp_path, count=1).take() is not None


def test_another_users_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one that others can write to; the number of slots is then unlimited."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"stillhouse-{os.getuid()}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    slots = Slots.of_node()
    assert all(slots.take() is not None for _ in range(100))
    assert not slots.are_wanted()
    assert list(elsewhere.iterdir()) == []
    folder.unlink()
    shared = Slots.of_node()
    taken = [shared.take() for _ in range(usable_cpus())]
    assert None not in taken
    assert shared.take() is None
    shutil.rmtree(folder)
    assert shared.take() is not None
