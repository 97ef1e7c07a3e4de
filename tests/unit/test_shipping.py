"""Shipping: a journal's frames reach the store in segments, which are deleted once its chunk is sealed."""

import gc
import hashlib
import os
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from builders import FIRST, index, questions, recipe_of, teachers_of, write_source
from first_journals import first_journal
from s3_server import Fault, S3Server

import stillhouse.gen.journal.shipping
from stillhouse.gen.clock import SYSTEM
from stillhouse.gen.coordination.leases import Grant
from stillhouse.gen.dataset.binding import bind
from stillhouse.gen.dataset.layout import RECIPE_KEY, ChunkId, open_dataset
from stillhouse.gen.errors import StoreAway
from stillhouse.gen.journal.file import JournalFile, leftovers
from stillhouse.gen.journal.frames import MAGIC, Frame, Kind
from stillhouse.gen.journal.journals import journal_root, journals_at
from stillhouse.gen.journal.names import present_boot
from stillhouse.gen.journal.shipping import ShippedJournal
from stillhouse.gen.store import open_store
from stillhouse.gen.store.base import Store
from stillhouse.gen.worker.leased_chunk import Hands

OTHER = ChunkId(0, 1)
NAME = f"0-{present_boot()}-node.worker-1"
"""What a worker calls its first journal."""


def sent(ordinal: int) -> Frame:
    """A frame that differs from others."""
    return Frame(Kind.SENT, ordinal, float(ordinal))


def answered(ordinal: int, size: int = 10) -> Frame:
    """A frame with a body."""
    return Frame(Kind.ANSWERED, ordinal, float(ordinal), 0.5, 200, "host", bytes([ordinal]) * size)


@pytest.fixture
def store(tmp_path: Path, s3: S3Server) -> Store:
    """A dataset on the test's S3 server."""
    return open_dataset(recipe_of(tmp_path, dataset={"path": "s3://lake/out", "endpoint_url": s3.endpoint_url}))


def begun(root: Path, chunk: ChunkId = FIRST, *, name: str = "0-w0", frames: int = 0) -> JournalFile:
    """A chunk's journal with this many frames."""
    journal = JournalFile.create(root / str(chunk) / f"{name}.journal")
    for ordinal in range(frames):
        journal.append(answered(ordinal))
    return journal


def keys(store: Store) -> list[str]:
    """The names of what is shipped."""
    return [stat.key.removeprefix("_stillhouse/journal/") for stat in store.list("_stillhouse/journal/")]


def test_segments_hold_the_frames_since_the_last(tmp_path: Path, store: Store) -> None:
    """Nothing new, no segment; read together they are the journal."""
    journal = begun(tmp_path)
    shipper = ShippedJournal(store, FIRST, journal)
    shipper.ship()
    assert (keys(store), shipper.behind_bytes) == ([], 0)
    for ordinal in range(3):
        journal.append(sent(ordinal))
        journal.append(answered(ordinal))
        assert shipper.behind_bytes > 0
        shipper.ship()
        shipper.ship()
    assert keys(store) == [f"000-000000/0-w0-00000{n}.zst" for n in range(3)]
    journal.remove()
    assert list(journals_at(store, tmp_path).recovered(FIRST)) == [f(n) for n in range(3) for f in (sent, answered)]


def test_a_lost_segment_is_shipped_again(tmp_path: Path, s3: S3Server) -> None:
    """Nothing is counted as shipped that is not."""
    store = open_store("s3://lake/out", endpoint_url=s3.endpoint_url, patience_s=0.5)
    shipper = ShippedJournal(store, FIRST, begun(tmp_path, frames=2))
    s3.gate.faults.append(Fault("answer", path="journal", times=1000, status=503, code="SlowDown"))
    with pytest.raises(StoreAway):
        shipper.ship()
    assert shipper.behind_bytes > 0
    s3.gate.faults.clear()
    shipper.ship()
    assert list(journals_at(store, tmp_path / "none").recovered(FIRST)) == [answered(0), answered(1)]


