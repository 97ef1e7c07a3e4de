"""AWS's own chain of keys, and its signature version 4: the one module here with botocore.

Imported where it is needed, for botocore takes a tenth of a second to load. Seen with botocore 1.44: `SigV4Auth`
signs by its own clock alone, hence the subclass, which is given the time.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import botocore.exceptions
import botocore.session
from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
from botocore.awsrequest import AWSRequest

from stillhouse.gen.errors import UsageError
from stillhouse.gen.teachers.aws_keys import AwsChain, AwsKeys, KeysAway


def chain(profile: str | None, *, field: str) -> AwsChain:
    """The keys that AWS's own chain finds on this node; `field`: the recipe's, for messages.

    Raises:
        UsageError: there are none, or they can't be had.
    """
    try:
        source = botocore.session.Session(profile=profile).get_credentials()
        if source is not None:
            return AwsChain(_Found(source))
    except (botocore.exceptions.BotoCoreError, KeysAway) as error:
        raise UsageError(f"{field}: AWS's keys can't be obtained: {error}") from None
    raise UsageError(
        f"{field}: no AWS keys were found on this node: give it a role, a profile, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY; or put references into `aws`, or one to a Bedrock key into `api_key`"
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


_SigV4: Any = SigV4Auth  # whose types leave out what a subclass needs


class _Signer(_SigV4):  # type: ignore[misc]
    """Signs with one set of keys. The key that signs holds for a day, and is made once for it."""

    def __init__(self, keys: AwsKeys, service: str, region: str) -> None:
        super().__init__(keys, service, region)
        self._day = ""
        self._day_key = b""

    def signed(self, request: AWSRequest, *, now: float) -> dict[str, str]:
        request.context["timestamp"] = datetime.fromtimestamp(now, UTC).strftime(SIGV4_TIMESTAMP)
        self._modify_request_before_signing(request)
        text = self.string_to_sign(request, self.canonical_request(request))
        self._inject_signature_to_request(request, self.signature(text, request))
        return {name.lower(): value for name, value in request.headers.items()}

    def signature(self, string_to_sign: str, request: AWSRequest) -> str:
        day = request.context["timestamp"][:8]
        if day != self._day:
            key = f"AWS4{self.credentials.secret_key}".encode()
            for part in (day, self._region_name, self._service_name, "aws4_request"):
                key = self._sign(key, part)
            self._day, self._day_key = day, key
        signature: str = self._sign(self._day_key, string_to_sign, hex=True)
        return signature


class Signing:
    """Signs requests to one service in one region."""

    def __init__(self, service: str, region: str) -> None:
        self._service = service
        self._region = region
        self._signer: _Signer | None = None

    def headers(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, *, keys: AwsKeys, now: float
    ) -> dict[str, str]:
        """These headers, names in lower case, with those that sign the request; `now`: seconds since 1970."""
        if self._signer is None or self._signer.credentials is not keys:
            self._signer = _Signer(keys, self._service, self._region)
        return self._signer.signed(AWSRequest(method, url, data=body, headers=headers), now=now)
