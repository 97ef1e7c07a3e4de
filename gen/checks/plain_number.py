"""A number as people and teachers write one, read exactly: `$1,234.50`, `50 %`, `3 1/2`, `2.5 million`, `72 clips`.

Anything that is not clearly one number is None, never a guess: `3,5`, `5x` and `5 or 6` are left to math-verify. Units
of measure count if both of the compared numbers have one.
"""

import re
import unicodedata
from dataclasses import dataclass, replace
from fractions import Fraction

from stillhouse.gen.checks.units import Unit, ratio, units_in

MAX_CHARS = 200
"""Longer texts are not plain numbers."""
MAX_EXPONENT = 400
"""Largest power of ten: no float has a larger one, and nobody means a billion digits."""

_SIGN = r"[-+\u2212\u2013]|(?i:negative|minus)(?=\s)"
_CURRENCY = r"\\?\$|€|£|¥|₹|₽|₩|₪|₺|US\$|USD|EUR|GBP|CHF|Rs\.?"
_GROUPED = r"\d{1,3}(?:(?:,|\{,\}|\\[,!;]|[ \u00a0\u2009\u202f])\d{3})+"
_DIGITS = rf"(?:{_GROUPED}|\d+)(?:\.\d*)?|\.\d+"
_POWER = (
    r"[eE](?P<e>[-+]?\d{1,4})"
    r"|\s*(?:\\times|\\cdot|[×·*xX])\s*10\s*(?:\^|\*\*)\s*\{?\s*(?P<ten>[-+\u2212]?\d{1,4})\s*\}?"
)
_FRACTION = (
    r"\\[dt]?frac\s*\{\s*(?P<n1>-?\d+)\s*\}\s*\{\s*(?P<d1>\d+)\s*\}"
    r"|\\[dt]?frac\s*(?P<n2>\d)\s*(?P<d2>\d)"
    r"|(?P<n3>\d+)\s*[/\u2044]\s*(?P<d3>\d+)"
)
_REPEATING = (
    r"(?P<fixed>\d*\.\d*)(?:\\overline\s*\{?\s*(?P<over>\d+)\s*\}?|\((?P<bracketed>\d+)\)"
    r"|(?P<dotted>(?:\\dot\s*\{?\s*\d\s*\}?)(?:\d*\\dot\s*\{?\s*\d\s*\}?)?))"
    r"|(?P<begun>\d*\.\d*?(?P<period>\d{1,12}?)(?P=period){1,30})(?:\.{3}|…|\\[lc]?dots)"
)
"""0.\\overline{3}, 0.(3) and 0.\\dot{3}; and 0.333…, with at least three digits to show what repeats."""
_VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
_PERCENT = r"\\?%|(?i:per\s?cent(?:age)?|pct)(?:\s+points?)?\b"
_SHORT_SCALES = {"k": 10**3, "m": 10**6, "b": 10**9, "bn": 10**9}
"""Suffixes that are read only in amounts of money: `$5K`."""
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_NUMBER = re.compile(
    rf"(?P<sign>{_SIGN})?\s*(?P<currency>{_CURRENCY})?\s*(?P<inner>{_SIGN})?\s*"
    rf"(?:(?P<repeating>{_REPEATING})"
    rf"|(?:(?P<whole>\d+)(?:\s+|(?=\\)))?(?:{_FRACTION})"
    rf"|(?P<before>\d*)\s*(?P<vulgar>[{_VULGAR}])"
    rf"|(?P<digits>{_DIGITS})(?:{_POWER})?)"
    rf"(?:\s*(?P<scale>(?i:{'|'.join(_SCALES)}))\b)?"
    rf"(?:\s*(?P<behind>{_CURRENCY}))?(?:\s*(?P<percent>{_PERCENT}))?(?P<unit>.*)",
    re.DOTALL,
)
_WORD_IN_TEXT = re.compile(rf"\\(?:text|mathrm)\s*\{{\s*({'|'.join(_SCALES)}|percent)\s*\}}", re.IGNORECASE)
_GROUPING = re.compile(r"\{,\}|\\[,!;]|[, \u00a0\u2009\u202f]")

_SYMBOLS = (
    "mm|cm|dm|km|nm|in|ft|yd|mi|mg|kg|lbs?|oz|ms|secs?|mins?|hrs?|ml|mL|cl|gal|mph|kph|kmh|rpm|Hz|kHz|MHz|GHz|kW|kWh|"
    "kJ|Pa|kPa|°[CF]?|cents?|¢|am|pm|AM|PM|[ap]\\.m\\.|KB|MB|GB|TB"
)
_POWERED = r"(?:\^\{?[23]\}?|[²³])?"
_UNIT_SYMBOL = re.compile(
    rf"\s*(?:(?:{_SYMBOLS}){_POWERED}|(?:{_SYMBOLS}|m){_POWERED}\s*(?:/|per)\s*(?:{_SYMBOLS}|[shLl]){_POWERED})"
)
"""A single letter is not a symbol here, because `5 m` may be a product."""
_LETTER_UNIT = re.compile(rf"(?:\s|~|\\[ ,;!])*[mgshlL]{_POWERED}")
_SHOWN_DIGITS = 3
"""With fewer digits, `0.3…` may be anything."""
_UNIT_WORDS = re.compile(r"(?:\s+|\s*-\s*)[^\W\d_]{2,}(?:[-/'’ ]+[^\W\d_]+){0,5}")
_IN_TEXT = r"\\(?:text|mathrm|textrm|textbf|mbox|operatorname|rm)\s*\{([^{}\d]*)\}"
_UNIT_TEXT = re.compile(
    rf"(?:\s|~|\\[ ,;!])*(?:{_IN_TEXT}{_POWERED}(?:\s*/\s*{_IN_TEXT}{_POWERED})?"
    rf"|\\[dt]?frac\s*\{{\s*{_IN_TEXT}\s*\}}\s*\{{\s*{_IN_TEXT}{_POWERED}\s*\}})"
)
_DEGREES = re.compile(r"\^\s*\{?\s*(?:\\circ|°)\s*\}?|\\degree|\\circ")
_NO_UNIT = set(
    re.findall(
        r"\w+",
        "or and to times plus minus divided over pi sqrt sin cos tan cot sec log ln exp mod choose max min if is "
        "equals not than through dozen dozens half quarter third squared cubed inf infinity factorial",
    )
)
"""Words that turn what they follow into more than a number."""


