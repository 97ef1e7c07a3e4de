"""Units of measure after a number, so that 5 km is 5,000 m and neither 5 m nor 5 kg.

Words that are not a unit of measure, such as `clips` or `in total`, are ignored: nobody can tell whether two nouns mean
the same things.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product
from typing import TypeAlias

Quantity: TypeAlias = tuple[tuple[tuple[str, int], ...], Fraction]
"""(powers of base quantities by name, size in base units): square feet are (("length", 2),)."""
Reading: TypeAlias = tuple[str, Fraction]
"""(base quantity, size in base units): `pound` has two, of mass and of money."""

MOST_FACTORS = 4
"""No unit of measure that people write is a product of more."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One reading of a unit's text."""

    of: Quantity
    per: Quantity | None
    """What is below the line, such as the hour in km/h."""


def _table(*rows: tuple[str, str, str]) -> Iterator[tuple[str, Reading]]:
    for quantity, factor, names in rows:
        for name in names.split():
            yield name, (quantity, Fraction(factor))


_READINGS: dict[str, list[Reading]] = {}
for _name, _reading in _table(
    ("length", "1", "m meter meters metre metres"),
    ("length", "1000", "km kilometer kilometers kilometre kilometres"),
    ("length", "1/10", "dm decimeter decimeters decimetre decimetres"),
    ("length", "1/100", "cm centimeter centimeters centimetre centimetres"),
    ("length", "1/1000", "mm millimeter millimeters millimetre millimetres"),
    ("length", "1/1000000000", "nm nanometer nanometers nanometre nanometres"),
    ("length", "0.0254", "inch inches"),
    ("length", "0.3048", "ft foot feet"),
    ("length", "0.9144", "yd yds yard yards"),
    ("length", "1609.344", "mi mile miles"),
    ("mass", "1", "g gram grams gramme grammes"),
    ("mass", "1000", "kg kgs kilogram kilograms kilo kilos"),
    ("mass", "1/1000", "mg milligram milligrams"),
    ("mass", "453.59237", "lb lbs pound pounds"),
    ("mass", "28.349523125", "oz ounce ounces"),
    ("time", "1", "s sec secs second seconds"),
    ("time", "1/1000", "ms millisecond milliseconds"),
    ("time", "60", "min mins minute minutes"),
    ("time", "3600", "h hr hrs hour hours"),
    ("time", "86400", "day days"),
    ("time", "604800", "week weeks"),
    ("calendar", "1", "month months"),
    ("calendar", "12", "year years"),
    ("morning", "1", "am a.m. AM"),
    ("afternoon", "1", "pm p.m. PM"),
    ("volume", "1", "l L liter liters litre litres"),
    ("volume", "1/100", "cl"),
    ("volume", "1/1000", "ml mL milliliter milliliters millilitre millilitres"),
    ("volume", "3.785411784", "gal gallon gallons"),
    ("volume", "0.946352946", "quart quarts"),
    ("volume", "0.473176473", "pint pints"),
    ("volume", "0.2365882365", "cup cups"),
    ("frequency", "1", "Hz"),
    ("frequency", "1000", "kHz"),
    ("frequency", "1000000", "MHz"),
    ("frequency", "1000000000", "GHz"),
    ("power", "1000", "kW"),
    ("energy", "1000", "kJ"),
    ("energy", "3600000", "kWh"),
    ("pressure", "1", "Pa"),
    ("pressure", "1000", "kPa"),
    ("data", "1", "KB"),
    ("data", "1000", "MB"),
    ("data", "1000000", "GB"),
    ("data", "1000000000", "TB"),
    ("temperature C", "1", "°C"),
    ("temperature F", "1", "°F"),
    ("dollars", "1", "$ US$ USD dollar dollars"),
    ("dollars", "1/100", "¢ cent cents"),
    ("euros", "1", "€ EUR euro euros"),
    ("euros", "1/100", "cent cents"),
    ("pounds", "1", "£ GBP pound pounds"),
    ("yen", "1", "¥ yen"),
    ("rupees", "1", "₹ Rs Rs. rupee rupees"),
):
    _READINGS.setdefault(_name, []).append(_reading)
