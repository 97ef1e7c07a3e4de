"""The settings of the check `language`."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from stillhouse.schemas.check_settings import CheckSettings
from stillhouse.schemas.languages import LANGUAGES


def _languages(value: Any) -> Any:
    codes = (value,) if isinstance(value, str) else value
    if not isinstance(codes, (list, tuple)) or not codes or not all(isinstance(code, str) for code in codes):
        raise ValueError("expected a language code, such as `en`, or a list of them, `[en, de]`")
    for code in codes:
        if code not in LANGUAGES:
            raise ValueError(f"expected a language code that is known, got {code!r}{_language_meant(code)}")
    return tuple(codes)


def _language_meant(code: str) -> str:
    head = code.lower().replace("_", "-").split("-")[0]
    named = [known for known, name in LANGUAGES.items() if name.lower() == code.lower()]
    if meant := named or [known for known in LANGUAGES if known == head]:
        return f"; did you mean {meant[0]}?"
    return f"; the codes are {', '.join(LANGUAGES)}"


class LanguageCheck(CheckSettings):
    """Accepts an answer in a language; code and formulas in it are ignored."""

    any_of: Annotated[tuple[str, ...], BeforeValidator(_languages), Field(alias="is")]
    """The language's ISO 639-1 code, such as `en`, or a list of accepted codes."""
