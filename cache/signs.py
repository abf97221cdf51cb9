"""Signs that mean something beside the words: operators, flags, escapes, emoticons."""

import re
import unicodedata

# What is done with two numbers, in signs or words. "24/7" and "5-10" are no such thing.
_OPERATORS = (
    (re.compile(r"(?<=\d)\s*(?:[*\u00d7]|\bx\b|x(?=\d)|\btimes\b)\s*(?=\d)"), "*"),
    (re.compile(r"(?<=\d)(?:\s+/\s+|\s*\u00f7\s*|\s+(?:over|divided\s+by)\s+)(?=\d)"), "/"),
    (re.compile(r"(?<=\d)(?:\s*\+\s*|\s+plus\s+)(?=\d)"), "+"),
    (re.compile(r"(?<=\d)\s+(?:[-\u2013\u2212]|minus)\s+(?=\d)"), "-"),
)
# A flag ("chmod +x"), an escape ("\d"), an emoticon: other case or sign, other meaning.
_NOTATION = re.compile(
    r"(?<![\w)\].+-])[-+][A-Za-z](?!\w)|\\[A-Za-z](?!\w)|(?<!\w)[:;]-?[()DPp](?!\w)"
)
# Read as comparisons, signs of numbers and fractions, or of no weight beside words.
_EVERYDAY = frozenset("+<=>|~\u2212\u2044\u2264\u2265\u2260\u2a7d\u2a7e")

_ENDS = ".,?!:;"
# Signs that no word touches, perhaps in quotes, with what is asked about them.
_ALONE = re.compile(
    r"(?<!\S)\(?(?P<quote>[`'\"]?)(?P<run>[-=!<>&|+*/:^%~?.$#@]{1,4})(?P=quote)"
    rf"(?P<end>[){_ENDS}]*)(?!\S)(?P<asked>\s+(?:do|does|mean|means|operators?|signs?|symbols?)\b)?"
)
# They stand in code; others of two signs and more are dashes, arrows and so on, or comparisons,
# which words.py reads.
_OF_CODE = re.compile(r"={2,3}|!==|&&|\|\||\+\+|\*\*|//|:=|<=>|[-+*/%&|^]=|<<=|>>=|\?\?=|<<<|>>>")


def signs(plain: str) -> frozenset[str]:
    """Those of a text, in one writing each."""
    found = {_one_writing(notation) for notation in _NOTATION.findall(plain)} | _of_code(plain)
    text = plain.casefold()
    for pattern, sign in _OPERATORS:
        text, times = pattern.subn(" ", text)
        if times:
            found.add(sign)
    return frozenset(found | {c for c in text if unicodedata.category(c) == "Sm"} - _EVERYDAY)


def _of_code(plain: str) -> set[str]:
    """Operators of programming languages; signs that prose has, too, where it asks about them."""
    found = set()
    for match in _ALONE.finditer(plain):
        run = match["run"].rstrip(_ENDS) or match["run"]
        if match["quote"] or match["asked"] or _OF_CODE.fullmatch(run):
            found.add(run)
    return found


def _one_writing(notation: str) -> str:
    """The same for :-P and :p; a flag or an escape as it stands."""
    return notation.replace("-", "").upper() if notation[0] in ":;" else notation
