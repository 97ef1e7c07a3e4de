"""The local store: keys appear whole and once, and what the disk refuses is reported clearly."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from stillhouse.gen.errors import StoreAway, StoreRefused
from stillhouse.gen.store import open_store, split_url
from stillhouse.gen.store.base import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store in a folder that does not exist yet."""
    return open_store(str(tmp_path / "dataset"))


def files_below(folder: Path) -> list[str]:
    """Every file below the folder, by its relative path."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_put_new_creates_a_key_once(store: Store) -> None:
    """The first writer wins and its bytes stay."""
    assert store.put_new("data/a.parquet", b"first")
    assert not store.put_new("data/a.parquet", b"second")
    assert store.get("data/a.parquet") == b"first"
    assert files_below(Path(store.url)) == ["data/a.parquet"]


def test_a_folder_in_place_of_a_file_is_not_taken_for_one(store: Store) -> None:
    """A shard that counted as written would never be found."""
    (Path(store.url) / "data" / "a.parquet").mkdir(parents=True)
    with pytest.raises(StoreRefused, match=r"a\.parquet: expected a file or nothing, found a folder: move it away"):
        store.put_new("data/a.parquet", b"first")


def test_put_new_takes_a_file_from_the_scratch_folder(store: Store) -> None:
    """A shard written aside becomes the object, and the writer removes its own name for it."""
    written = store.scratch() / "shard"
    written.write_bytes(b"shard")
    assert store.put_new("data/a.parquet", written)
    written.unlink()
    assert store.get("data/a.parquet") == b"shard"


def test_put_new_copies_a_file_from_another_file_system(store: Store) -> None:
    """A hard link can't cross file systems, a put can."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == Path(store.url).parent.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    written = other / f"stillhouse-test-{os.getpid()}"
    written.write_bytes(b"far")
    try:
        assert store.put_new("data/a", written)
    finally:
        written.unlink()
    assert store.get("data/a") == b"far"


def test_one_of_eight_racing_threads_creates_the_key(store: Store) -> None:
    """Exactly one True, and the winner's bytes are the object's."""
    start = threading.Barrier(8)

    def race(number: int) -> bool:
        start.wait()
        return store.put_new("data/a", b"%d" % number)

    for _ in range(20):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(race, range(8)))
        assert won.count(True) == 1
        assert store.get("data/a") == b"%d" % won.index(True)
        store.delete("data/a")


