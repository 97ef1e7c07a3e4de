"""An S3 bucket, or what speaks its protocol, as a store.

One conditional PUT decides who created a key, and its outcome is never guessed. A PUT whose answer was lost is sent
again; where the second finds the key taken, the seal in the object's metadata says whose object it is. botocore's own
retries of a PUT that had landed are covered by the same look.
"""

import base64
import copy
import errno
import functools
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from uuid import uuid4

import boto3
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from stillhouse.gen.errors import SourceError, StillhouseError, StoreAway, StoreRefused
from stillhouse.gen.store import s3_errors
from stillhouse.gen.store.lock import BEAT_S, FENCE_S, ClaimLock, Lock
from stillhouse.gen.store.ranges import buffered
from stillhouse.gen.store.readable import Stat

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.literals import ServerSideEncryptionType
    from mypy_boto3_s3.type_defs import (
        GetObjectOutputTypeDef,
        HeadObjectOutputTypeDef,
        ListObjectsV2RequestTypeDef,
        ObjectTypeDef,
        PutObjectOutputTypeDef,
        PutObjectRequestTypeDef,
    )

T = TypeVar("T")

_SEAL = "stillhouse-seal"


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
        self._patience_s = patience_s
        self._honours_if_match = True
        self._encryption = encryption
        self._sends_checksums = False
        self._renewing = threading.Lock()
        connect = functools.partial(
            _Connection, endpoint_url, region=region, path_style=path_style, patience_s=patience_s
        )
        self._connect = connect
        try:
            self._connection = connect()
        except (BotoCoreError, ValueError) as error:
            raise StoreRefused(f"the AWS settings for {self.url} can't be used: {error}") from error

    @property
    def _client(self) -> "S3Client":
        return self._connection.client

    def _hurried(self, patience_s: float, *, answer_within_s: float) -> "S3Store":
        """The same bucket, as `probe` found it, for calls that are worth less waiting; a slow answer is still one."""
        other = copy.copy(self)
        other._patience_s = patience_s
        other._renewing = threading.Lock()
        other._connect = functools.partial(self._connect, patience_s=patience_s, answer_within_s=answer_within_s)
        other._connection = other._connect()
        return other

    def put_new(self, key: str, body: bytes | Path, *, seal: str = "") -> bool:
        """See `Store`. Without a seal given, one is made up for the time of the call."""
        seal = seal or uuid4().hex

        def attempt() -> bool:
            if self._put(key, body, seal=seal, if_none_match="*") is not None:
                return True
            found = self._head(key)
            if found is None:
                raise _Vanished
            return _seal(found) == seal

        return self._call("write", key, attempt)

    def put(self, key: str, body: bytes | Path) -> None:
        """See `Store`."""
        self._call("write", key, lambda: self._put(key, body))

    def swap(self, key: str, body: bytes, *, etag: str | None) -> str | None:
        """See `Store`.

        Where `probe` found If-Match ignored, the key is read, compared and then written: two writers within one round
        trip can then both believe that they won, and learn better at their next swap.
        """
        seal = uuid4().hex

        def attempt() -> str | None:
            if etag is None:
                new = self._put(key, body, seal=seal, if_none_match="*")
            elif self._honours_if_match:
                new = self._put(key, body, seal=seal, if_match=etag)
            else:
                found = self._head(key)
                unchanged = found is not None and _etag(found) == etag
                new = self._put(key, body, seal=seal) if unchanged else None
            if new is not None:
                return new
            found = self._head(key)
            return _etag(found) if found is not None and _seal(found) == seal else None

        return self._call("write", key, attempt)

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
                if _code(error) in s3_errors.ABSENT:
                    return None
                raise
            with closing(answer["Body"]) as body:
                return body.read(), _etag(answer)

        return self._call("read", key, attempt)

    def stat(self, key: str) -> Stat | None:
        """See `Store`."""
        found = self._call("read", key, lambda: self._head(key))
        return None if found is None else Stat(key, found["ContentLength"], _etag(found))

    def seal_of(self, key: str) -> str | None:
        """See `Store`."""
        found = self._call("read", key, lambda: self._head(key))
        return None if found is None else _seal(found)

    def open(self, key: str) -> BinaryIO:
        """See `Store`."""
        stat = self.stat(key)
        if stat is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.url}/{key}")
        return buffered(lambda start, stop: self._read_range(stat, start, stop), size=stat.size)

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """See `Store`. A page of 1,000 keys is held at a time; the markers of empty folders are left out."""
        request: ListObjectsV2RequestTypeDef = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        while True:
            page = self._call("list", prefix, lambda: self._client.list_objects_v2(**request))
            for found in page.get("Contents", ()):
                if not found["Key"].endswith("/"):
                    yield Stat(found["Key"].removeprefix(self._prefix), found["Size"], _etag(found))
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, key: str) -> None:
        """See `Store`."""
        self._call("delete", key, lambda: self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key))

    def leftovers(self) -> Sequence[str]:
        """See `ReadableStore`: nobody ever sees half an object there."""
        return []

    def run_lock(self, key: str) -> Lock:
        """See `Store`: `probe` first. No call is begun again once a beat is over, for the next beat begins one."""
        return ClaimLock(self._hurried(BEAT_S, answer_within_s=FENCE_S), key)

    def is_locked(self, key: str) -> bool:
        """See `ReadableStore`."""
        return ClaimLock(self, key).is_held()

    def check_writable(self) -> None:
        """See `ReadableStore`: all that can be known is whether the bucket answers us."""
        next(iter(self.list("_stillhouse/")), None)

    def scratch(self) -> Path:
        """See `Store`: one folder a user, below TMPDIR."""
        folder = Path(tempfile.gettempdir()) / f"stillhouse-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise StoreRefused(f"{folder} belongs to another user: remove it, or set TMPDIR to a folder of your own")
        return folder

    def probe(self) -> None:
        """See `Store`. Finds out too whether `swap` may leave the comparing to the store."""
        key = f"_stillhouse/probe-{uuid4().hex}"
        self.put_new(key, b"1", seal="probe")
        try:
            if self._call("write", key, lambda: self._put(key, b"2", if_none_match="*")) is not None:
                raise StoreRefused(
                    f"{self.url} ignores conditional writes (If-None-Match), which keep a shard from being written "
                    "twice: use a store that honours them (AWS S3, Cloudflare R2, MinIO, Ceph), or a local path"
                )
            if self.seal_of(key) != "probe":
                raise StoreRefused(
                    f"{self.url} does not keep the metadata of objects (x-amz-meta-*), which tells whose write landed: "
                    "use another store, or a local path"
                )
            mismatch = self._call("write", key, lambda: self._put(key, b"3", if_match="0" * 32))
            self._honours_if_match = mismatch is None
            next(self.list(key), None)
        finally:
            self.delete(key)

    def _put(
        self,
        key: str,
        body: bytes | Path,
        *,
        seal: str | None = None,
        if_none_match: str | None = None,
        if_match: str | None = None,
    ) -> str | None:
        """One PUT: the new etag, or None when its condition did not hold."""
        with nullcontext(body) if isinstance(body, bytes) else body.open("rb") as content:
            request: PutObjectRequestTypeDef = {"Bucket": self._bucket, "Key": self._prefix + key, "Body": content}
            if seal is not None:
                request["Metadata"] = {_SEAL: seal}
            if if_none_match is not None:
                request["IfNoneMatch"] = if_none_match
            if if_match is not None:
                request["IfMatch"] = f'"{if_match}"'
            try:
                return _etag(self._put_as_demanded(request, content))
            except ClientError as error:
                gone = if_match is not None and _code(error) in s3_errors.ABSENT
                if gone or _status(error) == s3_errors.PRECONDITION_FAILED:
                    return None
                raise

    def _put_as_demanded(
        self, request: "PutObjectRequestTypeDef", content: bytes | BinaryIO
    ) -> "PutObjectOutputTypeDef":
        """The PUT with what this bucket was found to demand: a checksum, or encryption.

        Neither is sent unasked: some stores that speak S3's protocol refuse the one or the other.
        """
        try:
            return self._client.put_object(**self._with_demands(request, content, self._encryption))
        except ClientError as error:
            status, code = _status(error), _code(error)
            message = error.response.get("Error", {}).get("Message", "")
            if not self._sends_checksums and s3_errors.wants_checksum(status=status, code=code, message=message):
                self._sends_checksums = True
                return self._put_as_demanded(request, content)
            if self._encryption is not None or not s3_errors.wants_encryption(code=code, message=message):
                raise
            denied = error
        for encryption in _ENCRYPTIONS:
            try:
                stored = self._client.put_object(**self._with_demands(request, content, encryption))
            except ClientError as error:
                if _status(error) == s3_errors.PRECONDITION_FAILED:
                    self._encryption = encryption
                    raise
                if _is_passing(error):
                    raise
            else:
                self._encryption = encryption
                return stored
        raise denied

    def _with_demands(
        self, request: "PutObjectRequestTypeDef", content: bytes | BinaryIO, encryption: str | None
    ) -> "PutObjectRequestTypeDef":
        if not isinstance(content, bytes):
            content.seek(0)
        request = request.copy()
        if self._sends_checksums:
            md5, sha256 = _digests(content)
            request["ContentMD5"], request["ChecksumSHA256"] = md5, sha256
        if encryption is not None:
            algorithm, key = _encryption(encryption)
            request["ServerSideEncryption"] = algorithm
            if key:
                request["SSEKMSKeyId"] = key
        return request

    def _read_range(self, stat: Stat, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of just the object that `stat` describes, else `SourceError`."""

        def attempt() -> bytes:
            try:
                answer = self._client.get_object(
                    Bucket=self._bucket,
                    Key=self._prefix + stat.key,
                    Range=f"bytes={start}-{stop - 1}",
                    IfMatch=f'"{stat.etag}"',
                )
            except ClientError as error:
                if _status(error) in s3_errors.CHANGED:
                    raise self._changed(stat) from error
                raise
            with closing(answer["Body"]) as body:
                if _etag(answer) != stat.etag:  # a store that ignores If-Match
                    raise self._changed(stat)
                if answer["ContentLength"] != stop - start:
                    raise StoreRefused(f"could not read {self.url}/{stat.key}: the store ignores ranges; use another")
                return body.read()

        return self._call("read", stat.key, attempt)

    def _head(self, key: str) -> "HeadObjectOutputTypeDef | None":
        try:
            return self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
        except ClientError as error:
            if _code(error) in s3_errors.ABSENT:
                return None
            if _status(error) == s3_errors.BAD_REQUEST:
                self._raise_with_its_code(key)
            raise

    def _raise_with_its_code(self, key: str) -> None:
        """Have the refusal of a HEAD, which has no body, said by a GET."""
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, Range="bytes=0-0")
        except ClientError as error:
            if _status(error) in s3_errors.CHANGED:
                return
            raise
        answer["Body"].close()

    def _call(self, action: str, key: str, attempt: Callable[[], T]) -> T:
        """Try until the store has answered or patience is over; `attempt` has to be safe to repeat."""
        retrying = Retrying(
            retry=retry_if_exception(_is_passing),
            stop=stop_after_delay(self._patience_s),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            reraise=True,
        )
        try:
            while True:
                connection = self._connection
                try:
                    return retrying(attempt)
                except ClientError as error:
                    if not self._has_renewed(connection, error):
                        raise
        except (ClientError, BotoCoreError, ResponseParserError, _Vanished) as error:
            raise self._translated(error, f"could not {action} {self.url}/{key}") from error

    def _has_renewed(self, failed: "_Connection", error: ClientError) -> bool:
        """True if other credentials than those that failed are in use now, taken over from where they are kept.

        Long runs outlive the keys that a person or a tool renews on disk.
        """
        if not s3_errors.may_be_credentials(status=_status(error)):
            return False
        with self._renewing:
            if self._connection is failed:
                try:
                    fresh = self._connect()
                except (BotoCoreError, ValueError):
                    return False
                if fresh.credentials == failed.credentials:
                    return False
                self._connection = fresh
            return True

    def _translated(self, error: Exception, what: str) -> StillhouseError:
        if _is_passing(error):
            return StoreAway(
                f"{what}: no reliable answer for {self._patience_s:g} s ({_said(error)}). What is stored is safe; "
                "check the store and the network, then run the same command again"
            )
        if isinstance(error, ClientError):
            said = f"{what}: {self._connection.redacted(_said(error))}"
            if s3_errors.is_expired(code=_code(error)):
                return StoreAway(f"{said}. What is stored is safe; renew them, then run the same command again")
            return StoreRefused(said)
        return StoreRefused(
            f"{what}: {_said(error)}; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )

    def _changed(self, stat: Stat) -> SourceError:
        return SourceError(
            f"{self.url}/{stat.key} changed while it was read (it had {stat.size} bytes, etag {stat.etag}): "
            "put the old file back, or start again with the new one"
        )


class _Vanished(Exception):
    """The object that was in our way is gone: try again."""


class _Connection:
    """A client, and the credentials that it was made with."""

    def __init__(
        self,
        endpoint_url: str | None,
        *,
        region: str | None,
        path_style: bool | None,
        patience_s: float,
        answer_within_s: float | None = None,
    ) -> None:
        path_style = True if path_style is None and endpoint_url is not None else path_style
        config = Config(
            connect_timeout=min(10.0, max(1.0, patience_s)),
            read_timeout=answer_within_s or min(60.0, max(5.0, patience_s)),
            # botocore's own tries come on top: where one may take all of the time there is, it is the only one.
            retries={"mode": "standard", "total_max_attempts": 3 if answer_within_s is None else 1},
            max_pool_connections=32,
            tcp_keepalive=True,
            # Some stores refuse the checksums that boto3 sends since 1.36; bodies are signed by SHA-256 anyway.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # None leaves the style to the AWS settings.
            s3=None if path_style is None else {"addressing_style": "path" if path_style else "virtual"},
        )
        session = boto3.session.Session()
        self.client: S3Client = session.client("s3", endpoint_url=endpoint_url, region_name=region, config=config)
        found = session.get_credentials()
        # A provider that renews by itself (a role, the instance) is left to do so.
        is_static = found is not None and not isinstance(found, RefreshableCredentials)
        frozen = found.get_frozen_credentials() if found is not None and is_static else None
        self.credentials = None if frozen is None else (frozen.access_key, frozen.secret_key, frozen.token)

    def redacted(self, text: str) -> str:
        """The text without the credentials, which stores may repeat."""
        for secret in self.credentials or ():
            if secret:
                text = text.replace(secret, "[redacted]")
        return text


def _digests(content: bytes | BinaryIO) -> tuple[str, str]:
    """MD5 and SHA-256 in base64: of these every store that demands a checksum takes one."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    blocks = [content] if isinstance(content, bytes) else iter(lambda: content.read(_BLOCK_BYTES), b"")
    for block in blocks:
        md5.update(block)
        sha256.update(block)
    if not isinstance(content, bytes):
        content.seek(0)
    return base64.b64encode(md5.digest()).decode(), base64.b64encode(sha256.digest()).decode()


_BLOCK_BYTES = 2**20

_ENCRYPTIONS = ("AES256", "aws:kms")
"""Encryptions that are tried if a policy denies a write: a key of one's own has to be named in the recipe."""


def _encryption(setting: str) -> "tuple[ServerSideEncryptionType, str]":
    """'aws:kms:<key id>' as the algorithm and the key's id."""
    known: tuple[ServerSideEncryptionType, ...] = ("aws:kms:dsse", "aws:kms", "AES256")
    for algorithm in known:
        if setting == algorithm or setting.startswith(f"{algorithm}:"):
            return algorithm, setting[len(algorithm) + 1 :]
    raise StoreRefused(f"expected an encryption of AES256, aws:kms or aws:kms:<key id>, got {setting!r}")


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, ClientError):
        return s3_errors.is_passing(status=_status(error), code=_code(error))
    return isinstance(
        error, (HTTPClientError, BotoConnectionError, IncompleteReadError, ResponseParserError, _Vanished)
    )


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


def _status(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _said(error: Exception) -> str:
    if isinstance(error, ClientError):
        message = error.response.get("Error", {}).get("Message", "")
        return s3_errors.advice(status=_status(error), code=_code(error), message=message)
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _etag(found: "HeadObjectOutputTypeDef | GetObjectOutputTypeDef | PutObjectOutputTypeDef | ObjectTypeDef") -> str:
    return found["ETag"].strip('"')


def _seal(found: "HeadObjectOutputTypeDef") -> str | None:
    # Some stores give the names of metadata back in another case.
    return {name.lower(): value for name, value in found["Metadata"].items()}.get(_SEAL)
