"""Bedrock's vocabulary of errors: names of exceptions, in a header, in the body or in a stream. It states no limits."""

from stillhouse.gen.teachers.vocabulary import COMMON

BEDROCK_ERRORS = COMMON.extended(
    codes={
        "auth": frozenset(
            {
                "accessdeniedexception",
                "expiredtokenexception",
                "incompletesignatureexception",
                "invalidclienttokenid",
                "invalidsignatureexception",
                "missingauthenticationtokenexception",
                "notauthorized",
                "optinrequired",
                "requestexpired",
                "signaturedoesnotmatch",
                "unrecognizedclientexception",
            }
        ),
        "rate": frozenset({"throttlingexception", "toomanyrequestsexception", "servicequotaexceededexception"}),
        "overload": frozenset({"serviceunavailableexception", "modelnotreadyexception", "modelerrorexception"}),
    },
    code_fields=frozenset({"__type"}),
    code_headers=("x-amzn-errortype",),
    headers=("x-amzn-requestid",),
)

STATUSES = {
    "throttlingException": 429,
    "modelNotReadyException": 429,
    "serviceUnavailableException": 503,
    "internalServerException": 500,
    "validationException": 400,
    "modelTimeoutException": 408,
    "modelStreamErrorException": 424,
}
"""Status of an exception outside of streams, by its name in a stream."""
