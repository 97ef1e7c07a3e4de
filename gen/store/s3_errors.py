"""What an S3 error means, by its status and code: whether to try again, or what a person has to do."""

BAD_REQUEST = 400
NOT_IMPLEMENTED = 501
PRECONDITION_FAILED = 412
CHANGED = {404, 412, 416}
"""Statuses of a range read which mean that the object is not the one that was opened."""
ABSENT = {"404", "NoSuchKey", "NotFound"}
"""Codes of a missing key; a HEAD has no body, so its code is the status."""

_BUSY_STATUSES = {408, 409, 425, 429}
"""409 is ConditionalRequestConflict: another write of the key is in progress, and the same PUT must be sent again."""
_BUSY_CODES = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "BadDigest"}
_RIGHTS = "this program needs s3:ListBucket on the bucket and s3:GetObject, PutObject and DeleteObject on its objects"
_ENCRYPTION = "if the bucket's policy demands encryption, set dataset.encryption to AES256, aws:kms or aws:kms:<key id>"
_ADVICE = {
    "NoSuchBucket": "there is no such bucket: create it, or correct the name",
    "AccessDenied": f"access denied: {_RIGHTS}; {_ENCRYPTION}",
    "403": f"access denied: check the credentials; {_RIGHTS}",
    "InvalidAccessKeyId": "the store does not know this access key: check AWS_ACCESS_KEY_ID or the profile",
    "SignatureDoesNotMatch": (
        "the secret key does not match the access key: check AWS_SECRET_ACCESS_KEY or the profile"
    ),
    "ExpiredToken": "the credentials have expired",
    "ExpiredTokenException": "the credentials have expired",
    "TokenRefreshRequired": "the credentials have expired",
    "InvalidToken": "the session token is not valid: check AWS_SESSION_TOKEN or the profile",
    "RequestTimeTooSkewed": "this machine's clock and the store's differ: set the clock",
    "PermanentRedirect": "the bucket is in another region: set AWS_REGION to the bucket's",
    "301": "the bucket is in another region: set AWS_REGION to the bucket's",
    "AuthorizationHeaderMalformed": "the region is wrong: set AWS_REGION to the bucket's",
    "NotImplemented": "the store lacks this operation: use one that has conditional writes",
}


def is_passing(*, status: int, code: str) -> bool:
    """True if the same request may succeed in a while."""
    return status in _BUSY_STATUSES or code in _BUSY_CODES or (status >= 500 and status != NOT_IMPLEMENTED)


def is_expired(*, code: str) -> bool:
    """True if the credentials have only expired, so that renewing them is all that is needed."""
    return code in _EXPIRED


_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}


def may_be_credentials(*, status: int) -> bool:
    """True if other credentials may succeed; a HEAD has no body, so its code says no more than the status."""
    return status in (400, 401, 403)


def wants_checksum(*, status: int, code: str, message: str) -> bool:
    """True if the store refuses a body without a checksum, as buckets with object lock do."""
    words = f"{code} {message}".lower()
    return status == BAD_REQUEST and ("checksum" in words or "content-md5" in words) and "match" not in words


def wants_encryption(*, code: str, message: str) -> bool:
    """True if a policy forbids the write as it is, perhaps because it lacks encryption; missing rights give another
    error.
    """
    words = message.lower()
    return code == "AccessDenied" and ("explicit deny" in words or "encrypt" in words)


def advice(*, status: int, code: str, message: str) -> str:
    """What a person has to do, and the store's own message."""
    said = " ".join(message.split())[:300]
    known = _ADVICE.get(code)
    if known is None:
        return " ".join(f"the store answered {status} {code} {said}".split())
    return known if said in ("", code) or code.isdigit() else f"{known} (the store answered {status} {code}: {said})"