def test_one_of_four_racing_processes_creates_each_key(store: Store) -> None:
    """Two hundred races between processes: every key is won once."""
    code = (
        "import sys; from stillhouse.gen.store import open_store\n"
        "store = open_store(sys.argv[1]); print(flush=True); input()\n"
        "print(sum(store.put_new(f'data/{k}', sys.argv[2].encode()) for k in range(200)))"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, store.url, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for n in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        racer.stdout.readline()
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    assert sum(int(racer.communicate(timeout=60)[0]) for racer in racers) == 200
    assert len(list(store.list("data/"))) == 200


def test_puts_survive_deletes_that_empty_their_folder(store: Store) -> None:
    """A delete removes an empty folder; a put at the same time creates it again."""

    def churn(number: int) -> None:
        for _ in range(100):
            store.put(f"journal/000-000001/{number}", b"frame")
            store.delete(f"journal/000-000001/{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(churn, range(4)))
    assert not (Path(store.url) / "journal").exists()
    assert Path(store.url).is_dir()


def test_put_replaces_a_key(store: Store) -> None:
    """The last put counts, and a reader that had opened the key keeps reading the old content."""
    store.put("README.md", b"old")
    with store.open("README.md") as reader:
        store.put("README.md", b"new")
        assert reader.read() == b"old"
    assert store.get("README.md") == b"new"


def test_swap_compares_the_etag(store: Store) -> None:
    """Created if absent, changed by a caller that knows the etag, refused to everyone else."""
    first = store.swap("run.json", b"1", etag=None)
    assert first is not None
    assert store.get_with_etag("run.json") == (b"1", first)
    assert store.swap("run.json", b"x", etag=None) is None
    second = store.swap("run.json", b"2", etag=first)
    assert second is not None
    assert store.swap("run.json", b"x", etag=first) is None
    assert store.get_with_etag("run.json") == (b"2", second)
    store.delete("run.json")
    assert store.swap("run.json", b"x", etag=second) is None


def test_quick_swaps_of_one_size_have_different_etags(store: Store) -> None:
    """Writes within one tick of the clock have different etags."""
    etags = [store.swap("run.json", b"0", etag=None)]
    for number in range(1, 50):
        etags.append(store.swap("run.json", b"%d" % (number % 10), etag=etags[-1]))
    assert None not in etags
    assert len(set(etags)) == 50


def test_one_of_eight_racing_swaps_wins(store: Store) -> None:
    """All of them compare with the same etag."""
    start = threading.Barrier(8)
    etag = store.swap("run.json", b"start", etag=None)

    def race(number: int) -> str | None:
        start.wait()
        return store.swap("run.json", b"%d" % number, etag=etag)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(race, range(8)))
    assert sum(new is not None for new in won) == 1


def test_absent_keys_are_harmless(store: Store) -> None:
    """An absent key reads as None, can be deleted without effect, and opening it raises FileNotFoundError."""
    store.put("a/b", b"")
    for key in ("x", "a", "a/b/c"):
        assert store.get(key) is None
        assert store.stat(key) is None
        assert store.seal_of(key) is None
        store.delete(key)
        with pytest.raises(FileNotFoundError):
            store.open(key)
    assert store.get("a/b") == b""


def test_list_is_in_key_order_and_hides_the_stores_own_files(store: Store) -> None:
    """The order is that of the whole key's bytes, as on S3; the prefix may end within a name."""
    keys = ["a-b", "a.b", "a/b", "a/c/d", "a0", "B", "ü", "a/b0"]
    for key in keys:
        store.put(key, key.encode())
    store.swap("_stillhouse/run.json", b"{}", etag=None)
    (store.scratch() / "half").write_bytes(b"half a shard")
    expected = sorted([*keys, "_stillhouse/run.json"], key=str.encode)
    assert [found.key for found in store.list()] == expected
    assert [found.key for found in store.list("a/")] == ["a/b", "a/b0", "a/c/d"]
    assert [found.key for found in store.list("a/b")] == ["a/b", "a/b0"]
    assert [found.key for found in store.list("a/c/")] == ["a/c/d"]
    assert list(store.list("none/")) == []
    assert all(found == store.stat(found.key) for found in store.list())
    for prefix in ("", "a/", "a/b", "a/c/", "none/"):
        assert list(store.keys(prefix)) == [found.key for found in store.list(prefix)]


def test_links_to_files_are_listed(store: Store) -> None:
    """Those to folders, to nothing and to themselves are not."""
    store.put("data/a", b"whole")
    data = Path(store.url, "data")
    (data / "b").symlink_to("a")
    (data / "c").symlink_to(".")
    (data / "d").symlink_to("nothing")
    (data / "e").symlink_to("e")
    assert list(store.keys("data/")) == ["data/a", "data/b"]
    assert [(found.key, found.size) for found in store.list("data/")] == [("data/a", 5), ("data/b", 5)]


def test_a_missing_folder_lists_as_empty(store: Store) -> None:
    """Nothing is made by looking."""
    assert list(store.list()) == []
    assert not Path(store.url).exists()


def test_a_symlinked_root_is_resolved(tmp_path: Path) -> None:
    """One dataset has one URL, whatever path leads to it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert open_store(f"{tmp_path}/link/").url == str(tmp_path / "real")
    assert open_store(f"{tmp_path}/x/../real").url == str(tmp_path / "real")


def test_probe_leaves_nothing_behind(store: Store, tmp_path: Path) -> None:
    """In a folder that is missing, and in one that is in use."""
    store.probe()
    assert list(tmp_path.iterdir()) == []
    store.put("data/a", b"1")
    store.probe()
    assert files_below(tmp_path) == ["dataset/data/a"]


def test_a_dataset_across_two_file_systems_is_refused(tmp_path: Path) -> None:
    """A file can't be linked from the scratch folder to another disk."""
    (tmp_path / "dataset").mkdir()
    with tmpfs(tmp_path / "dataset" / "data", "size=256k"):
        store = open_store(str(tmp_path / "dataset"))
        with pytest.raises(StoreRefused, match="cross-device"):
            store.put_new("data/a", b"x")


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "a/./b", "a\0b"])
def test_a_key_never_leaves_the_root(store: Store, key: str) -> None:
    """Keys are checked before they become paths."""
    with pytest.raises(StoreRefused, match="expected a key"):
        store.put(key, b"x")


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    """As the root, or as part of a key's path."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreRefused, match="got a file"):
        open_store(str(tmp_path / "file"))
    store = open_store(str(tmp_path))
    with pytest.raises(StoreRefused, match="a file is where a folder should be"):
        store.put("file/x", b"x")
    with pytest.raises(StoreRefused, match="a file is where a folder should be"):
        store.put_new("file/x/y", b"x")


def test_a_folder_without_permissions_is_refused(tmp_path: Path) -> None:
    """The message names the path and says what to do."""
    store = open_store(str(tmp_path / "dataset"))
    with as_nobody(tmp_path), pytest.raises(StoreRefused, match="give this user access"):
        store.put_new("data/a", b"x")
    with as_nobody(tmp_path), pytest.raises(StoreRefused, match="give this user access"):
        store.probe()


def test_a_full_disk_leaves_no_partial_file(tmp_path: Path) -> None:
    """StoreAway says that the disk is full; no object and no temporary file is left, and freed space is enough."""
    with tmpfs(tmp_path / "small", "size=256k") as disk:
        store = open_store(str(disk / "dataset"))
        (disk / "ballast").write_bytes(b"x" * 200_000)
        with pytest.raises(StoreAway, match="the disk is full"):
            store.put_new("data/a", b"x" * 100_000)
        assert files_below(disk) == ["ballast"]
        (disk / "ballast").unlink()
        assert store.put_new("data/a", b"x" * 100_000)


def test_a_read_only_disk_counts_as_away(tmp_path: Path) -> None:
    """What was stored can still be read."""
    with tmpfs(tmp_path / "small", "size=256k") as disk:
        store = open_store(str(disk / "dataset"))
        store.put("data/a", b"x")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(StoreAway, match="read-only"):
            store.put_new("data/b", b"x")
        with pytest.raises(StoreAway, match="read-only"):
            store.probe()
        assert store.get("data/a") == b"x"


def test_a_file_size_limit_is_reported(tmp_path: Path) -> None:
    """The process's own limit stops a write half-way: nothing of it is left."""
    code = (
        "import resource, sys; from stillhouse.gen.store import open_store\n"
        "from stillhouse.gen.errors import StoreAway\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: open_store(sys.argv[1]).put_new('a', b'x' * 5000)\n"
        "except StoreAway as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "ulimit -f" in ran.stdout
    assert files_below(tmp_path) == []


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("", "empty path"),
        ("  ", "empty path"),
        ("gs://bucket/x", "gs:// is not a supported store"),
        ("https://user:canary@host/x", "https:// is not a supported store"),
        ("data\n/x", "control characters"),
        ("s3://", "not a valid bucket name"),
        ("s3:///key", "not a valid bucket name"),
        ("s3://AKIA:canary@bucket/x", "must not hold credentials"),
        ("s3://bucket//x", "without '//'"),
        ("s3://bucket/x/../y", "without '//'"),
        ("s3://bucket/./y", "without '//'"),
    ],
)
def test_malformed_urls_are_refused(url: str, word: str) -> None:
    """With a clear message that doesn't repeat a possible credential."""
    with pytest.raises(StoreRefused, match=word) as refused:
        open_store(url)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "ftp://host", "http://", "http://user:canary@host:9000"])
