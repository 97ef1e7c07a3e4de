"""`language`: the answer is in a language. Score: the probability of the most likely accepted one.

Code, formulas and links are removed first, because they have no language. If too few letters are left to tell, the
answer is accepted: `42` is not in another language either.
"""

import re
from functools import cache
from typing import Any

from stillhouse.gen.checks.base import Answer, CheckResult, Row
from stillhouse.schemas.language_check import LanguageCheck

MAX_CHARS = 20_000
"""How many characters of a text are examined: more change no verdict, and the model takes 80 ns per character."""
MIN_LETTERS = 12
"""With fewer letters the model only guesses; a letter of a script without spaces counts as three."""
_NO_LANGUAGE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|\\\(.*?\\\)|\\\[.*?\\\]|https?://\S+", re.DOTALL
)
_COMMAND = re.compile(r"\\[A-Za-z]+|[\d_]+")
_DENSE = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

_VARIANTS = {
    "ar": ("ary", "arz"),
    "bs": ("hr", "sr"),
    "en": ("pcm",),
    "fa": ("sdh",),
    "hr": ("bs", "sr"),
    "id": ("ms",),
    "it": ("lij", "vec"),
    "lv": ("ltg",),
    "ms": ("id",),
    "no": ("nn", "da"),
    "sr": ("bs", "hr"),
    "uz": ("uzs",),
    "zh": ("wuu", "yue"),
}
"""The model's names for a language and its closest relatives, which it can't tell apart in short texts."""


class Language:
    """Uses a model of 4 MB, which takes half a second to load and is loaded once."""

    def __init__(self, settings: LanguageCheck) -> None:
        self._model = _model()
        self._any_of = settings.any_of
        self._accepted = {name for code in settings.any_of for name in (code, *_VARIANTS.get(code, ()))}

    def judge(self, answer: Answer, row: Row) -> CheckResult:
        """See `Check`."""
        text = prose(answer.text)
        if _letters(text) < MIN_LETTERS:
            return CheckResult(True, None, "too few letters to tell")
        ranked: dict[str, float] = dict(self._model.rank(text))
        likeliest = next(iter(ranked))
        wanted = max(ranked.get(name, 0.0) for name in self._accepted)
        detail = f"{likeliest}, probability {ranked[likeliest]:.2f}"
        if likeliest in self._accepted:
            return CheckResult(True, wanted, detail)
        return CheckResult(False, wanted, f"{detail}, expected {' or '.join(self._any_of)}")


@cache
def _model() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def prose(text: str) -> str:
    """The beginning of a text without the parts that have no language."""
    return _COMMAND.sub(" ", _NO_LANGUAGE.sub(" ", text[:MAX_CHARS]))


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text)) + 2 * len(_DENSE.findall(text))
