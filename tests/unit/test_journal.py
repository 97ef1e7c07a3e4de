"""The journal: whatever happens to the file, what is read back was written, and what was written whole is read back."""

import io
import itertools
import json
import logging
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pyarrow as pa
import pytest
from first_journals import FIRST_KINDS, FIRST_MAGIC, first_frame, first_of, first_payload
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gen.errors import DatasetError, StoreAway
from stillhouse.gen.journal.file import READ_BYTES, JournalFile, is_dead, leftovers
from stillhouse.gen.journal.frames import COMPRESSED, EVENT_STREAM, MAGIC, Frame, Kind, decode, encode, frames
from stillhouse.gen.journal.local import SyncedJournal

FIXTURE = Path(__file__).parents[1] / "fixtures" / "first_format" / "dataset" / "_stillhouse" / "journal"

_TEXT = st.text(st.characters(codec="utf-8"), max_size=60)


def _frames_of(kinds: st.SearchStrategy[Kind]) -> st.SearchStrategy[Frame]:
    return st.builds(
        Frame,
        kind=kinds,
        ordinal=st.integers(0, 2**32 - 1),
        at=st.floats(min_value=0, max_value=4e9, allow_nan=False),
        latency_s=st.floats(0, 1e6, width=32),
        status=st.integers(0, 2**16 - 1),
        endpoint=_TEXT,
        body=st.binary(max_size=300),
        headers=st.lists(st.tuples(_TEXT, _TEXT), max_size=3).map(tuple),
        teacher=st.none() | st.integers(0, 2**16 - 2),
        stage=st.integers(0, 2**8 - 1),
        flags=st.sampled_from([0, 0, COMPRESSED, EVENT_STREAM, COMPRESSED | EVENT_STREAM]),
    )


_FRAMES = st.lists(_frames_of(st.sampled_from(Kind)), max_size=12)
_FIRST_FRAMES = st.lists(_frames_of(st.sampled_from(FIRST_KINDS)).map(first_of), max_size=12)


class Written:
    """A journal file in memory: its frames, its bytes, and where each frame ends."""

    def __init__(self, wanted: list[Frame], *, first: bool = False) -> None:
        self.wanted = wanted
        self.data = FIRST_MAGIC if first else MAGIC
        self.ends: list[int] = []
        for frame in wanted:
            self.data += first_frame(first_payload(frame)) if first else b"".join(encode(frame))
            self.ends.append(len(self.data))

    def __repr__(self) -> str:
        return f"{self.data[:8].decode()} {self.wanted}"


_WRITTEN = _FRAMES.map(Written) | _FIRST_FRAMES.map(lambda wanted: Written(wanted, first=True))
"""Journals of both versions."""


def read(data: bytes) -> list[Frame]:
    """The frames in these bytes."""
    return list(frames(io.BytesIO(data), origin="here"))


def is_subsequence(found: list[Frame], wanted: list[Frame]) -> bool:
    """True if everything found was written, in that order."""
    rest = iter(wanted)
    return all(any(frame == other for other in rest) for frame in found)


@contextmanager
def warnings() -> Iterator[list[str]]:
    """What is logged as a warning meanwhile."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("stillhouse")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def test_a_frame_is_laid_out_as_documented() -> None:
    """Byte for byte: what is on users' disks is read forever."""
    pairs = b'[["content-type","text/event-stream"],["retry-after","7"]]'
    payload = struct.pack("<BBBHIdfHBI", 2, 2, 3, 4, 5, 6.5, 7.5, 200, 5, len(pairs))
    payload += "höst".encode() + pairs + b"data: {}"
    frame = Frame(
        Kind.ANSWERED,
        5,
        6.5,
        7.5,
        200,
        "höst",
        b"data: {}",
        (("content-type", "text/event-stream"), ("retry-after", "7")),
        teacher=4,
        stage=3,
        flags=EVENT_STREAM,
    )
    data = struct.pack("<II", len(payload), zlib.crc32(b"STILLJ02" + payload)) + payload
    assert b"".join(encode(frame)) == data
    assert read(b"STILLJ02" + data) == [frame]
    bare = struct.pack("<BBBHIdfHBI", 1, 0, 0, 65535, 9, 1.0, 0.0, 0, 0, 0)
    data = struct.pack("<II", len(bare), zlib.crc32(b"STILLJ02" + bare)) + bare
    assert encode(Frame(Kind.SENT, 9, 1.0)) == [data]
    assert [kind.name for kind in sorted(Kind)] == [
        "SENT", "ANSWERED", "NOT_SENT", "LOST", "DIED", "CUT", "VERDICT", "DECIDED", "INTENT", "SUBMITTED",
    ]  # fmt: skip


