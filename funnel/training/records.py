"""What training reads: labelled pairs, triples and test cases, each remembering its place."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite

from funnel.errors import InputError

QUERY = ("query", "question", "question1", "anchor", "text1", "sentence1")
DOCUMENT = ("document", "passage", "question2", "answer", "positive", "text2", "sentence2", "text")
POSITIVE = (
    "positive", "relevant", "document", "passage", "answer", "text", "question2", "text2",
    "sentence2",
)  # fmt: skip
NEGATIVE = ("negative", "distractor")
SCORE = ("label", "score", "is_duplicate", "relevance")
SOFT = ("score", "label", "relevance", "is_duplicate")

Values = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """A query, a document and how well they fit: a label (0 or 1) or a soft score."""

    query: str
    document: str
    score: float
    topic: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Triple:
    """A query with a better and a worse document, and the teacher's scores if there are any."""

    query: str
    positive: str
    negative: str
    positive_score: float | None = None
    negative_score: float | None = None
    topic: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One hard test: ``relevant`` must outscore ``distractor``, which shares the query's words.

    ``seen`` says whether the topic was part of training; None if the file does not tell.
    """

    query: str
    relevant: str
    distractor: str
    topic: str = ""
    seen: bool | None = None
    place: str = ""


def labelled_pair(values: Values, place: str) -> LabelledPair:
    """Read one labelled pair; see the module's constants for the accepted column names."""
    return _pair(values, place, _score(values, SCORE, "label"))


def scored_pair(values: Values, place: str) -> LabelledPair:
    """Read one pair with a teacher's score; a label beside it is left to those who learn labels."""
    return _pair(values, place, _score(values, SOFT, "score"))


def unlabelled_pair(values: Values, place: str) -> LabelledPair:
    """Read a pair for a teacher to score; a score in the file is not looked at.

    A triple is none: its negative would be lost without a word.
    """
    if found := next((name for name in NEGATIVE if _present(values, name)), None):
        raise InputError(
            f"{found!r}: got a triple, expected a query and one document; triples are for "
            "bi-encoder --loss margin_mse, `funnel train mine` writes pairs with --format pairs"
        )
    return _pair(values, place, 0.0)


def known_pair(values: Values, place: str) -> LabelledPair:
    """Read one (query, positive) pair; a label, if there is one, may say that it is none."""
    labelled = any(_present(values, name) for name in SCORE)
    return LabelledPair(
        _text(values, QUERY, "query"),
        _text(values, POSITIVE, "positive"),
        _score(values, SCORE, "label") if labelled else 1.0,
        _topic(values),
        place,
    )


def triple(values: Values, place: str) -> Triple:
    """Read one triple; the two scores come together or not at all."""
    better, worse = (_optional_score(values, f"{side}_score") for side in ("positive", "negative"))
    if (better is None) != (worse is None):
        raise InputError("only one of 'positive_score' and 'negative_score' is given; give both")
    return Triple(
        _text(values, QUERY, "query"),
        _text(values, POSITIVE, "positive"),
        _text(values, NEGATIVE, "negative"),
        better,
        worse,
        _topic(values),
        place,
    )


def case(values: Values, place: str) -> Case:
    """Read one test case of the hard-distractor protocol."""
    relevant = _text(values, ("relevant", "positive", "document"), "relevant")
    distractor = _text(values, NEGATIVE, "distractor")
    if relevant == distractor:
        raise InputError("relevant and distractor are the same text, so no model can be right")
    return Case(
        _text(values, QUERY, "query"),
        relevant,
        distractor,
        _topic(values),
        _flag(values, "seen"),
        place,
    )


def check_writable(name: str, text: str) -> None:
    """Refuse what JSON may hold and no file in UTF-8 can.

    Raises:
        InputError: names the field.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name!r} holds a lone surrogate, which is not valid text") from None


def _pair(values: Values, place: str, score: float) -> LabelledPair:
    return LabelledPair(
        _text(values, QUERY, "query"),
        _text(values, DOCUMENT, "document"),
        score,
        _topic(values),
        place,
    )


def _present(values: Values, name: str) -> bool:
    return values.get(name) not in (None, "")


def _first(values: Values, names: tuple[str, ...], wanted: str) -> tuple[str, object]:
    for name in names:
        if name in values:
            return name, values[name]
    found = ", ".join(repr(key) for key in values) or "nothing"
    raise InputError(f"no {wanted!r}: found {found}, expected one of {', '.join(names)}")


def _text(values: Values, names: tuple[str, ...], wanted: str) -> str:
    name, value = _first(values, names, wanted)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # a CSV cell that looks like a number
    if not isinstance(value, str):
        raise InputError(f"{name!r} is {_shown(value)}, expected text")
    if not value.strip():
        raise InputError(f"{name!r} is empty")
    check_writable(name, value)
    return value.strip()


def _score(values: Values, names: tuple[str, ...], wanted: str) -> float:
    name, value = _first(values, names, wanted)
    if isinstance(value, str) and not value.strip():
        raise InputError(f"{name!r} is empty")
    if isinstance(value, str):  # a truth value, as tables of other programs write it
        value = _TRUTH.get(value.strip().lower(), value)
    try:
        score = float(value)  # type: ignore[arg-type]  # anything else is refused just below
    except OverflowError:
        score = inf  # a whole number beyond the range of floats
    except (TypeError, ValueError):
        raise InputError(f"{name!r} is {_shown(value)}, expected a number") from None
    if not isfinite(score):
        raise InputError(f"{name!r} is {_shown(value)}, expected a finite number")
    return score


def _optional_score(values: Values, name: str) -> float | None:
    return _score(values, (name,), name) if _present(values, name) else None


_TRUTH = {"true": True, "false": False}
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _flag(values: Values, name: str) -> bool | None:
    if not _present(values, name):
        return None
    value = str(values[name]).strip().lower()
    if value not in _FLAGS:
        raise InputError(f"{name!r} is {_shown(values[name])}, expected true or false")
    return _FLAGS[value]


def _topic(values: Values) -> str:
    value = values.get("topic")
    return value.strip() if isinstance(value, str) else ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
