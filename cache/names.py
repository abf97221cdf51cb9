"""Names: which of them one question has and the other does not, in capitals or not.

Capitals mark a name, and who types in small letters leaves them out. There a word is taken for a
name if no dictionary has it and no common word is near it: "celebrex" is not "celexa".
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable

from funnel.cache.lexicon import DEMONYMS, NAME_ENDINGS, STOPWORDS
from funnel.cache.quantities import is_measure
from funnel.cache.spelling import dictionary, in_no_dictionary, is_doubling
from funnel.cache.words import Question, stem

_SHORTEST_UNLISTED = 4  # shorter ones are abbreviations, which stand for a hundred things each
_SHORTEST_SLIP = 5
_SHORTEST_STEM = 3
_LONGEST_ENDING = 4
_SAME_FRAME = 1 / 3
"""Share of the other words that must be equal where small letters are all that marks a name.

Questions that share fewer are told apart by the verifier, or are paraphrases from far away, which
call a thing by a brand and by what it is: "metronidazole", "Flagyl".
"""


def missing_names(a: Question, b: Question) -> set[str]:
    """Names of ``a`` that ``b`` does not mention in any form."""
    return _not_said(a.names, a, b)


def other_unlisted(a: Question, b: Question) -> str | None:
    """Which words that no dictionary has stand against each other in one frame, or None."""
    ours, theirs = _unlisted(a), _unlisted(b)
    if not ours or not theirs:
        return None
    only_a, only_b = _not_said(ours, a, b), _not_said(theirs, b, a)
    if not only_a or not only_b or not _in_one_frame(a, b, only_a | only_b):
        return None
    return f"{_list(only_a)} against {_list(only_b)}"


def _unlisted(question: Question) -> frozenset[str]:
    found = in_no_dictionary(question.text)
    return frozenset(word for word in found if len(word) >= _SHORTEST_UNLISTED)


def _in_one_frame(a: Question, b: Question, names: set[str]) -> bool:
    ours, theirs = (
        {w.stem for w in x.words if w.folded not in STOPWORDS and w.folded not in names}
        for x in (a, b)
    )
    return len(ours & theirs) >= _SAME_FRAME * len(ours | theirs)


def _not_said(names: Iterable[str], a: Question, b: Question) -> set[str]:
    """Those of ``a`` that are in ``b`` in no form, and not in its initials either."""
    others = {word.folded for word in b.words}
    initials = "".join(w.folded[0] for w in b.words if w.folded not in STOPWORDS)
    return {
        name
        for name in names
        if not any(_alike(name, other) for other in others)
        and not (len(name) > 1 and name in initials)
        and not _abbreviates(a, b, name)
        and not is_measure(name)
    }


def _alike(name: str, other: str) -> bool:
    """The same name, an inflection of it, who is of that country, or one typing slip away."""
    if name == other or stem(name) == stem(other):
        return True
    if other in DEMONYMS.get(name, ()) or name in DEMONYMS.get(other, ()):
        return True
    name, other = _plain(name), _plain(other)
    if min(len(name), len(other)) < _SHORTEST_SLIP:
        return name == other
    return _begins_alike(name, other) or _is_slip(name, other)


def _plain(name: str) -> str:
    """Without accents, and spelt as in America: "demonetisation" as "demonetization"."""
    letters = (c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return "".join(letters).replace("isa", "iza").replace("ise", "ize").replace("isi", "izi")


def _begins_alike(name: str, other: str) -> bool:
    """Whether they are forms of one word; without a dictionary five equal letters must do."""
    shared, least = _shared_letters(name, other), min(len(name), len(other))
    english = dictionary()
    common = english.is_common(name) and english.is_common(other)
    if shared >= _SHORTEST_SLIP and (shared == least or common or not english):
        return True
    cuts = range(max(_SHORTEST_STEM, least - _LONGEST_ENDING), shared + 1)
    endings = NAME_ENDINGS | {""}
    return any(name[cut:] in endings and other[cut:] in endings for cut in cuts)


def _shared_letters(name: str, other: str) -> int:
    least = min(len(name), len(other))
    return next((place for place in range(least) if name[place] != other[place]), least)


def _is_slip(name: str, other: str) -> bool:
    """Whether one letter tells them apart, unless it makes a known name of another known one."""
    if abs(len(name) - len(other)) > 1 or name[0] != other[0]:
        return False
    counts, others = Counter(name), Counter(other)
    swapped = counts == others
    if swapped or is_doubling(name, other):
        return True
    near = (counts - others).total() <= 1 and (others - counts).total() <= 1
    english = dictionary()
    return near and not (name in english and other in english)


def _abbreviates(a: Question, b: Question, name: str) -> bool:
    """Whether ``name`` is a word of a phrase that stands in ``b`` as its initials."""
    content = [w.folded for w in a.words if w.folded not in STOPWORDS]
    return any(
        name in content[i : i + len(word.folded)]
        and "".join(w[0] for w in content[i : i + len(word.folded)]) == word.folded
        for word in b.words
        if 2 <= len(word.folded) <= 5
        for i in range(len(content) - len(word.folded) + 1)
    )


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))
