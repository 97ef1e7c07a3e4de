"""What an S3 error means, by its status and code: worth another try, or for a person to settle, and how."""

NOT_IMPLEMENTED = 501
PRECONDITION_FAILED = 412
CHANGED = {404, 412, 416}
"""Statuses of a range read that mean: not the object that was opened."""
ABSENT = {"404", "NoSuchKey", "NotFound"}
"""Codes of a missing key; a HEAD has no body, so its code is the status."""

_BUSY_STATUSES = {408, 409, 425, 429}
"""409 is ConditionalRequestConflict: another write of the key is under way, and the same PUT is to be sent again."""
_BUSY_CODES = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "BadDigest"}
_RIGHTS = "this program needs s3:ListBucket on the bucket and s3:GetObject, PutObject and DeleteObject on its objects"
_ADVICE = {
    "NoSuchBucket": "there is no such bucket: create it, or correct the name",
    "AccessDenied": f"access denied: {_RIGHTS}",
    "403": f"access denied: check the credentials; {_RIGHTS}",
    "InvalidAccessKeyId": "the store does not know this access key: check AWS_ACCESS_KEY_ID or the profile",
    "SignatureDoesNotMatch": "the secret key does not fit the access key: check AWS_SECRET_ACCESS_KEY or the profile",
    "ExpiredToken": "the credentials have expired: renew them",
    "InvalidToken": "the session token is not valid: check AWS_SESSION_TOKEN or the profile",
    "RequestTimeTooSkewed": "this machine's clock and the store's differ: set the clock",
    "PermanentRedirect": "the bucket is in another region: set AWS_REGION to the bucket's",
    "301": "the bucket is in another region: set AWS_REGION to the bucket's",
    "AuthorizationHeaderMalformed": "the region is wrong: set AWS_REGION to the bucket's",
    "NotImplemented": "the store lacks this operation: use one that has conditional writes",
}


def is_passing(*, status: int, code: str) -> bool:
    """Whether the same request may fare better in a while."""
    return status in _BUSY_STATUSES or code in _BUSY_CODES or (status >= 500 and status != NOT_IMPLEMENTED)


def advice(*, status: int, code: str, message: str) -> str:
    """What a person has to do. A known error is told in our words: the store's may echo a credential."""
    return _ADVICE.get(code) or " ".join(f"the store answered {status} {code} {message}".split())[:300]
