"""Calls to a bucket: each is repeated until it is answered, with current credentials; errors are translated into
ours."""

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import boto3
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from stillhouse.gen.errors import StillhouseError, StoreAway, StoreRefused
from stillhouse.gen.store import s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")


class Vanished(Exception):
    """The object that was in the way is gone: try again."""


class S3Calls:
    """Makes calls with one client, which all threads share."""

    def __init__(
        self,
        url: str,
        *,
        endpoint_url: str | None,
        region: str | None,
        path_style: bool | None,
        patience_s: float,
        answer_within_s: float | None = None,
    ) -> None:
        """Args: url: the store's URL, for messages. endpoint_url: where the bucket is; by default from the AWS
        settings, like `region` and `path_style`. region: the bucket's region. path_style: True if the bucket is named
        in the path. patience_s: how long a call is repeated. answer_within_s: how long to wait for an answer; by
        default it depends on `patience_s`.

        Raises:
            StoreRefused: the AWS settings can't be used.
        """
        self._url = url
        self._patience_s = patience_s
        self._renewing = threading.Lock()
        self._of_url = functools.partial(S3Calls, url, endpoint_url=endpoint_url, region=region, path_style=path_style)
        self._connect = functools.partial(
            _Connection,
            endpoint_url,
            region=region,
            path_style=path_style,
            patience_s=patience_s,
            answer_within_s=answer_within_s,
        )
        try:
            self._connection = self._connect()
        except (BotoCoreError, ValueError) as error:
            raise StoreRefused(f"the AWS settings for {url} can't be used: {error}") from error

    @property
    def client(self) -> "S3Client":
        """The client, with current credentials."""
        return self._connection.client

    def hurried(self, patience_s: float, *, answer_within_s: float) -> "S3Calls":
        """Calls to the same bucket that should not be retried as long; a slow answer is still accepted."""
        return self._of_url(patience_s=patience_s, answer_within_s=answer_within_s)

    def call(self, action: str, key: str, attempt: Callable[[], T]) -> T:
        """Try until the store has answered or patience runs out; `attempt` must be safe to repeat.

        Raises:
            StoreAway, StoreRefused: no answer, or a refusal; the message says what could not be done to which key.
        """
        retrying = Retrying(
            retry=retry_if_exception(is_passing),
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
        except (ClientError, BotoCoreError, ResponseParserError, Vanished) as error:
            raise self._translated(error, f"could not {action} {self._url}/{key}") from error

    def _has_renewed(self, failed: "_Connection", error: ClientError) -> bool:
        """True if the credentials have changed since the failure, because new ones were found where they are stored.

        Long runs outlive keys that a person or a tool renews on disk.
        """
        if not s3_errors.may_be_credentials(status=status_of(error)):
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
        if is_passing(error):
            return StoreAway(
                f"{what}: no reliable answer for {self._patience_s:g} s ({_said(error)}). What is stored is safe; "
                "check the store and the network, then run the same command again"
            )
        if isinstance(error, ClientError):
            said = f"{what}: {self._connection.redacted(_said(error))}"
            if s3_errors.is_expired(code=code_of(error)):
                return StoreAway(f"{said}. What is stored is safe; renew them, then run the same command again")
            return StoreRefused(said)
        return StoreRefused(
            f"{what}: {_said(error)}; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )


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
            # botocore's own retries come on top: if one may take all of the time, it is the only one.
            retries={"mode": "standard", "total_max_attempts": 3 if answer_within_s is None else 1},
            max_pool_connections=32,
            tcp_keepalive=True,
            # Some stores refuse the checksums that boto3 sends since 1.36; bodies are signed with SHA-256 anyway.
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


def is_passing(error: BaseException) -> bool:
    """True if the same call may succeed later."""
    if isinstance(error, ClientError):
        return s3_errors.is_passing(status=status_of(error), code=code_of(error))
    return isinstance(error, (HTTPClientError, BotoConnectionError, IncompleteReadError, ResponseParserError, Vanished))


def code_of(error: ClientError) -> str:
    """The error's code, such as NoSuchKey; empty if the answer has none."""
    return error.response.get("Error", {}).get("Code", "")


def status_of(error: ClientError) -> int:
    """The answer's HTTP status."""
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _said(error: Exception) -> str:
    if isinstance(error, ClientError):
        message = error.response.get("Error", {}).get("Message", "")
        return s3_errors.advice(status=status_of(error), code=code_of(error), message=message)
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
