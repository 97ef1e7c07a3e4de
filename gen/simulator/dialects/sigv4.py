"""AWS's signature version 4, as the receiver checks it."""

import hmac
import re
from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import quote

from stillhouse.gen.simulator.wire import Request

MOST_SKEW_S = 300.0
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/,]+)/(\d{8})/([^/,]+)/([^/,]+)/aws4_request, ?"
    r"SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})"
)


def fault_of(request: Request, *, key: str, service: str, now: float) -> tuple[str, str] | None:
    """(exception, message) for a request that this key, as `id:secret`, did not sign just now; None if it did."""
    found = _AUTHORIZATION.fullmatch(request.headers.get(b"authorization", b"").decode("latin-1"))
    if found is None:
        return "MissingAuthenticationTokenException", "Missing Authentication Token"
    key_id, day, region, signed_service, names, signature = found.groups()
    expected_id, _, secret = key.partition(":")
    if key_id != expected_id:
        return "UnrecognizedClientException", "The security token included in the request is invalid."
    at = request.headers.get(b"x-amz-date", b"").decode("latin-1")
    if (skewed := _skew(at, now)) is not None:
        return "InvalidSignatureException", skewed
    headers = "".join(f"{name}:{_value(request, name)}\n" for name in names.split(";"))
    path = request.path if service == "s3" else quote(request.path, safe="/~")  # every other service encodes it again
    digest = sha256(request.body).hexdigest()
    query = "&".join(sorted(request.query.split("&")))
    canonical = f"{request.method}\n{path}\n{query}\n{headers}\n{names}\n{digest}"
    scope = f"{day}/{region}/{signed_service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{sha256(canonical.encode('latin-1')).hexdigest()}"
    signing = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        signing = hmac.digest(signing, part.encode(), "sha256")
    if not hmac.compare_digest(hmac.digest(signing, text.encode(), "sha256").hex(), signature):
        return "InvalidSignatureException", (
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
            "Access Key and signing method. Consult the service documentation for details."
        )
    return None


def _value(request: Request, name: str) -> str:
    return " ".join(request.headers.get(name.encode(), b"").decode("latin-1").split())


def _skew(at: str, now: float) -> str | None:
    """AWS's message for a signature of another time."""
    try:
        signed = datetime.strptime(at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return "Date must be in ISO-8601 'basic format'."
    here = f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}"
    if signed < now - MOST_SKEW_S:
        limit = f"{datetime.fromtimestamp(now - MOST_SKEW_S, UTC):%Y%m%dT%H%M%SZ}"
        return f"Signature expired: {at} is now earlier than {limit} ({here} - 5 min.)"
    if signed > now + MOST_SKEW_S:
        limit = f"{datetime.fromtimestamp(now + MOST_SKEW_S, UTC):%Y%m%dT%H%M%SZ}"
        return f"Signature not yet current: {at} is still later than {limit} ({here} + 5 min.)"
    return None