@given(_WRITTEN)
def test_frames_come_back_as_they_were_written(written: Written) -> None:
    """Every kind, any body, any order, both versions."""
    assert read(written.data) == written.wanted


@given(_FRAMES)
def test_a_file_reads_as_its_segments_do(tmp_path_factory: pytest.TempPathFactory, wanted: list[Frame]) -> None:
    """`append` writes what `encode` says, `read` finds it again, and `tail` is what a segment ships."""
    journal = JournalFile.create(tmp_path_factory.mktemp("journal") / "0-w.journal")
    places = [journal.append(frame) for frame in wanted]
    assert [journal.read(*place) for place in places] == wanted
    assert MAGIC + journal.tail(len(MAGIC)) == journal.path.read_bytes() == Written(wanted).data
    journal.remove()


@given(_WRITTEN, st.data())
def test_a_torn_tail_costs_only_the_torn_frame(written: Written, data: st.DataObject) -> None:
    """Cut anywhere, filled up with zeros or not, the frames before the cut can be read."""
    whole = written.data
    cut = data.draw(st.integers(len(MAGIC), len(whole)))
    filled = whole[:cut] + bytes(data.draw(st.integers(0, 200)))
    # Zeros may be just what stood there.
    intact = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(whole, filled, strict=False)))
    assert read(filled) == written.wanted[: sum(end <= intact for end in written.ends)]


@given(_WRITTEN, st.data())
def test_a_changed_byte_costs_only_its_frame(written: Written, data: st.DataObject) -> None:
    """Any byte, even in the file's head: a frame states its own version."""
    place = data.draw(st.integers(0, len(written.data) - 1))
    damaged = bytearray(written.data)
    damaged[place] ^= data.draw(st.integers(1, 255))
    if damaged[:6] == MAGIC[:6] and damaged[6:8] > MAGIC[6:]:
        with pytest.raises(DatasetError):
            read(bytes(damaged))
        return
    hit = sum(end <= place for end in written.ends) if place >= len(MAGIC) else len(written.ends)
    assert read(bytes(damaged)) == written.wanted[:hit] + written.wanted[hit + 1 :]


@given(_WRITTEN, st.data())
def test_no_damage_makes_up_a_frame(written: Written, data: st.DataObject) -> None:
    """A stretch of other bytes in the middle, of another length too: only written frames are found."""
    whole = written.data
    start, end = sorted(data.draw(st.tuples(*[st.integers(len(MAGIC), len(whole))] * 2)))
    damaged = whole[:start] + data.draw(st.binary(max_size=50)) + whole[end:]
    assert is_subsequence(read(damaged), written.wanted)


@given(_FRAMES, st.data())
def test_frames_of_later_releases_are_skipped_with_one_warning(wanted: list[Frame], data: st.DataObject) -> None:
    """Unknown kinds and flags, anywhere in a file: the frames between them are read."""
    kinds = st.integers(0, 255).filter(lambda kind: kind not in list(Kind)).map(lambda kind: cast("Kind", kind))
    unknown = _frames_of(kinds) | st.builds(
        lambda frame, flag: frame._replace(flags=frame.flags & ~COMPRESSED | flag),
        _frames_of(st.sampled_from(Kind)),
        st.integers(2, 7).map(lambda bit: 1 << bit),
    )
    file, added = MAGIC, 0
    for frame in [*wanted, None]:
        for other in data.draw(st.lists(unknown, max_size=2)):
            added += 1
            file += b"".join(encode(other))
        file += b"" if frame is None else b"".join(encode(frame))
    with warnings() as said:
        assert read(file) == wanted
    assert len(said) == min(added, 1)
    assert all(text.startswith("here: has a frame of kind ") and "newer version" in text for text in said)


def test_an_unknown_kind_in_a_first_journal_is_skipped() -> None:
    """The first format had no more kinds than six, and no flags."""
    strange = first_frame(struct.pack("<BId", 77, 1, 1.0))
    frame = first_frame(first_payload(Frame(Kind.SENT, 1, 1.0)))
    with warnings() as said:
        assert read(FIRST_MAGIC + strange + frame + strange) == [Frame(Kind.SENT, 1, 1.0)]
    assert said == [
        "here: has a frame of kind 77 with flags 0, which only a newer version of Stillhouse reads; "
        "such frames are skipped"
    ]


