"""An S3 bucket, or another service with S3's protocol, as a store.

One conditional PUT decides who created a key, and its outcome is never guessed. A PUT whose answer was lost is sent
again; if the second PUT finds the key taken, the seal in the object's metadata says whose object it is. This also
covers botocore's own retries of a PUT that had succeeded.
"""

import copy
import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

from botocore.exceptions import ClientError

from stillhouse.gen.errors import SourceError, StoreRefused
from stillhouse.gen.store import s3_errors
from stillhouse.gen.store.lock import BEAT_S, FENCE_S, ClaimLock, Lock
from stillhouse.gen.store.ranges import buffered
from stillhouse.gen.store.readable import Stat
from stillhouse.gen.store.s3_calls import S3Calls, Vanished, code_of, status_of
from stillhouse.gen.store.s3_writer import SEAL, S3Writer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        GetObjectOutputTypeDef,
        HeadObjectOutputTypeDef,
        ListObjectsV2RequestTypeDef,
        ObjectTypeDef,
        PutObjectOutputTypeDef,
    )


class S3Store:
    """Objects below 's3://bucket/prefix'; one client, shared by all threads."""

    is_local = False

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint_url: str | None = None,
        region: str | None = None,
        path_style: bool | None = None,
        encryption: str | None = None,
        patience_s: float = 60.0,
    ) -> None:
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._honours_if_match = True
        self._calls = S3Calls(
            self.url, endpoint_url=endpoint_url, region=region, path_style=path_style, patience_s=patience_s
        )
        self._writer = S3Writer(self._calls, bucket, prefix=self._prefix, encryption=encryption)

    def _hurried(self, patience_s: float, *, answer_within_s: float) -> "S3Store":
        """The same bucket, with what `probe` found, for calls that should not wait as long."""
        other = copy.copy(self)
        other._calls = self._calls.hurried(patience_s, answer_within_s=answer_within_s)
        other._writer = self._writer.by(other._calls)
        return other

    @property
    def _client(self) -> "S3Client":
        return self._calls.client

    def put_new(self, key: str, body: bytes | Path, *, seal: str = "") -> bool:
        """See `Store`. Without a seal, one is made up for this call."""
        seal = seal or uuid4().hex

        def attempt() -> bool:
            if self._writer.put(key, body, seal=seal, if_none_match="*") is not None:
                return True
            found = self._head(key)
            if found is None:
                raise Vanished
            return _seal(found) == seal

        return self._calls.call("write", key, attempt)

    def put(self, key: str, body: bytes | Path) -> None:
        """See `Store`."""
        self._calls.call("write", key, lambda: self._writer.put(key, body))

    def swap(self, key: str, body: bytes, *, etag: str | None) -> str | None:
        """See `Store`.

        If `probe` found that If-Match is ignored, the key is read, compared and then written: two writers within one
        round trip may then both believe that they won, and learn otherwise at their next swap.
        """
        seal = uuid4().hex

        def attempt() -> str | None:
            if etag is None:
                new = self._writer.put(key, body, seal=seal, if_none_match="*")
            elif self._honours_if_match:
                new = self._writer.put(key, body, seal=seal, if_match=etag)
            else:
                found = self._head(key)
                unchanged = found is not None and _etag(found) == etag
                new = self._writer.put(key, body, seal=seal) if unchanged else None
            if new is not None:
                return new
            found = self._head(key)
            return _etag(found) if found is not None and _seal(found) == seal else None

        return self._calls.call("write", key, attempt)

    def get(self, key: str) -> bytes | None:
        """See `Store`."""
        found = self.get_with_etag(key)
        return None if found is None else found[0]

    def get_with_etag(self, key: str) -> tuple[bytes, str] | None:
        """See `Store`."""

        def attempt() -> tuple[bytes, str] | None:
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            except ClientError as error:
                if code_of(error) in s3_errors.ABSENT:
                    return None
                raise
            with closing(answer["Body"]) as body:
                return body.read(), _etag(answer)

        return self._calls.call("read", key, attempt)

    def stat(self, key: str) -> Stat | None:
        """See `Store`."""
        found = self._calls.call("read", key, lambda: self._head(key))
        return None if found is None else Stat(key, found["ContentLength"], _etag(found))

    def seal_of(self, key: str) -> str | None:
        """See `Store`."""
        found = self._calls.call("read", key, lambda: self._head(key))
        return None if found is None else _seal(found)

    def open(self, key: str) -> BinaryIO:
        """See `Store`."""
        stat = self.stat(key)
        if stat is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.url}/{key}")
        return buffered(lambda start, stop: self._read_range(stat, start, stop), size=stat.size)

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """See `Store`. A page of 1,000 keys is held at a time; markers of empty folders are left out."""
        request: ListObjectsV2RequestTypeDef = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        while True:
            page = self._calls.call("list", prefix, lambda: self._client.list_objects_v2(**request))
            for found in page.get("Contents", ()):
                if not found["Key"].endswith("/"):
                    yield Stat(found["Key"].removeprefix(self._prefix), found["Size"], _etag(found))
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See `ReadableStore`."""
        return (stat.key for stat in self.list(prefix))

    def delete(self, key: str) -> None:
        """See `Store`."""
        self._calls.call("delete", key, lambda: self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key))

    def leftovers(self) -> Sequence[str]:
        """See `ReadableStore`: nobody ever sees a partial object there."""
        return []

    def run_lock(self, key: str) -> Lock:
        """See `Store`: call `probe` first. No call is retried after its beat has passed, because the next beat begins
        one.
        """
        return ClaimLock(self._hurried(BEAT_S, answer_within_s=FENCE_S), key)

    def is_locked(self, key: str) -> bool:
        """See `ReadableStore`."""
        return ClaimLock(self, key).is_held()

    def scratch(self) -> Path:
        """See `Store`: one folder per user, below TMPDIR."""
        folder = Path(tempfile.gettempdir()) / f"stillhouse-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise StoreRefused(f"{folder} belongs to another user: remove it, or set TMPDIR to a folder of your own")
        return folder

    def probe(self) -> None:
        """See `Store`. Also finds out whether `swap` may leave the comparison to the store."""
        key = f"_stillhouse/probe-{uuid4().hex}"
        self.put_new(key, b"1", seal="probe")
        try:
            if self._calls.call("write", key, lambda: self._writer.put(key, b"2", if_none_match="*")) is not None:
                raise StoreRefused(
                    f"{self.url} ignores conditional writes (If-None-Match), which keep a shard from being written "
                    "twice: use a store that honours them (AWS S3, Cloudflare R2, MinIO, Ceph), or a local path"
                )
            if self.seal_of(key) != "probe":
                raise StoreRefused(
                    f"{self.url} does not keep the metadata of objects (x-amz-meta-*), which tells whose write landed: "
                    "use another store, or a local path"
                )
            mismatch = self._calls.call("write", key, lambda: self._writer.put(key, b"3", if_match="0" * 32))
            self._honours_if_match = mismatch is None
            next(self.list(key), None)
        finally:
            self.delete(key)

    def _read_range(self, stat: Stat, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of exactly the object that `stat` describes, else `SourceError`."""

        def attempt() -> bytes:
            try:
                answer = self._client.get_object(
                    Bucket=self._bucket,
                    Key=self._prefix + stat.key,
                    Range=f"bytes={start}-{stop - 1}",
                    IfMatch=f'"{stat.etag}"',
                )
            except ClientError as error:
                if status_of(error) in s3_errors.CHANGED:
                    raise self._changed(stat) from error
                raise
            with closing(answer["Body"]) as body:
                if _etag(answer) != stat.etag:  # a store that ignores If-Match
                    raise self._changed(stat)
                if answer["ContentLength"] != stop - start:
                    raise StoreRefused(f"could not read {self.url}/{stat.key}: the store ignores ranges; use another")
                return body.read()

        return self._calls.call("read", stat.key, attempt)

    def _head(self, key: str) -> "HeadObjectOutputTypeDef | None":
        try:
            return self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
        except ClientError as error:
            if code_of(error) in s3_errors.ABSENT:
                return None
            if status_of(error) == s3_errors.BAD_REQUEST:
                self._raise_with_its_code(key)
            raise

    def _raise_with_its_code(self, key: str) -> None:
        """Repeat a refused HEAD, which has no body, as a GET, whose body has the reason."""
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, Range="bytes=0-0")
        except ClientError as error:
            if status_of(error) in s3_errors.CHANGED:
                return
            raise
        answer["Body"].close()

    def _changed(self, stat: Stat) -> SourceError:
        return SourceError(
            f"{self.url}/{stat.key} changed while it was read (it had {stat.size} bytes, etag {stat.etag}): "
            "put the old file back, or start again with the new one"
        )


def _etag(found: "HeadObjectOutputTypeDef | GetObjectOutputTypeDef | PutObjectOutputTypeDef | ObjectTypeDef") -> str:
    return found["ETag"].strip('"')


def _seal(found: "HeadObjectOutputTypeDef") -> str | None:
    # Some stores change the case of metadata names.
    return {name.lower(): value for name, value in found["Metadata"].items()}.get(SEAL)
