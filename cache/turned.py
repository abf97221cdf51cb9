"""Texts of the same words in which somebody else does it: I for you, done to me for done by me."""

import re
from collections.abc import Sequence

from funnel.cache.lexicon import AUXILIARIES
from funnel.cache.order import framed
from funnel.cache.words import Question, stem

_FIRST = {"i": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself"}
_SECOND = {"you": "i", "your": "my", "yours": "mine", "yourself": "myself"}
_SAME_PERSON = {"me": "i", "am": "are"}
# Not "what": "what do I need to send" and "what sends me to it" exchange more than persons.
_DOERS = frozenset({"who", "whom", "which"})
_BEING = frozenset({"am", "is", "are", "was", "were"})
_AUXILIARIES = AUXILIARIES | _BEING | {"have", "has", "had", "can", "will"}
_SUBJECTS, _OBJECTS = frozenset({"i", "we"}), frozenset({"me", "us"})
_BECOMES = re.compile(r"\b(?:get|be|become) (\w+) as (?:a|an|one|the)\b ?(.*)")


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
    if not done or len(doing) < 2 or _SUBJECTS & set(done) or _OBJECTS & set(doing):
        return None
    verb, (i, same_verb) = done[0], doing[:2]
    if not _OBJECTS & set(done[1:]) or i not in _SUBJECTS or stem(verb) != stem(same_verb):
        return None
    return f"who {verb} me against who {i} {same_verb}"


def _after_doer(words: Sequence[str]) -> Sequence[str]:
    """What follows on who or whom, and on the auxiliary there."""
    after = next((words[place + 1 :] for place, w in enumerate(words) if w in _DOERS), ())
    return after[1:] if after and after[0] in _AUXILIARIES else after


def done_to_me(a: Question, b: Question) -> str | None:
    """Why it is done to me in one and by me in the other, all else being equal; or None.

    "Can I be searched" against "can I search", "what am I owed" against "what do I owe", "get
    hired as a plumber" against "hire a plumber". Only of me: "when will it launch" and "when will
    it be launched" are one question.
    """
    ours, theirs = _folded(a), _folded(b)
    return (
        _is_done(ours, theirs)
        or _is_done(theirs, ours)
        or _becomes(" ".join(ours), " ".join(theirs))
        or _becomes(" ".join(theirs), " ".join(ours))
    )


def _is_done(passive: list[str], active: list[str]) -> str | None:
    frame = framed(passive, active)
    match frame.ours, frame.theirs:
        case ["be", done] | ["be", done, _], [does] if _is_subject(frame.start[-1:]):
            pass
        case [am, i, done], [do, also_i, does] if (
            am in _BEING and do in AUXILIARIES and i == also_i and i in _SUBJECTS
        ):
            pass
        case _:
            return None
    same = stem(done) == stem(does) and done != does and not done.endswith("ing")
    return f"{' '.join(frame.ours)} against {' '.join(frame.theirs)}" if same else None


def _is_subject(word: list[str]) -> bool:
    return not _SUBJECTS.isdisjoint(word)


def _becomes(passive: str, active: str) -> str | None:
    found = _BECOMES.search(passive)
    if found is None or found[1] in active.split():
        return None
    does = re.search(rf"\b(\w+) (?:a|an|the|my|our)\b {re.escape(found[2]) or '.'}", active)
    if does is None or does[1].endswith("ed") or stem(does[1]) != stem(found[1]):
        return None
    return f"{found[1]} as one against {does[1]}"


def _folded(question: Question) -> list[str]:
    return [word.folded for word in question.words]
