"""AWS's own credential chain, and its signature version 4; the only module here that uses botocore.

Imported only if needed, because botocore takes a tenth of a second to load. Seen with botocore 1.44: `SigV4Auth` signs
by its own clock, so a subclass passes in the time.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import botocore.exceptions
import botocore.session
from botocore.auth import SIGV4_TIMESTAMP, S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest

from stillhouse.gen.errors import UsageError
from stillhouse.gen.teachers.aws_keys import AwsChain, AwsKeys, KeysAway


def chain(profile: str | None, *, field: str) -> AwsChain:
    """The keys that AWS's own chain finds on this node; `field`: the recipe's field, for messages.

    Raises:
        UsageError: there are none, or they can't be obtained.
    """
    try:
        source = botocore.session.Session(profile=profile).get_credentials()
        if source is not None:
            return AwsChain(_Found(source))
    except (botocore.exceptions.BotoCoreError, KeysAway) as error:
        raise UsageError(f"{field}: AWS's keys can't be obtained: {error}") from None
    raise UsageError(
        f"{field}: no AWS keys were found on this node: give it a role, a profile, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY; or put references into `aws`, or a reference to a Bedrock key into `api_key`"
    )


class _Found:
    """The keys that the chain found."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def get_frozen_credentials(self) -> AwsKeys:
        try:
            found = self._source.get_frozen_credentials()
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise KeysAway(str(error)) from None
        return AwsKeys(found.access_key, found.secret_key, found.token)


_SigV4: Any = SigV4Auth  # its types leave out what a subclass needs


class _Signer(_SigV4):  # type: ignore[misc]
    """Signs with one set of keys, as botocore does; what all requests within a second share is computed once."""

    def __init__(self, keys: AwsKeys, service: str, region: str) -> None:
        super().__init__(keys, service, region)
        self._made: dict[tuple[str, str], _Second] = {}
        """What requests to a URL share, by method and URL."""

    def signed(self, method: str, url: str, headers: Mapping[str, str], body: bytes, *, now: float) -> dict[str, str]:
        """The given headers, plus those that sign the request."""
        made = self._made.get((method, url))
        if made is None or made.at != int(now) or made.given is not headers:
            made = self._made[method, url] = self._second(method, url, headers, now=int(now))
        return made.signed(body)

    def _second(self, method: str, url: str, headers: Mapping[str, str], *, now: int) -> "_Second":
        """Have botocore sign a request without a body, and take the signed parts apart."""
        request = AWSRequest(method, url, data=b"", headers=headers)
        request.context["timestamp"] = datetime.fromtimestamp(now, UTC).strftime(SIGV4_TIMESTAMP)
        self._modify_request_before_signing(request)
        canonical = self.canonical_request(request).encode()
        assert canonical.endswith(_NO_BODY)
        text: str = self.string_to_sign(request, canonical.decode())
        self._inject_signature_to_request(request, "")
        return _Second(
            now,
            headers,
            {name.lower(): value for name, value in request.headers.items()},
            canonical.removesuffix(_NO_BODY),
            text.removesuffix(sha256(canonical).hexdigest()).encode(),
            self._day_key(request.context["timestamp"][:8]),
        )

    def _day_key(self, day: str) -> bytes:
        key = f"AWS4{self.credentials.secret_key}".encode()
        for part in (day, self._region_name, self._service_name, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return key


_NO_BODY = sha256(b"").hexdigest().encode()
"""The end of a request's canonical form: the hash of its body."""


@dataclass(frozen=True, slots=True)
class _Second:
    """Signs requests within one second that differ only in their bodies."""

    at: int
    """Seconds since 1970."""
    given: Mapping[str, str]
    headers: dict[str, str]
    """All headers; `authorization` ends where the signature begins."""
    canonical: bytes
    """The canonical request, up to the hash of the body."""
    text: bytes
    """The text to sign, up to the hash of the canonical request."""
    key: bytes

    def signed(self, body: bytes) -> dict[str, str]:
        canonical = self.canonical + sha256(body).hexdigest().encode()
        signature = hmac.digest(self.key, self.text + sha256(canonical).hexdigest().encode(), "sha256").hex()
        return {**self.headers, "authorization": self.headers["authorization"] + signature}


class Signing:
    """Signs requests to one service in one region."""

    def __init__(self, service: str, region: str) -> None:
        self._service = service
        self._region = region
        self._signer: _Signer | None = None

    def headers(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, *, keys: AwsKeys, now: float
    ) -> dict[str, str]:
        """The given headers (names in lower case), plus those that sign the request; `now`: seconds since 1970."""
        if self._signer is None or self._signer.credentials is not keys:
            self._signer = _Signer(keys, self._service, self._region)
        return self._signer.signed(method, url, headers, body, now=now)


_S3SigV4: Any = S3SigV4Auth


class _S3Signer(_S3SigV4):  # type: ignore[misc]
    """Signs a request to S3, whose path is not encoded a second time and whose body's hash is a header."""

    def signed(self, request: AWSRequest, *, now: float) -> dict[str, str]:
        request.context["timestamp"] = datetime.fromtimestamp(now, UTC).strftime(SIGV4_TIMESTAMP)
        self._modify_request_before_signing(request)
        text = self.string_to_sign(request, self.canonical_request(request))
        self._inject_signature_to_request(request, self.signature(text, request))
        return {name.lower(): value for name, value in request.headers.items()}


def s3_headers(method: str, url: str, body: bytes, *, keys: AwsKeys, region: str, now: float) -> dict[str, str]:
    """The headers that sign a request to S3; `now`: seconds since 1970."""
    return _S3Signer(keys, "s3", region).signed(AWSRequest(method, url, data=body), now=now)