def test_malformed_endpoints_are_refused(endpoint: str) -> None:
    """Before anything is asked."""
    with pytest.raises(StoreRefused, match="endpoint_url") as refused:
        open_store("s3://bucket/x", endpoint_url=endpoint)
    assert "canary" not in str(refused.value)


def test_s3_urls_are_canonical() -> None:
    """A trailing slash is fine."""
    assert open_store("s3://bucket/a/b/").url == "s3://bucket/a/b"
    assert open_store("s3://bucket").url == "s3://bucket"
    assert open_store("s3://bucket/").url == "s3://bucket"


def test_urls_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root is where no glob is yet; the rest is the key."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "x").mkdir(parents=True)
    assert split_url("s3://b/a/*.parquet") == ("s3://b", "a/*.parquet")
    assert split_url("s3://b/a/") == ("s3://b", "a/")
    assert split_url("s3://b") == ("s3://b", "")
    assert split_url("data/x/*.jsonl") == (str(tmp_path / "data/x"), "*.jsonl")
    assert split_url("data/*/y.jsonl") == (str(tmp_path / "data"), "*/y.jsonl")
    assert split_url("*.csv") == (str(tmp_path), "*.csv")
    assert split_url("data/x/one.jsonl") == (str(tmp_path / "data/x"), "one.jsonl")
    assert split_url("data/x") == (str(tmp_path / "data/x"), "")
    assert split_url("data/x/") == (str(tmp_path / "data/x"), "")


def mounted(*arguments: str) -> bool:
    """True if mounting worked; only root may do it."""
    return os.geteuid() == 0 and subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """A small disk of its own; skips the test if it can't be made."""
    folder.mkdir()
    if not mounted("-t", "tmpfs", "-o", options, "tmpfs", str(folder)):
        pytest.skip("needs root and the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Without rights in the folder, root or not."""
    if os.geteuid() != 0:
        folder.chmod(0o500)
        try:
            yield
        finally:
            folder.chmod(0o700)
        return
    assert folder.stat().st_mode & 0o007 == 0, errno.EACCES
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_impossible_file_name_is_refused(tmp_path: Path) -> None:
    """Whatever asks first."""
    store = open_store(str(tmp_path / ("n" * 300)))
    for ask in (store.probe, lambda: store.is_locked("run.json"), lambda: store.get("x")):
        with pytest.raises(StoreRefused, match="File name too long"):
            ask()