_SPEEDS = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h"}

_NOTATIONS = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\\(?:text|mathrm|textrm|textbf|mbox|operatorname|rm)\s*\{([^{}]*)\}", r" \1"),
        (r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2"),
        (r"~|\\[ ,;!]|\\(?=[$%])|\*\*", " "),
        (r"\^\s*\{?\s*(?:\\circ|°)\s*\}?|\\degree|\\circ|\bdegrees?(?=\s+(?:[CF]\b|Celsius|Fahrenheit))", "°"),
        (r"(?<=°)\s*C(?:elsius)?\b", "C"),
        (r"(?<=°)\s*F(?:ahrenheit)?\b", "F"),
        (r"²", "^2"),
        (r"³", "^3"),
        (r"\b(\w+)\s+squared\b", r"square \1"),
        (r"\b(\w+)\s+cubed\b", r"cubic \1"),
    )
)
_POWERS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3}
_TOKEN = re.compile(r"\s*(/|\bper\b|[·*]|\\cdot|°\s*[CF]|(?:US)?\$|[^\W\d_]\.m\.|[€£¥₹¢]|[^\W\d_]+\.?)\s*")
_POWER = re.compile(r"\s*\^?\s*\{?\s*([23])\s*\}?")


@lru_cache(maxsize=1024)
def units_in(text: str) -> tuple[Unit, ...]:
    """The readings of the unit that a text begins with; empty if it begins with another word."""
    plain = _plain(text)
    factors: list[tuple[list[Reading], int]] = []
    at, sign, power = 0, 1, 1
    while (token := _TOKEN.match(plain, at)) and len(factors) < MOST_FACTORS:
        word, at = token[1].replace(" ", ""), token.end()
        if word in ("/", "per"):
            if not factors:
                break
            sign = -1
        elif word in _POWERS:
            power = _POWERS[word]
        elif word in _SPEEDS:
            return units_in(_SPEEDS[word])
        elif word not in ("·", "*", "\\cdot"):
            readings = _READINGS.get(word) or _READINGS.get(word.removesuffix("."))
            if readings is None:
                break
            if raised := _POWER.match(plain, token.end(1)):
                power, at = int(raised[1]), raised.end()
            factors.append((readings, sign * power))
            sign = power = 1
    choices = product(*(readings for readings, _ in factors)) if factors else ()
    return tuple(_unit(list(zip(chosen, (power for _, power in factors), strict=True))) for chosen in choices)


def _unit(factors: list[tuple[Reading, int]]) -> Unit:
    below = [(reading, -power) for reading, power in factors if power < 0]
    return Unit(_product([each for each in factors if each[1] > 0]), _product(below) if below else None)


def _product(factors: list[tuple[Reading, int]]) -> Quantity:
    powers: Counter[str] = Counter()
    size = Fraction(1)
    for (quantity, count), power in factors:
        if quantity == "volume":  # a litre is a thousandth of a cubic metre
            quantity, count, dimensions = "length", count / 1000, 3
        else:
            dimensions = 1
        powers[quantity] += dimensions * power
        size *= count**power
    return tuple(sorted(powers.items())), size


def _plain(text: str) -> str:
    """A unit's text in one notation."""
    for pattern, plain in _NOTATIONS:
        text = pattern.sub(plain, text)
    text = text.lstrip("- ")
    if text.rstrip(" .") in ("in", "in^2", "in^3"):  # elsewhere a word
        return text.replace("in", "inch", 1)
    return text


def ratio(known: tuple[Unit, ...], got: tuple[Unit, ...]) -> Fraction | None:
    """Factor that converts a number in the second unit to the first; None if they measure different things.

    If there are several readings, those that agree count. `per hour` on only one side is ignored, like a missing unit.
    """
    ratios = [
        theirs.of[1] / ours.of[1] * (ours.per[1] / theirs.per[1] if ours.per and theirs.per else 1)
        for ours in known
        for theirs in got
        if ours.of[0] == theirs.of[0] and (not (ours.per and theirs.per) or ours.per[0] == theirs.per[0])
    ]
    return min(ratios, key=lambda each: abs(each - 1), default=None)
