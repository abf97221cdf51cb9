"""Early checks of training data: better a clear refusal now than a useless model in an hour."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from funnel.errors import InputError, ModelError
from funnel.training.records import LabelledPair, Triple
from funnel.training.settings import MIN_ROWS

BROKEN = "the loss became NaN or infinite; lower the learning rate or use --precision fp32"


@contextmanager
def named(data: str) -> Iterator[None]:
    """Say whose problem it is that the checks of the block find: they see rows, not a file."""
    try:
        yield
    except InputError as problem:
        raise InputError(f"{data}: {problem}") from None


def check_size(rows: Sequence[object], what: str, *, minimum: int = MIN_ROWS) -> None:
    """Refuse data sets too small to split into training and development parts."""
    if len(rows) < minimum:
        raise InputError(
            f"{len(rows)} {what}, expected at least {minimum}: too few to train and to measure; "
            "add examples; `funnel train mine` makes negatives for them"
        )


def check_probabilities(pairs: Sequence[LabelledPair], *, what: str, mend: str) -> None:
    """Refuse scores outside [0, 1], naming the lines."""
    bad = [
        f"{pair.place}: score {pair.score:g} is outside [0, 1]"
        for pair in pairs
        if not 0.0 <= pair.score <= 1.0
    ]
    if bad:
        raise InputError(f"{what} must be within [0, 1] ({mend}):\n{_listed(bad)}")


def check_classes(pairs: Sequence[LabelledPair]) -> None:
    """Refuse data of one class: nothing can be told apart."""
    relevant = sum(pair.score >= 0.5 for pair in pairs)
    if relevant in (0, len(pairs)):
        only = "relevant" if relevant else "irrelevant"
        raise InputError(
            f"all {len(pairs)} pairs are {only} (label {'1' if relevant else '0'}): a model needs "
            "both classes; `funnel train mine` adds hard negatives to positive pairs"
        )


def check_spread(pairs: Sequence[LabelledPair]) -> None:
    """Refuse soft scores that are all the same number."""
    if len({pair.score for pair in pairs}) == 1:
        raise InputError(
            f"all {len(pairs)} scores are {pairs[0].score:g}: there is nothing to learn; "
            "score the pairs with a teacher or by a grading"
        )


def check_scores(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Refuse what a model gives whose weights are NaN; returns the scores.

    Raises:
        ModelError: says what to change.
    """
    if not np.isfinite(scores).all():
        raise ModelError(BROKEN)
    return scores


def check_triples(triples: Sequence[Triple]) -> None:
    """Refuse triples whose two documents are the same, or that are only partly scored."""
    same = [
        f"{row.place}: positive and negative are the same text"
        for row in triples
        if row.positive == row.negative
    ]
    if same:
        raise InputError(f"triples must hold two different documents:\n{_listed(same)}")
    scored = sum(row.positive_score is not None for row in triples)
    if scored not in (0, len(triples)):
        raise InputError(
            f"{scored} of {len(triples)} triples carry teacher scores; give them to all or to none"
        )


def contradictions(pairs: Sequence[LabelledPair]) -> int:
    """Count pairs that occur with labels of both classes: noise worth knowing about."""
    classes = {(pair.query, pair.document, pair.score >= 0.5) for pair in pairs}
    sides = Counter((query, document) for query, document, _ in classes)
    return sum(count > 1 for count in sides.values())


def _listed(problems: Sequence[str], most: int = 10) -> str:
    more = [f"… and {len(problems) - most} more"] if len(problems) > most else []
    return "\n".join(f"  {problem}" for problem in [*problems[:most], *more])
