"""Numbers in a question, written as digits, words or Roman numerals, with their units."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from funnel.cache.lexicon import DIRECTED, JOINING, STOPWORDS

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

_MONTH_NAMES = """
january february march april may june july august september october november december
jan feb mar apr may jun jul aug sep oct nov dec
"""
MONTHS = {word: str(place % 12 + 1) for place, word in enumerate(_MONTH_NAMES.split())}
# Words that may or may not count; they excuse a number that only the other side has.
LOOSELY = {"1": "one first single once", "2": "second double both pair couple"}
LOOSELY |= {"0.5": "half", "1/2": "half"}

_MINUS = "\u2212"  # surely a sign; a hyphen or a dash may be one
_OPENING = r"(?<![^\s(\[{=<>\u2264\u2265,;:])(?<!\d\s)"
_NUMBER = re.compile(
    rf"(?:{_OPENING}(?P<sign>[-\u2013{_MINUS}])(?=[$€£₹¥]?[\d.]))?"
    r"(?P<currency>[$€£₹¥])?\s?"
    r"(?P<written>(?P<number>(?<![\d.,])\d+(?:[.,:]\d+)*|(?<![\w.,])\.\d+)(?:st|nd|rd|th)?)"
    r"\s?-?(?:degrees?\s)?(?P<after>°?[^\W\d_]+|%)?"
)
_COMPOUND = re.compile(rf"\b({'|'.join(_TENS)})[\s-]({'|'.join(_DIGITS)})\b")
_SPELLED = re.compile(
    rf"(?P<sign>{_MINUS})?\b(?P<written>{'|'.join([*_WORDS, *_ROMAN])})\b"
    r"(?:[\s-](?P<after>[a-z]+))?"
)
_SAID_MINUS = re.compile(rf"\b(?:minus|negative)\s+(?=\d|(?:{'|'.join([*_WORDS, *_DIGITS])})\b)")
_THOUSANDS = re.compile(r"^\d{1,3}(,\d{2,3})+(\.\d+)?$")
_DATE = re.compile(
    r"(?<![\w/.-])(?:(\d{4})([/.-])(\d{1,2})\2(\d{1,2})"
    r"|(\d{1,2})([/.-])(\d{1,2})\6(\d{4})|(\d{1,2})(/)(\d{1,2})/(\d\d))(?!\d|[/.-]\d)"
)
# 500/1000 notes are two amounts, 2015/16 is a season and iPhone 6/6s two phones.
_FRACTION = re.compile(r"(?<![\w/.,:-])(\d{1,2})\s?[/\u2044]\s?(\d{1,2})(?![\w/]|[.,:-]\d)")
_NEXT = re.compile(r"[\s(\"-]*(?:([,&/\u2013])|(°?[^\W_]+(?:[.,:]\d+)*))")
_LISTING = JOINING | {"to"}
_LAST_WORD = re.compile(r"[^\W_]+(?=\s*$)")
_HYPHENATED = MONTHS.keys() | {"covid", "cov"}  # written with a space, too
_MONTHS, _DAYS = 12, 31
_FAR, _LONGEST = 12, 40  # words and characters that are looked at beside a number


@dataclass(frozen=True, slots=True, order=True)
class Quantity:
    """A number as canonical text, and its unit's first name or nothing.

    A date or a fraction is one quantity, for 1/2 is not 2/1; ``parts`` are its numbers, because
    others may write them apart.
    """

    value: str
    unit: str = ""
    parts: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Counted:
    """A quantity where it stands: ``of`` is the next word that says what is counted, or nothing."""

    quantity: Quantity
    of: str = ""


def is_measure(word: str) -> bool:
    """Whether a folded word is a unit or a Roman numeral rather than a name."""
    return word in _UNIT or word in _ROMAN or word in _TIMES


def unit_of(word: str) -> str:
    """The first name of a unit, nothing for other words."""
    return _UNIT.get(word, "")


def quantities(text: str) -> frozenset[Quantity]:
    """All quantities of a text.

    >>> sorted(q.value + q.unit for q in quantities("two 5 GB disks for $1,000"))
    ['1000dollar', '2', '5gb']
    """
    return frozenset(counted.quantity for counted in count(text))


def count(text: str) -> tuple[Counted, ...]:
    """All quantities of a text with what they count."""
    folded = _COMPOUND.sub(_join_compound, text.casefold())
    return tuple(_scan(_SAID_MINUS.sub(_sign_for_word, folded)))


def join_wholes(folded: str) -> str:
    """The text with each date and fraction as one word, the same for 25/12/2024 and 2024-12-25."""
    for pattern, read in _wholes():
        for match in reversed(list(pattern.finditer(folded))):
            quantity = read(match)
            if quantity is not None:
                word = re.sub(r"\D", "_", quantity.value)
                folded = folded[: match.start()] + word + folded[match.end() :]
    return folded


def _wholes() -> tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Quantity | None]], ...]:
    return ((_DATE, _from_date), (_FRACTION, _from_fraction))


def _scan(folded: str) -> Iterator[Counted]:
    for pattern, read in _wholes():
        for match in list(pattern.finditer(folded)):
            quantity = read(match)
            if quantity is not None:
                yield Counted(quantity, _follower(folded, match.end()))
                folded = _blank(folded, match)
    for match in _NUMBER.finditer(folded):
        yield Counted(_from_digits(match), _follower(folded, match.end("written")))
    for match in _SPELLED.finditer(folded):
        yield Counted(_from_word(match), _follower(folded, match.end("written")))


def _blank(text: str, match: re.Match[str]) -> str:
    return text[: match.start()] + " " * len(match[0]) + text[match.end() :]


def _join_compound(match: re.Match[str]) -> str:
    return str(_WORDS[match[1]] + _DIGITS[match[2]])


def _sign_for_word(match: re.Match[str]) -> str:
    """A sign for "minus 5", but not for the subtraction in "10 minus 5"."""
    before = _word_before(match)
    return match[0] if before[-1:].isdigit() or before in _WORDS | _DIGITS else _MINUS


def _word_before(match: re.Match[str]) -> str:
    """The word before a match with nothing but white space between, or nothing."""
    start = match.start()
    word = _LAST_WORD.search(match.string[max(0, start - _LONGEST) : start])
    return word[0] if word else ""


def _follower(text: str, start: int) -> str:
    """The next word that says what a number counts; numbers in a list (5 or 10 days) share it."""
    listing = "-" in text[start : start + 1]
    for _ in range(_FAR):
        match = _NEXT.match(text, start)
        if match is None:
            return ""
        word, start = match[2] or "", match.end()
        if word[:1].isdigit() or word in _WORDS:
            if not listing:
                return ""
            listing = False
        elif not word or word in _LISTING:
            listing = True
        elif not (listing and word in _UNIT) and word not in STOPWORDS | DIRECTED | _TIMES.keys():
            return "" if listing else word
    return ""


def _from_date(match: re.Match[str]) -> Quantity | None:
    """Year, month, day where it is clear which is which, else the numbers as they stand."""
    first, mark, second, third = [part for part in match.groups() if part is not None]
    numbers = [int(first), int(second), int(third)]
    parts = tuple(str(number) for number in numbers)
    if len(first) == 4:
        year, month, day = numbers
    else:
        day, month, year = numbers
        if month > _MONTHS:
            month, day = day, month
        elif day <= _MONTHS and day != month and mark != ".":  # the first of May or January 5th
            return Quantity("/".join(parts), parts=parts)
    valid = 1 <= month <= _MONTHS and 1 <= day <= _DAYS
    return Quantity(f"{year}-{month}-{day}", parts=parts) if valid else None


def _from_fraction(match: re.Match[str]) -> Quantity:
    parts = (str(int(match[1])), str(int(match[2])))
    return Quantity("/".join(parts), parts=parts)


def _from_digits(match: re.Match[str]) -> Quantity:
    after = match["after"] or ""
    unit = _UNIT.get(match["currency"] or "", "") or _UNIT.get(after, "")
    value = _canonical(match["number"], measured=bool(unit))
    if after in _TIMES and value.count(".") < 2:
        value = f"{float(value) * _TIMES[after]:.15g}"
    return Quantity(f"-{value}" if _is_sign(match) else value, unit)


def _is_sign(match: re.Match[str]) -> bool:
    """Whether the number is negative: "power -5", but not "2am -5am" and "covid -19"."""
    if match["sign"] is None or match["sign"] == _MINUS:
        return match["sign"] is not None
    before = _word_before(match)
    return not before[:1].isdigit() and before not in _HYPHENATED


def _from_word(match: re.Match[str]) -> Quantity:
    value = _WORDS.get(match["written"], _ROMAN.get(match["written"], 0))
    after = match["after"] or ""
    sign = "-" if match["sign"] else ""
    return Quantity(f"{sign}{value * _TIMES.get(after, 1)}", _UNIT.get(after, ""))


def _canonical(number: str, *, measured: bool) -> str:
    if _THOUSANDS.match(number):
        number = number.replace(",", "")
    number = number.replace(",", ".").replace(":", ".")
    if number.count(".") == 1 and not number.split(".")[1].strip("0"):  # 3.0 is 3, 8:00 is 8
        number = number.split(".")[0]
    if measured and number.count(".") == 1:  # 2.50 dollars are 2.5; version 3.10 is not 3.1
        number = number.rstrip("0").rstrip(".")
    return re.sub(r"^0+(?=\d)|^(?=\.)", lambda zeros: "" if zeros[0] else "0", number) or "0"