def test_nothing_is_shipped_after_the_end(tmp_path: Path, store: Store) -> None:
    """A sealed chunk's journal is gone: a shipment in progress must neither restore it nor fail."""
    journal = begun(tmp_path, frames=2)
    shipper = ShippedJournal(store, FIRST, journal)
    shipper.end()
    journal.remove()
    shipper.ship()
    abandoned = ShippedJournal(store, FIRST, begun(tmp_path, name="1-w1", frames=1))
    begun(tmp_path, name="2-w2").close()
    local = begun(tmp_path, name="3-w3", frames=1)
    local.close()
    ShippedJournal(store, FIRST, local).ship()
    assert keys(store) == []
    abandoned.ship()
    assert len(keys(store)) == 1


def test_a_damaged_segment_costs_only_its_frames(tmp_path: Path, store: Store) -> None:
    """Cut off, replaced or missing: the others are read."""
    journal = begun(tmp_path)
    shipper = ShippedJournal(store, FIRST, journal)
    for ordinal in range(4):
        journal.append(answered(ordinal, size=5000))
        shipper.ship()
    names = [stat.key for stat in store.list(FIRST.journal_prefix)]
    store.put(names[1], (store.get(names[1]) or b"")[:-4])
    store.put(names[2], b"something else")
    store.put(f"{FIRST.journal_prefix}empty-000000.zst", b"")
    found = list(journals_at(store, tmp_path / "none").recovered(FIRST))
    assert [frame for frame in found if frame.ordinal != 1] == [answered(0, 5000), answered(3, 5000)]


def test_a_sweep_ships_dead_workers_journals_only(tmp_path: Path, store: Store) -> None:
    """In segments that fit into memory; what belongs to a sealed chunk just goes."""
    dead, alive = begun(tmp_path, frames=5), begun(tmp_path, name="1-w1", frames=1)
    dead.close()
    begun(tmp_path, OTHER, frames=3).close()
    store.put(OTHER.data_key, b"shard")
    (tmp_path / "something else").mkdir()
    journals_at(store, tmp_path).sweep()
    assert [path.name for path in (tmp_path / str(FIRST)).iterdir()] == ["1-w1.journal"]
    assert not (tmp_path / str(OTHER)).exists()
    assert keys(store) == ["000-000000/0-w0-left-000000.zst"]
    alive.close()
    for root in (tmp_path, tmp_path, tmp_path / "none"):
        journals_at(store, root).sweep()
    assert not (tmp_path / str(FIRST)).exists()
    assert list(journals_at(store, tmp_path).recovered(FIRST)) == [*map(answered, range(5)), answered(0)]


def test_journals_of_an_older_version_are_swept_and_read(tmp_path: Path, store: Store) -> None:
    """Its journals here go into segments of the present format; its segments in the store are read as they are."""
    wanted = [sent(0), answered(0), sent(1)]
    path = tmp_path / str(FIRST) / "1-w1.journal"
    path.parent.mkdir()
    path.write_bytes(first_journal(wanted))
    assert list(journals_at(store, tmp_path).recovered(FIRST)) == wanted
    store.put(
        f"{FIRST.journal_prefix}0-w0-000000.zst", pa.Codec("zstd").compress(first_journal([sent(2)]), asbytes=True)
    )
    journals_at(store, tmp_path).sweep()
    assert list(journals_at(store, tmp_path).recovered(FIRST)) == [sent(2), *wanted]
    swept = store.get(f"{FIRST.journal_prefix}1-w1-left-000000.zst")
    assert pa.CompressedInputStream(pa.BufferReader(swept), "zstd").read().startswith(MAGIC)


