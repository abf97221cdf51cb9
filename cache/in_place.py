"""Texts that are equal but for one word in its place, or but for who is "I" and who is "you".

Such words are too common, or mean too many things, to exclude one another anywhere in a question
as those of ``opposites`` do. In one frame they do: "the first dose", "the second dose".
"""

from collections.abc import Sequence
from functools import cache

from funnel.cache.lexicon import AUXILIARIES, DOERS, IN_PLACE
from funnel.cache.order import between_ends
from funnel.cache.words import Question, stem

_FIRST = {"i": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself"}
_SECOND = {"you": "i", "your": "my", "yours": "mine", "yourself": "myself"}
_SAME_PERSON = {"me": "i", "am": "are"}
_SUBJECTS, _OBJECTS = frozenset({"i", "we"}), frozenset({"me", "us"})


def replaced(a: Question, b: Question) -> str | None:
    """Which of two words that exclude one another stands in each, all else being equal; or None."""
    ours, theirs = (" ".join(words) for words in between_ends(_folded(a), _folded(b)))
    sides = _sides()
    apart = any(
        sides[ours][group] != side
        for group, side in sides.get(theirs, {}).items()
        if group in sides.get(ours, {})
    )
    return f"{ours} against {theirs}" if apart else None


@cache
def _sides() -> dict[str, dict[int, int]]:
    """Word -> group -> its side there; an underscore joins words."""
    found: dict[str, dict[int, int]] = {}
    for number, group in enumerate(IN_PLACE):
        for side, words in enumerate(group):
            for word in words:
                found.setdefault(word.replace("_", " "), {})[number] = side
    return found


def persons_exchanged(a: Question, b: Question) -> str | None:
    """Why I do here what another does there: "can I use your logo", "who owes me"; or None."""
    ours, theirs = _folded(a), _folded(b)
    both_persons = _FIRST.keys() & set(ours) and _SECOND.keys() & set(ours)
    if both_persons and _turned(ours) == _as_subjects(theirs) != _as_subjects(ours):
        return "I and you change places"
    return _asks_for_me(ours, theirs) or _asks_for_me(theirs, ours)


def _turned(words: Sequence[str]) -> list[str]:
    """What the other of the two would say."""
    return _as_subjects([_FIRST.get(word, _SECOND.get(word, word)) for word in words])


def _as_subjects(words: Sequence[str]) -> list[str]:
    """Without what only follows from who is meant: "me" for "I", "am" for "are"."""
    return [_SAME_PERSON.get(word, word) for word in words]


def _asks_for_me(active: Sequence[str], turned: Sequence[str]) -> str | None:
    """Whether one asks who does it to me, the other to whom I do: "who owes me", "who do I owe"."""
    done, doing = _after_doer(active), _after_doer(turned)
    match (done[:2], doing[:3]):
        case ([verb, me], [auxiliary, i, same_verb]) if (
            me in _OBJECTS
            and i in _SUBJECTS
            and auxiliary in AUXILIARIES
            and stem(verb) == stem(same_verb)
        ):
            return f"who {verb} {me} against who {i} {same_verb}"
        case _:
            return None


def _after_doer(words: Sequence[str]) -> Sequence[str]:
    return next((words[place + 1 :] for place, w in enumerate(words) if w in DOERS), ())


def _folded(question: Question) -> list[str]:
    return [word.folded for word in question.words]