@given(st.sampled_from([Kind.VERDICT, Kind.DECIDED, Kind.INTENT, Kind.SUBMITTED]), st.dictionaries(_TEXT, _TEXT))
def test_a_note_can_hold_any_object(kind: Kind, said: dict[str, str]) -> None:
    """Its keys are its readers' business."""
    frame = Frame(kind, 1, 2.0, body=json.dumps(said).encode(), stage=1)
    (found,) = read(Written([frame]).data)
    assert json.loads(found.body) == said


def test_a_body_is_compressed_only_on_disk() -> None:
    """A reader doesn't notice the compression."""
    frame = Frame(Kind.ANSWERED, 1, 2.0, 0.5, 200, "host", b"data: {}\n\n" * 5000, flags=COMPRESSED | EVENT_STREAM)
    data = b"".join(encode(frame))
    assert len(data) < 1000
    assert decode(data) == frame
    assert read(MAGIC + data) == [frame]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x01\x00",
        struct.pack("<I", 4) + b"no zstd",
        struct.pack("<I", 2**32 - 1) + pa.Codec("zstd").compress(b"bomb", asbytes=True),
        struct.pack("<I", 5) + pa.Codec("zstd").compress(b"longer than it says", asbytes=True),
    ],
)
def test_a_body_that_cannot_be_decompressed_costs_only_its_frame(body: bytes) -> None:
    """Also where its length would fill the memory."""
    payload = struct.pack("<BBBHIdfHBI", 2, COMPRESSED, 0, 0, 1, 1.0, 0.5, 200, 0, 0) + body
    strange = struct.pack("<II", len(payload), zlib.crc32(MAGIC + payload)) + payload
    sent = Frame(Kind.SENT, 7, 1.0)
    assert decode(strange) is None
    assert read(MAGIC + strange + b"".join(encode(sent))) == [sent]


def test_journals_of_the_first_release_are_read_frame_by_frame() -> None:
    """Real ones: every byte of theirs is in a frame that was found."""
    paths = sorted(FIXTURE.rglob("*.journal"))
    assert len(paths) == 5
    kinds: list[Kind] = []
    for path in paths:
        with warnings() as said, path.open("rb") as file:
            found = list(frames(file, origin=path.name))
        assert not said
        assert FIRST_MAGIC + b"".join(first_frame(first_payload(frame)) for frame in found) == path.read_bytes()
        assert all(frame == first_of(frame) for frame in found)
        kinds += [frame.kind for frame in found]
        answers = [frame for frame in found if frame.kind is Kind.ANSWERED]
        assert all(frame.endpoint and frame.status for frame in answers)
        assert all(json.loads(frame.body)["choices"] for frame in answers if frame.status == 200)
    assert kinds.count(Kind.ANSWERED) >= 17


def test_frames_after_a_damaged_stretch_larger_than_the_window_are_found() -> None:
    """Two megabytes of zeros and of plausible lengths, then a frame."""
    frame = Frame(Kind.SENT, 7, 1.0)
    last = b"".join(encode(frame))
    assert read(MAGIC + bytes(2**21) + last) == [frame]
    assert read(MAGIC + struct.pack("<II", 2**26, 0) * 1000 + bytes(2**10) + last) == [frame]


def test_a_large_body_survives_a_round_trip() -> None:
    """As large as the largest reply."""
    frame = Frame(Kind.ANSWERED, 1, 2.0, 0.5, 200, "host", b"x" * 2**26)
    assert read(Written([frame, frame._replace(body=b"y")]).data) == [frame, frame._replace(body=b"y")]


def test_an_endpoints_name_is_cut_to_fit() -> None:
    """Also where the cut falls into a character."""
    frame = Frame(Kind.ANSWERED, 1, 2.0, 0.5, 200, "ä" * 200, b"body")
    (found,) = read(Written([frame]).data)
    assert found.body == b"body"
    assert found.endpoint.startswith("ä" * 127)


@pytest.mark.parametrize("version", [b"03", b"10"])
def test_a_newer_version_is_refused(version: bytes) -> None:
    """The message names the file and says what to do."""
    with pytest.raises(DatasetError, match=r"here: written by a newer version .*use that version"):
        read(MAGIC[:6] + version + b"".join(encode(Frame(Kind.SENT, 1, 1.0))))