@dataclass(frozen=True, slots=True)
class PlainNumber:
    """A number, with the meaning of its notation."""

    value: Fraction
    """Without the percent sign: 50 for `50 %`."""
    is_percent: bool = False
    units: tuple[Unit, ...] = ()
    """The readings of its unit of measure; empty if it has none."""

    def in_unit_of(self, known: "PlainNumber") -> "PlainNumber | None":
        """The number in the unit of another; None if that measures something else. A number without a unit fits any
        unit.
        """
        if not (known.units and self.units):
            return self
        factor = ratio(known.units, self.units)
        return None if factor is None else replace(self, value=self.value * factor, units=known.units)

    def equals(self, other: "PlainNumber") -> bool:
        """True if `other`, an answer in the same unit, is this number.

        A percent sign on only one side can mean either: 50 % is 0.5, and it is 50 if a percentage was asked for. But if
        this number is a bare fraction, 0.5 % is not 0.5.
        """
        if self.is_percent == other.is_percent:
            return self.value == other.value
        percent, bare = (self.value, other.value) if self.is_percent else (other.value, self.value)
        is_bare_fraction = not self.is_percent and abs(bare) < 1
        return percent == 100 * bare or (percent == bare and not is_bare_fraction)


def plain_number(text: str, *, letters: bool = False) -> PlainNumber | None:
    """The number that the text is, or None if it is not clearly one. `letters`: read `5 m` as metres, not as a
    product."""
    if len(text) > MAX_CHARS:
        return None
    text = _WORD_IN_TEXT.sub(r" \1", _DEGREES.sub("°", text)).strip().strip("*_").strip()
    text = text.rstrip(".") if not text.endswith((".m.", "...")) else text
    found = _NUMBER.fullmatch(text)
    if found is None or (found["sign"] and found["inner"]):
        return None
    scale = _SCALES.get((found["scale"] or "").lower(), 1)
    if found["currency"] and (short := _SHORT_SCALES.get(found["unit"].lower())):
        scale *= short
    elif not (_is_unit(found["unit"]) or (letters and _LETTER_UNIT.fullmatch(found["unit"]))):
        return None
    value = _value(found)
    if value is None:
        return None
    value *= scale
    sign = found["sign"] or found["inner"] or "+"
    units = units_in(found["currency"] or found["behind"] or found["unit"])
    return PlainNumber(value if sign == "+" else -value, is_percent=found["percent"] is not None, units=units)


def _value(found: re.Match[str]) -> Fraction | None:
    if found["repeating"]:
        return _repeating(found)
    if found["digits"]:
        power = int((found["e"] or found["ten"] or "0").replace("\u2212", "-"))
        if abs(power) > MAX_EXPONENT:
            return None
        return Fraction(_GROUPING.sub("", found["digits"]).rstrip(".")) * Fraction(10) ** power
    if found["vulgar"]:
        part = Fraction(unicodedata.numeric(found["vulgar"])).limit_denominator(10)
        return int(found["before"] or 0) + part
    numerator = found["n1"] or found["n2"] or found["n3"]
    denominator = int(found["d1"] or found["d2"] or found["d3"])
    if denominator == 0 or (found["whole"] and numerator.startswith("-")):
        return None
    return int(found["whole"] or 0) + Fraction(int(numerator), denominator)


def _repeating(found: re.Match[str]) -> Fraction | None:
    fixed = found["fixed"] or found["begun"]
    period = found["over"] or found["bracketed"] or found["period"] or ""
    if found["dotted"]:
        period = "".join(re.findall(r"\d", found["dotted"]))
    whole, _, digits = fixed.partition(".")
    if found["begun"]:
        if len(period) * (len(digits) // len(period)) < _SHOWN_DIGITS:
            return None
        digits = digits[: found.start("period") - found.start("begun") - len(whole) - 1]
    scale = 10 ** len(digits)
    return Fraction(int(whole + digits or "0"), scale) + Fraction(int(period), scale * (10 ** len(period) - 1))


def _is_unit(text: str) -> bool:
    """True if the text after a number does not change its value."""
    text = text.rstrip()
    if not text or _UNIT_SYMBOL.fullmatch(text):
        return True
    if in_text := _UNIT_TEXT.fullmatch(text):
        return all(_is_wordy(words) for words in in_text.groups() if words)
    return _UNIT_WORDS.fullmatch(text) is not None and _is_wordy(text)


def _is_wordy(text: str) -> bool:
    return _NO_UNIT.isdisjoint(re.findall(r"[a-z]+", text.lower()))
