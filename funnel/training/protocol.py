"""The hard-distractor protocol: does the relevant text outscore one that shares its words?"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import ceil, comb
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from funnel.training.figures import mean_or_zero
from funnel.training.progress import tracked
from funnel.training.records import Case

if TYPE_CHECKING:
    from funnel.models.base import FloatArray

Score = Callable[[Sequence[tuple[str, str]]], "FloatArray"]
Floats = NDArray[np.float64]
_BLOCK = 16
_BLOCKS_PER_SIDE = 8


@dataclass(frozen=True, slots=True)
class Judged:
    """One case with the scores that a model gave it."""

    case: Case
    relevant: float
    distractor: float

    @property
    def gap(self) -> float:
        """How far the relevant text is ahead, in the model's own unit."""
        return self.relevant - self.distractor

    @property
    def correct(self) -> bool:
        """A tie is not correct."""
        return self.gap > 0


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """Figures of one group of cases under one model.

    ``gap`` is the mean gap in the model's unit, ``gap_in_sd`` the same in standard deviations of
    all its scores (comparable between models of different scales). ``mrr`` ranks the relevant text
    among all texts of the file: a model that only learned to dislike shared words loses here.
    """

    cases: int
    correct: int
    gap: float
    gap_in_sd: float
    mrr: float

    @property
    def accuracy(self) -> float:
        """Share of cases in which the relevant text is ahead."""
        return self.correct / self.cases if self.cases else 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Base against tuned. ``p_value`` is the exact sign test over fixed and broken cases."""

    base: dict[str, GroupFigures]
    tuned: dict[str, GroupFigures]
    fixed: tuple[Case, ...]
    broken: tuple[Case, ...]
    p_value: float

    def as_json(self) -> dict[str, object]:
        """Plain values for ``--json``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Judgement:
    """All cases of a file judged by one model. ``ranks`` are 1-based, shape (cases,)."""

    cases: tuple[Judged, ...]
    ranks: NDArray[np.int64]
    spread: float

    def figures(self, group: Sequence[int]) -> GroupFigures:
        """Figures of the cases at these positions."""
        chosen = [self.cases[position] for position in group]
        gap = mean_or_zero([judged.gap for judged in chosen])
        return GroupFigures(
            cases=len(chosen),
            correct=sum(judged.correct for judged in chosen),
            gap=gap,
            gap_in_sd=gap / self.spread if self.spread else 0.0,
            mrr=mean_or_zero([1.0 / float(self.ranks[position]) for position in group]),
        )


def judge(cases: Sequence[Case], score: Score) -> Judgement:
    """Score every query of ``cases`` against every text of ``cases``, with a bar on a terminal.

    ``score`` takes pairs and gives shape (n,). n queries with m texts cost n × m pairs.
    """
    queries = list(dict.fromkeys(case.query for case in cases))
    texts = list(dict.fromkeys(text for case in cases for text in (case.relevant, case.distractor)))
    table = _table(queries, texts, score)
    row = {query: position for position, query in enumerate(queries)}
    column = {text: position for position, text in enumerate(texts)}
    judged = tuple(
        Judged(
            case,
            float(table[row[case.query], column[case.relevant]]),
            float(table[row[case.query], column[case.distractor]]),
        )
        for case in cases
    )
    also_right = _also_right(cases, row, column, table.shape)
    ranks = [
        1
        + int((table[row[one.case.query]][~also_right[row[one.case.query]]] >= one.relevant).sum())
        for one in judged
    ]
    return Judgement(judged, np.array(ranks), float(table.std()))


def compare(base: Judgement, tuned: Judgement) -> Comparison:
    """Put two judgements of the same cases side by side, by seen and unseen topics."""
    pairs = list(zip(base.cases, tuned.cases, strict=True))
    fixed = tuple(new.case for old, new in pairs if new.correct and not old.correct)
    broken = tuple(new.case for old, new in pairs if old.correct and not new.correct)
    groups = _groups([one.case for one in base.cases])
    return Comparison(
        base={name: base.figures(group) for name, group in groups.items()},
        tuned={name: tuned.figures(group) for name, group in groups.items()},
        fixed=fixed,
        broken=broken,
        p_value=sign_test(len(fixed), len(broken)),
    )


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact sign test (McNemar's, without ties): chance of a split this uneven."""
    total, least = wins + losses, min(wins, losses)
    tail = sum(comb(total, k) for k in range(least + 1))
    return min(1.0, float(2 * tail / 2**total))


def _table(queries: Sequence[str], texts: Sequence[str], score: Score) -> Floats:
    """Scores of shape (queries, texts), block by block.

    Blocks have both sides long, and there are few: a bi-encoder reads a text once in each.
    """
    table = np.empty((len(queries), len(texts)))
    blocks = list(product(_blocks(len(queries)), _blocks(len(texts))))
    for rows, columns in tracked(blocks, "judge"):
        pairs = list(product(queries[rows], texts[columns]))
        table[rows, columns] = np.asarray(score(pairs)).reshape(table[rows, columns].shape)
    return table


def _blocks(count: int) -> list[slice]:
    size = max(_BLOCK, ceil(count / _BLOCKS_PER_SIDE))
    return [slice(start, start + size) for start in range(0, count, size)]


def _also_right(
    cases: Sequence[Case], row: dict[str, int], column: dict[str, int], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Texts that answer a query by this or another case: they do not count as rivals."""
    right = np.zeros(shape, dtype=bool)
    for case in cases:
        right[row[case.query], column[case.relevant]] = True
    return right


def _groups(cases: Sequence[Case]) -> dict[str, list[int]]:
    groups = {"all": list(range(len(cases)))}
    for name, seen in (("seen topics", True), ("unseen topics", False)):
        if members := [position for position, case in enumerate(cases) if case.seen is seen]:
            groups[name] = members
    return groups
