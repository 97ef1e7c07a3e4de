"""Google's vocabulary of errors, on AI Studio and on Vertex, whichever model answers."""

from stillhouse.gen.teachers.vocabulary import COMMON, ErrorVocabulary


def with_google_words(errors: ErrorVocabulary) -> ErrorVocabulary:
    """A vocabulary that also knows Google's words."""
    return errors.extended(
        codes={
            # FAILED_PRECONDITION: the region is not served, or billing is off.
            "auth": frozenset({"api_key_invalid", "api_key_service_blocked", "unauthenticated", "failed_precondition"}),
            "rate": frozenset({"resource_exhausted"}),
            "overload": frozenset({"unavailable"}),
        },
        code_fields=frozenset({"quotaId"}),
        wait_fields=("retryDelay",),
    )


GOOGLE_ERRORS = with_google_words(COMMON)
