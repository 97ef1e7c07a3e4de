"""The journal: whatever happens to the file, what is read back was written, and what was written whole is read back."""

import io
import itertools
import struct
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gen.errors import DatasetError, StoreAway
from stillhouse.gen.journal.file import JournalFile, is_dead, leftovers
from stillhouse.gen.journal.frames import MAGIC, Frame, Kind, encode, frames

_AT = st.floats(min_value=0, max_value=4e9, allow_nan=False)
_ORDINALS = st.integers(0, 2**32 - 1)
_EVENTS = st.builds(Frame, st.sampled_from([kind for kind in Kind if kind is not Kind.ANSWERED]), _ORDINALS, _AT)
_ANSWERS = st.builds(
    Frame,
    st.just(Kind.ANSWERED),
    _ORDINALS,
    _AT,
    st.floats(0, 1e6, width=32),
    st.integers(0, 2**16 - 1),
    st.text(st.characters(codec="utf-8"), max_size=60),
    st.binary(max_size=300),
)
_FRAMES = st.lists(st.one_of(_EVENTS, _ANSWERS), max_size=12)


def read(data: bytes) -> list[Frame]:
    """The frames in these bytes."""
    return list(frames(io.BytesIO(data), origin="here"))


def written(wanted: list[Frame]) -> tuple[bytes, list[int]]:
    """A file of these frames, and where each ends."""
    data, ends = MAGIC, []
    for frame in wanted:
        data += b"".join(encode(frame))
        ends.append(len(data))
    return data, ends


def is_subsequence(found: list[Frame], wanted: list[Frame]) -> bool:
    """Whether all that was found was written, in that order."""
    rest = iter(wanted)
    return all(any(frame == other for other in rest) for frame in found)


@given(_FRAMES)
def test_frames_come_back_as_they_were_written(wanted: list[Frame]) -> None:
    """Every kind, any body, any order."""
    assert read(written(wanted)[0]) == wanted


@given(_FRAMES)
def test_a_file_reads_as_its_segments_do(tmp_path_factory: pytest.TempPathFactory, wanted: list[Frame]) -> None:
    """`append` writes what `encode` says, `read` finds it again, and `tail` is what a segment ships."""
    journal = JournalFile.create(tmp_path_factory.mktemp("journal") / "0-w.journal")
    places = [journal.append(frame) for frame in wanted]
    assert [journal.read(*place) for place in places] == wanted
    assert MAGIC + journal.tail(len(MAGIC)) == journal.path.read_bytes() == written(wanted)[0]
    journal.remove()


@given(_FRAMES, st.data())
def test_a_torn_tail_costs_the_torn_frame_alone(wanted: list[Frame], data: st.DataObject) -> None:
    """Cut anywhere, filled up with zeros or not: the frames before the cut are there."""
    whole, ends = written(wanted)
    cut = data.draw(st.integers(len(MAGIC), len(whole)))
    filled = whole[:cut] + bytes(data.draw(st.integers(0, 200)))
    # Zeros may be just what stood there.
    intact = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(whole, filled, strict=False)))
    assert read(filled) == wanted[: sum(end <= intact for end in ends)]


@given(_FRAMES, st.data())
def test_a_flipped_bit_costs_the_frame_it_hit_alone(wanted: list[Frame], data: st.DataObject) -> None:
    """Whatever bit behind the file's head."""
    whole, ends = written(wanted)
    if len(whole) == len(MAGIC):
        return
    place = data.draw(st.integers(len(MAGIC), len(whole) - 1))
    damaged = bytearray(whole)
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    hit = sum(end <= place for end in ends)
    assert read(bytes(damaged)) == wanted[:hit] + wanted[hit + 1 :]


@given(_FRAMES, st.data())
def test_no_damage_makes_up_a_frame(wanted: list[Frame], data: st.DataObject) -> None:
    """A stretch of other bytes in the middle, of another length too: only written frames are found."""
    whole, _ = written(wanted)
    start, end = sorted(data.draw(st.tuples(*[st.integers(len(MAGIC), len(whole))] * 2)))
    damaged = whole[:start] + data.draw(st.binary(max_size=50)) + whole[end:]
    assert is_subsequence(read(damaged), wanted)


def test_frames_behind_a_stretch_larger_than_the_window_are_found() -> None:
    """Two megabytes of zeros and of plausible lengths, then a frame."""
    frame = Frame(Kind.SENT, 7, 1.0)
    last = b"".join(encode(frame))
    assert read(MAGIC + bytes(2**21) + last) == [frame]
    assert read(MAGIC + struct.pack("<II", 2**26, 0) * 1000 + bytes(2**10) + last) == [frame]


def test_a_large_body_comes_back() -> None:
    """As large as the largest reply."""
    frame = Frame(Kind.ANSWERED, 1, 2.0, 0.5, 200, "host", b"x" * 2**26)
    assert read(written([frame, replace(frame, body=b"y")])[0]) == [frame, replace(frame, body=b"y")]