def test_an_empty_or_foreign_file_holds_nothing() -> None:
    """A file from a crash before its head was written, and a file of another kind."""
    assert read(b"") == read(MAGIC[:3]) == read(b"something else altogether") == []


def test_data_changed_on_disk_is_not_returned(tmp_path: Path) -> None:
    """`read` checks what it reads: a damaged frame is not an answer."""
    journal = JournalFile.create(tmp_path / "0-w.journal")
    place = journal.append(Frame(Kind.ANSWERED, 1, 2.0, 0.5, 200, "host", b"body"))
    with journal.path.open("r+b") as file:
        file.seek(place[0] + place[1] - 1)
        file.write(b"?")
    with pytest.raises(StoreAway, match="changed on disk"):
        journal.read(*place)
    with pytest.raises(StoreAway, match="changed on disk"):
        list(journal.read_each([place]))


@given(st.data())
def test_frames_are_read_back_in_any_order(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever lies between them."""
    journal = JournalFile.create(tmp_path_factory.mktemp("journals") / "0-w.journal")
    sizes = data.draw(st.lists(st.sampled_from([0, 10, 2**13, 2**15, 2**19, READ_BYTES + 1]), max_size=12))
    written = [Frame(Kind.ANSWERED, number, 1.0, body=b"x" * size) for number, size in enumerate(sizes)]
    places = [journal.append(frame) for frame in written]
    numbers = data.draw(st.lists(st.sampled_from(range(len(sizes))))) if sizes else []
    assert list(journal.read_each(places[number] for number in numbers)) == [written[number] for number in numbers]
    journal.remove()


def test_small_frames_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand answers of a kilobyte each, in the order of their prompts, take two reads."""
    journal = JournalFile.create(tmp_path / "0-w.journal")
    places = [journal.append(Frame(Kind.ANSWERED, number, 1.0, body=b"x" * 2**10)) for number in range(1000)]
    reads: list[int] = []
    pread = os.pread

    def counted(fd: int, length: int, offset: int) -> bytes:
        reads.append(length)
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    found = list(journal.read_each(places[number * 7 % 1000] for number in range(1000)))
    assert [frame.ordinal for frame in found] == [number * 7 % 1000 for number in range(1000)]
    assert len(reads) == 2
    assert max(reads) <= 2 * READ_BYTES


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


def test_a_journal_may_be_closed_while_others_sync_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk is given up or sealed whenever it is; the thread that syncs or ships it fails on no foreign file."""
    journal = JournalFile.create(tmp_path / "w.journal")
    place = journal.append(Frame(Kind.SENT, 0, 1.0))
    fdatasync = os.fdatasync

    def closing(fd: int) -> None:
        journal.close()
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", closing)
    SyncedJournal(journal).ship()
    assert is_dead(journal.path)
    monkeypatch.undo()
    SyncedJournal(journal).ship()
    assert journal.tail(0) == b""
    for use in (lambda: journal.append(Frame(Kind.SENT, 0, 1.0)), lambda: journal.read(*place)):
        with pytest.raises(StoreAway, match="Bad file descriptor"):
            use()


def test_a_journal_is_locked_within_its_process_too(tmp_path: Path) -> None:
    """Two workers of one process are two writers; a journal that is closed or gone has none."""
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
def test_a_full_disk_tears_no_frame(tmp_path: Path, limit: int) -> None:
    """The file may only grow to a limit: frames for which `append` returned are there, the rest is StoreAway."""
    path = tmp_path / "0-w.journal"
    done = subprocess.run(
        [sys.executable, "-c", _FILLER, str(path), str(limit)], capture_output=True, text=True, check=True
    )
    found = read(path.read_bytes()) if path.exists() else []
    assert [frame.ordinal for frame in found] == [int(number) for number in done.stdout.split()]
    assert path.exists() == (limit >= len(MAGIC))
    assert list(tmp_path.iterdir()) == [path] * path.exists()


def test_a_folder_that_cannot_be_created_counts_as_away(tmp_path: Path) -> None:
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


def test_reading_back_large_frames_holds_few(tmp_path: Path) -> None:
    """The same for sixty-four of a megabyte in the order of their prompts."""
    journal = JournalFile.create(tmp_path / "0-w.journal")
    body = b"x" * 2**20
    places = [journal.append(Frame(Kind.ANSWERED, number, 1.0, body=body)) for number in range(64)]
    tracemalloc.start()
    assert sum(1 for _ in journal.read_each(reversed(places))) == 64
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()
