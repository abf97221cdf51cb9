"""Numbers in a question, written as digits, words or Roman numerals, with their units."""

import re
from dataclasses import dataclass

_UNITS = """
second seconds sec secs
minute minutes min mins
hour hours hr hrs
day days
week weeks
month months
year years yr yrs
kilometre kilometres kilometer kilometers km kms
metre metres meter meters
centimetre centimetres centimeter centimeters cm cms
millimetre millimetres millimeter millimeters mm
mile miles
foot feet ft
inch inches
gram grams gm gms
kilogram kilograms kg kgs kilo kilos
pound pounds lb lbs
ounce ounces oz
litre litres liter liters
gallon gallons
kb kilobyte kilobytes
mb megabyte megabytes
gb gigabyte gigabytes
tb terabyte terabytes
kbps
mbps
gbps
hz
khz
mhz
ghz
watt watts
kw kilowatt kilowatts
kwh
volt volts
percent % pct
dollar dollars usd $
euro euros eur €
rupee rupees rs inr ₹
yen jpy ¥
gbp £
celsius °c
fahrenheit °f
am a.m
pm p.m
"""
_UNIT = {word: line.split()[0] for line in _UNITS.strip().splitlines() for word in line.split()}
_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORDS = {word: value for value, word in enumerate(_ONES) if value != 1}
_WORDS |= {word: 10 * value for value, word in enumerate(_TENS, start=2)}
_WORDS |= {
    "hundred": 100,
    "dozen": 12,
    "third": 3,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "seventh": 7,
    "eighth": 8,
    "ninth": 9,
    "tenth": 10,
    "twice": 2,
}
_DIGITS = {word: value for value, word in enumerate(_ONES) if 0 < value < 10}
# "I", "V", "X", "C", "D", "M", "L" alone are letters far more often than numbers.
_ROMAN = {"ii": 2, "iii": 3, "iv": 4, "vi": 6, "vii": 7, "viii": 8, "ix": 9, "xi": 11, "xii": 12}

_TIMES = {"k": 1_000, "thousand": 1_000, "lakh": 100_000, "lakhs": 100_000, "crore": 10**7}
_TIMES |= {"crores": 10**7, "m": 10**6, "million": 10**6, "bn": 10**9, "billion": 10**9}

# Words that may or may not count; they excuse a number that only the other side has.
LOOSELY = {"1": "one first single once", "2": "second double both pair couple", "0.5": "half"}

_NUMBER = re.compile(
    r"([$€£₹¥])?\s?(?<![\d.,])(\d+(?:[.,:]\d+)*)(?:st|nd|rd|th)?\s?-?(?:degrees?\s)?(°?[^\W\d_]+|%)?"
)
_COMPOUND = re.compile(rf"\b({'|'.join(_TENS)})[\s-]({'|'.join(_DIGITS)})\b")
_SPELLED = re.compile(rf"\b({'|'.join([*_WORDS, *_ROMAN])})\b(?:[\s-]([a-z]+))?")
_THOUSANDS = re.compile(r"^\d{1,3}(,\d{2,3})+(\.\d+)?$")


@dataclass(frozen=True, slots=True, order=True)
class Quantity:
    """A number as canonical text, and its unit's first name or nothing."""

    value: str
    unit: str = ""


def is_measure(word: str) -> bool:
    """Whether a folded word is a unit or a Roman numeral rather than a name."""
    return word in _UNIT or word in _ROMAN or word in _TIMES


def quantities(text: str) -> frozenset[Quantity]:
    """All quantities of a text.

    >>> sorted(q.value + q.unit for q in quantities("two 5 GB disks for $1,000"))
    ['1000dollar', '2', '5gb']
    """
    folded = _COMPOUND.sub(_join_compound, text.casefold())
    found = {_from_digits(match) for match in _NUMBER.finditer(folded)}
    found |= {_from_word(match) for match in _SPELLED.finditer(folded)}
    return frozenset(found)


def _join_compound(match: re.Match[str]) -> str:
    return str(_WORDS[match[1]] + _DIGITS[match[2]])


def _from_digits(match: re.Match[str]) -> Quantity:
    currency, number, after = match[1] or "", match[2], match[3] or ""
    unit = _UNIT.get(currency, "") or _UNIT.get(after, "")
    value = _canonical(number, measured=bool(unit))
    if after in _TIMES and value.count(".") < 2:
        value = f"{float(value) * _TIMES[after]:.15g}"
    return Quantity(value, unit)


def _from_word(match: re.Match[str]) -> Quantity:
    value = _WORDS.get(match[1], _ROMAN.get(match[1], 0))
    after = match[2] or ""
    return Quantity(str(value * _TIMES.get(after, 1)), _UNIT.get(after, ""))


def _canonical(number: str, *, measured: bool) -> str:
    if _THOUSANDS.match(number):
        number = number.replace(",", "")
    number = number.replace(",", ".").replace(":", ".")
    if number.count(".") == 1 and not number.split(".")[1].strip("0"):  # 3.0 is 3, 8:00 is 8
        number = number.split(".")[0]
    if measured and number.count(".") == 1:  # 2.50 dollars are 2.5; version 3.10 is not 3.1
        number = number.rstrip("0").rstrip(".")
    return number.lstrip("0") or "0"
