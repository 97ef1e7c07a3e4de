"""Writes objects into a bucket, with what the bucket turns out to demand: a checksum, or encryption.

Neither is sent unless demanded: some stores that speak S3's protocol refuse one or the other.
"""

import base64
import copy
import hashlib
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from botocore.exceptions import ClientError

from stillhouse.gen.errors import StoreRefused
from stillhouse.gen.store import s3_errors
from stillhouse.gen.store.s3_calls import S3Calls, code_of, is_passing, status_of

if TYPE_CHECKING:
    from mypy_boto3_s3.literals import ServerSideEncryptionType
    from mypy_boto3_s3.type_defs import PutObjectOutputTypeDef, PutObjectRequestTypeDef

SEAL = "stillhouse-seal"
"""The metadata key that names an object's writer."""


class S3Writer:
    """Writes objects with the checksum and encryption that the bucket demands."""

    def __init__(self, calls: S3Calls, bucket: str, *, prefix: str, encryption: str | None) -> None:
        """`prefix`: the prefix of every key."""
        self._calls = calls
        self._bucket = bucket
        self._prefix = prefix
        self._encryption = encryption
        self._sends_checksums = False

    def by(self, calls: S3Calls) -> "S3Writer":
        """A writer that shares what this one has found out, but makes these calls."""
        other = copy.copy(self)
        other._calls = calls  # noqa: SLF001 - a copy of itself
        return other

    def put(
        self,
        key: str,
        body: bytes | Path,
        *,
        seal: str | None = None,
        if_none_match: str | None = None,
        if_match: str | None = None,
    ) -> str | None:
        """One PUT: the new etag, or None if its condition was not met."""
        with nullcontext(body) if isinstance(body, bytes) else body.open("rb") as content:
            request: PutObjectRequestTypeDef = {"Bucket": self._bucket, "Key": self._prefix + key, "Body": content}
            if seal is not None:
                request["Metadata"] = {SEAL: seal}
            if if_none_match is not None:
                request["IfNoneMatch"] = if_none_match
            if if_match is not None:
                request["IfMatch"] = f'"{if_match}"'
            try:
                return self._put_as_demanded(request, content)["ETag"].strip('"')
            except ClientError as error:
                gone = if_match is not None and code_of(error) in s3_errors.ABSENT
                if gone or status_of(error) == s3_errors.PRECONDITION_FAILED:
                    return None
                raise

    def _put_as_demanded(
        self, request: "PutObjectRequestTypeDef", content: bytes | BinaryIO
    ) -> "PutObjectOutputTypeDef":
        try:
            return self._calls.client.put_object(**self._with_demands(request, content, self._encryption))
        except ClientError as error:
            status, code = status_of(error), code_of(error)
            message = error.response.get("Error", {}).get("Message", "")
            if not self._sends_checksums and s3_errors.wants_checksum(status=status, code=code, message=message):
                self._sends_checksums = True
                return self._put_as_demanded(request, content)
            if self._encryption is not None or not s3_errors.wants_encryption(code=code, message=message):
                raise
            denied = error
        for encryption in _ENCRYPTIONS:
            try:
                stored = self._calls.client.put_object(**self._with_demands(request, content, encryption))
            except ClientError as error:
                if status_of(error) == s3_errors.PRECONDITION_FAILED:
                    self._encryption = encryption
                    raise
                if is_passing(error):
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


def _digests(content: bytes | BinaryIO) -> tuple[str, str]:
    """MD5 and SHA-256 in base64: every store that demands a checksum accepts one of them."""
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
"""Encryptions to try if a policy denies a write; your own key must be named in the recipe."""


def _encryption(setting: str) -> "tuple[ServerSideEncryptionType, str]":
    """Split 'aws:kms:<key id>' into the algorithm and the key's id."""
    known: tuple[ServerSideEncryptionType, ...] = ("aws:kms:dsse", "aws:kms", "AES256")
    for algorithm in known:
        if setting == algorithm or setting.startswith(f"{algorithm}:"):
            return algorithm, setting[len(algorithm) + 1 :]
    raise StoreRefused(f"expected an encryption of AES256, aws:kms or aws:kms:<key id>, got {setting!r}")