def test_a_large_journal_is_swept_in_segments(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """No segment is much larger than SEGMENT_BYTES."""
    monkeypatch.setattr(stillhouse.gen.journal.shipping, "SEGMENT_BYTES", 150)  # three frames
    begun(tmp_path, frames=10).close()
    journals_at(store, tmp_path).sweep()
    assert len(keys(store)) == 4
    assert list(journals_at(store, tmp_path).recovered(FIRST)) == [*map(answered, range(10))]


def whole(store: Store, root: Path) -> set[str]:
    """The workers that left everything, as a new owner on this node finds."""
    found = journals_at(store, root).recovered(FIRST)
    assert list(found) or not found.whole
    return found.whole


def test_a_sweep_shows_whose_journals_are_complete(tmp_path: Path, store: Store) -> None:
    """A journal here, or a part of it in the store, may be all there is, or not."""
    journal = begun(tmp_path, name=NAME, frames=3)
    ShippedJournal(store, FIRST, journal).ship()
    journal.append(sent(3))
    assert whole(store, tmp_path) == whole(store, tmp_path / "none") == set()
    journal.close()
    assert whole(store, tmp_path) == set()
    journals_at(store, tmp_path).sweep()
    assert whole(store, tmp_path) == whole(store, tmp_path / "none") == {"node.worker-1"}


def test_an_unfinished_frame_is_not_missing(tmp_path: Path, store: Store) -> None:
    """Its writer was killed before it sent anything."""
    journal = begun(tmp_path, name=NAME, frames=3)
    journal.close()
    os.truncate(journal.path, journal.size - 5)
    journals_at(store, tmp_path).sweep()
    assert whole(store, tmp_path) == {"node.worker-1"}


@pytest.mark.parametrize("how", ["frame", "length", "tail", "segment", "cut", "boot", "old name"])
def test_journals_that_may_be_incomplete_never_count_as_complete(tmp_path: Path, store: Store, how: str) -> None:
    """Damage before or after the sweep, a crash of the machine, a name that does not say who wrote it."""
    name = {"boot": "0-00000000-node.worker-1", "old name": "0-node.worker-1"}.get(how, NAME)
    journal = begun(tmp_path, name=name, frames=3)
    journal.close()
    data = bytearray(journal.path.read_bytes())
    if how == "frame":
        data[40] ^= 1
    elif how == "length":
        data[8:12] = bytes(4)
    elif how == "tail":
        data += bytes(20)
    journal.path.write_bytes(data)
    journals_at(store, tmp_path).sweep()
    segment = f"{FIRST.journal_prefix}{name}-left-000000.zst"
    if how == "segment":
        store.delete(segment)
    elif how == "cut":
        store.put(segment, (store.get(segment) or b"")[:-4])
    assert whole(store, tmp_path) == set()


def test_a_worker_that_gets_a_chunk_back_reports_it_before_it_asks(tmp_path: Path, store: Store) -> None:
    """Its first journal, which is whole, must not pass for all that it sent."""
    begun(tmp_path, name=NAME, frames=3).close()
    journals_at(store, tmp_path).sweep()
    again = begun(tmp_path / "other disk", name=NAME.replace("0-", "1-", 1))
    shipper = ShippedJournal(store, FIRST, again)
    shipper.announce()
    assert whole(store, tmp_path) == set()
    again.append(sent(4))
    shipper.ship()
    again.close()
    assert whole(store, tmp_path) == set()
    journals_at(store, tmp_path / "other disk").sweep()
    assert whole(store, tmp_path) == {"node.worker-1"}


def test_a_journal_swept_while_it_is_recovered_is_found(tmp_path: Path, store: Store) -> None:
    """Whichever comes first: it is here or it is in the store."""
    for round_ in range(5):
        root = tmp_path / str(round_)
        begun(root, frames=20).close()
        swept = threading.Thread(target=journals_at(store, root).sweep)
        swept.start()
        found = journals_at(store, root).recovered(FIRST)
        assert {frame.ordinal for frame in found} == set(range(20))
        swept.join()
        journals_at(store, root).forget(FIRST)


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("read", [1, 3])
def test_an_abandoned_recovery_leaves_no_file_open(
    remote: bool, read: int, tmp_path: Path, store: Store, recwarn: pytest.WarningsRecorder
) -> None:
    """Whichever journal it was reading."""
    journals = journals_at(store if remote else open_dataset(recipe_of(tmp_path)), tmp_path)
    for name in ("0-w0", "0-w1", "0-w2"):
        begun(tmp_path, name=name, frames=2).close()
    found = iter(journals.recovered(FIRST))
    assert [next(found).ordinal for _ in range(read)] == [0, 1, 0][:read]
    del found
    gc.collect()
    assert [str(each.message) for each in recwarn if each.category is ResourceWarning] == []


@pytest.mark.parametrize("remote", [False, True])
def test_a_journal_that_cannot_be_read_leaves_no_other_open(
    remote: bool, tmp_path: Path, store: Store, recwarn: pytest.WarningsRecorder
) -> None:
    """The error names it."""
    journals = journals_at(store if remote else open_dataset(recipe_of(tmp_path)), tmp_path)
    begun(tmp_path, name="0-w0", frames=2).close()
    (tmp_path / str(FIRST) / "0-w1.journal").mkdir()
    with pytest.raises(StoreAway, match=r"0-w1\.journal: the journal can't be read"):
        list(journals.recovered(FIRST))
    gc.collect()
    assert [str(each.message) for each in recwarn if each.category is ResourceWarning] == []


def test_a_chunk_that_cannot_be_opened_leaves_its_journal_to_the_next_owner(tmp_path: Path) -> None:
    """Which would otherwise wait for a writer that lives, but writes nothing."""
    write_source(tmp_path, questions(3))
    recipe = recipe_of(tmp_path)
    index(recipe)
    store = open_dataset(recipe)
    folder = journal_root(store, recipe.run) / str(FIRST)
    (folder / "0-w0.journal").mkdir(parents=True)
    hands = Hands("w1", recipe=recipe, store=store, teacher_of=teachers_of(recipe), clock=SYSTEM)
    with pytest.raises(StoreAway, match=r"0-w0\.journal: the journal can't be read"):
        hands.open(Grant(FIRST))
    (folder / "0-w0.journal").rmdir()
    assert len(leftovers(folder)) == 1
    assert hands.is_free(FIRST)


def test_journals_of_a_sealed_chunk_are_deleted(tmp_path: Path, store: Store) -> None:
    """Here and in the store; no others."""
    for chunk in (FIRST, OTHER):
        journal = begun(tmp_path, chunk, frames=2)
        ShippedJournal(store, chunk, journal).ship()
        journal.close()
    journals_at(store, tmp_path).forget(FIRST)
    assert not (tmp_path / str(FIRST)).exists()
    assert keys(store) == ["000-000001/0-w0-000000.zst"]


def test_a_local_dataset_needs_no_shipping(tmp_path: Path) -> None:
    """Its journals are where the next owner looks; a sweep leaves what is not sealed."""
    recipe = recipe_of(tmp_path)
    store = open_dataset(recipe)
    root = journal_root(store, recipe.run)
    assert root == tmp_path / "out" / "_stillhouse" / "journal"
    journal = begun(root, frames=3)
    shipper = journals_at(store, root).live(FIRST, journal)
    shipper.ship()
    assert shipper.behind_bytes == 0
    journal.close()
    journals_at(store, root).sweep()
    assert len(list(journals_at(store, root).recovered(FIRST))) == 3
    store.put(FIRST.data_key, b"shard")
    journals_at(store, root).sweep()
    assert not (root / str(FIRST)).exists()


def test_a_nodes_folder_belongs_to_one_dataset(tmp_path: Path, store: Store, s3: S3Server) -> None:
    """The same one for every run; a different one at another URL, and for another dataset at this one."""
    recipe = recipe_of(tmp_path, run={"journal_dir": str(tmp_path / "node")})
    other = open_store("s3://lake/other", endpoint_url=s3.endpoint_url)
    bind(store, recipe)
    other.put_new(RECIPE_KEY, store.get(RECIPE_KEY) or b"")  # a copy
    folder = journal_root(store, recipe.run)
    assert folder.parent == tmp_path / "node"
    assert folder == journal_root(store, recipe.run) != journal_root(other, recipe.run)
    store.delete(RECIPE_KEY)
    bind(store, recipe)
    assert folder != journal_root(store, recipe.run)


@pytest.mark.parametrize(("ends_with", "name"), [("", "s3://lake/out"), ("changes: 2\n", "s3://lake/out 2")])
def test_journals_of_datasets_from_before_they_had_a_name_are_found(
    tmp_path: Path, store: Store, ends_with: str, name: str
) -> None:
    """Their folder's name is a hash of the URL and of how often they were bound again."""
    bind(store, recipe_of(tmp_path))
    head, _, _ = (store.get(RECIPE_KEY) or b"").decode().partition("journals: ")
    store.put(RECIPE_KEY, f"{head}{ends_with}".encode())
    folder = journal_root(store, recipe_of(tmp_path, run={"journal_dir": str(tmp_path / "node")}).run)
    assert folder.name == hashlib.sha256(name.encode()).hexdigest()[:16]
