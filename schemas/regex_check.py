"""The settings of the check `regex`. A pattern that was read compiles."""

from typing import Annotated

from pydantic import AfterValidator, Field

from stillhouse.schemas.check_settings import CheckSettings


def _pattern(value: str) -> str:
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(value, options)
    except re2.error as error:
        (reason,) = error.args
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(
            f"expected a regular expression in RE2's syntax, got one that does not compile: {reason}; RE2 has no "
            "lookaround and no backreferences, because they can take forever"
        ) from None
    return value


class RegexCheck(CheckSettings):
    """Accepts an answer that contains a match of a pattern."""

    pattern: Annotated[str, Field(min_length=1), AfterValidator(_pattern)]
    """A regular expression in RE2's syntax, which may match anywhere: anchor it with ^ and $; (?i) ignores case, (?s)
    lets a dot match line breaks."""