def test_an_endpoint_s_name_is_cut_to_what_fits() -> None:
    """Also where the cut falls into a character."""
    frame = Frame(Kind.ANSWERED, 1, 2.0, 0.5, 200, "ä" * 200, b"body")
    (found,) = read(written([frame])[0])
    assert found.body == b"body"
    assert found.endpoint.startswith("ä" * 127)


@pytest.mark.parametrize("version", [b"02", b"10"])
def test_a_newer_version_is_refused(version: bytes) -> None:
    """It is told by the file's name what to do."""
    with pytest.raises(DatasetError, match=r"here: written by a newer version .*use that version"):
        read(MAGIC[:6] + version + b"".join(encode(Frame(Kind.SENT, 1, 1.0))))


def test_an_empty_or_foreign_file_holds_nothing() -> None:
    """A file of a crash before its head was written, and one of something else."""
    assert read(b"") == read(MAGIC[:3]) == read(b"something else altogether") == []


def test_what_changed_on_disk_is_not_given_back(tmp_path: Path) -> None:
    """`read` checks what it reads: a damaged frame is no answer."""
    journal = JournalFile.create(tmp_path / "0-w.journal")
    place = journal.append(Frame(Kind.ANSWERED, 1, 2.0, 0.5, 200, "host", b"body"))
    with journal.path.open("r+b") as file:
        file.seek(place[0] + place[1] - 1)
        file.write(b"?")
    with pytest.raises(StoreAway, match="changed on disk"):
        journal.read(*place)


_WRITER = """
import sys, pathlib
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.frames import Frame, Kind
journal = JournalFile.create(pathlib.Path(sys.argv[1]))
journal.append(Frame(Kind.SENT, 1, 1.0))
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_journal_is_locked_as_long_as_its_writer_lives(tmp_path: Path) -> None:
    """A real second process; killed, its journal is dead and holds what it wrote."""
    path = tmp_path / "000-000001" / "0-w.journal"
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        assert leftovers(path.parent) == [path]
        assert not is_dead(path)
        writer.kill()
        writer.wait()
    assert is_dead(path)
    assert read(path.read_bytes()) == [Frame(Kind.SENT, 1, 1.0)]


def test_a_journal_is_locked_within_its_process_too(tmp_path: Path) -> None:
    """Two workers of one process are two writers; a closed journal is dead, a gone one too."""
    journal = JournalFile.create(tmp_path / "0-w.journal")
    assert not is_dead(journal.path)
    journal.close()
    journal.close()
    assert is_dead(journal.path)
    journal.remove()
    assert is_dead(journal.path)
    assert leftovers(tmp_path) == leftovers(tmp_path / "none") == []


_FILLER = """
import pathlib, resource, sys
from stillhouse.gen.errors import StoreAway
from stillhouse.gen.journal.file import JournalFile
from stillhouse.gen.journal.frames import Frame, Kind
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    journal = JournalFile.create(pathlib.Path(sys.argv[1]))
except StoreAway as error:
    sys.exit("can't be written" not in str(error))
for number in range(40):
    try:
        journal.append(Frame(Kind.ANSWERED, number, 1.0, 0.5, 200, "host", b"x" * (7 * number)))
    except StoreAway as error:
        assert "can't be written" in str(error), error
    else:
        print(number)
"""


@pytest.mark.parametrize("limit", [0, 4, 8, 9, 100, 200, 1000, 1021, 4096])
def test_a_full_disk_tears_nothing(tmp_path: Path, limit: int) -> None:
    """The file may grow so far and no further: what `append` returned for is there, the rest is StoreAway."""
    path = tmp_path / "0-w.journal"
    done = subprocess.run(
        [sys.executable, "-c", _FILLER, str(path), str(limit)], capture_output=True, text=True, check=True
    )
    found = read(path.read_bytes()) if path.exists() else []
    assert [frame.ordinal for frame in found] == [int(number) for number in done.stdout.split()]
    assert path.exists() == (limit >= len(MAGIC))
    assert list(tmp_path.iterdir()) == [path] * path.exists()


def test_a_folder_that_can_t_be_made_is_away(tmp_path: Path) -> None:
    """A file is where the folder should be."""
    (tmp_path / "000-000001").write_text("")
    with pytest.raises(StoreAway, match="can't be written"):
        JournalFile.create(tmp_path / "000-000001" / "0-w.journal")


def test_reading_a_large_journal_holds_few_frames(tmp_path: Path) -> None:
    """Sixty-four megabytes are read within a few times the largest frame."""
    path = tmp_path / "0-w.journal"
    journal = JournalFile.create(path)
    for number in range(64):
        journal.append(Frame(Kind.ANSWERED, number, 1.0, 0.5, 200, "host", b"x" * 2**20))
    journal.close()
    tracemalloc.start()
    with path.open("rb") as file:
        assert sum(1 for _ in frames(file, origin="here")) == 64
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()
