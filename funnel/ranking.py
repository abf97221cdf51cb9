"""What the engine does with a stage's output: order, threshold, cut, tail."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

from funnel.errors import MalformedOutput
from funnel.stages.base import Ranked, StageOutput, StageSettings
from funnel.types import Candidate, Document, ScoreKind, SourceScore, Usage

_OUTPUT_TYPES: dict[str, type | tuple[type, ...]] = {
    "ranking": Sequence,
    "usage": Usage,
    "truncated": int,
    "degraded": (str, type(None)),
    "details": Mapping,
}


@dataclass(frozen=True, slots=True)
class Selection:
    """The candidates that go on, and what was ranked: ids best first, how many passed."""

    kept: tuple[Candidate, ...]
    ranking: tuple[str, ...]
    passed: int


def select(
    output: StageOutput,
    candidates: Sequence[Candidate],
    settings: StageSettings,
    k: int,
    score_kind: ScoreKind,
    *,
    retrieves: bool,
) -> Selection:
    """Apply a stage's ranking to its candidates.

    Ties fall to the previous rank, then to the id, so that equal input gives equal output. With
    ``tail: keep`` what the stage cut follows its head in the previous order; a degraded ranking
    shorter than ``k`` is filled up from what it did not read, so that being slow loses no hits.

    Raises:
        MalformedOutput: values of another type than the contract's, repeated or foreign ids, or
            scores that are no finite numbers.
    """
    _check_types(output, settings.name)
    before = {candidate.id: position for position, candidate in enumerate(candidates)}
    _check(output.ranking, before, score_kind, settings.name, retrieves=retrieves)
    ordered = _ordered(output.ranking, before, score_kind)
    passing = [row for row in ordered if _passes(row, settings.min_score)]
    by_id = {candidate.id: candidate for candidate in candidates}
    head = [
        _advance(row, rank, by_id.get(row.document.id), settings.name, score_kind)
        for rank, row in enumerate(passing[:k], start=1)
    ]
    kept = (*head, *_tail(head, candidates, ordered, passing, settings, k, output.degraded))
    return Selection(kept, tuple(row.document.id for row in ordered), len(passing))


def _check(
    ranking: Sequence[Ranked],
    before: dict[str, int],
    score_kind: ScoreKind,
    stage: str,
    *,
    retrieves: bool,
) -> None:
    seen: set[str] = set()
    for row in ranking:
        doc_id = row.document.id
        if doc_id in seen:
            raise MalformedOutput(f"stage {stage!r} ranked {doc_id!r} twice", stage=stage)
        if not retrieves and doc_id not in before:
            raise MalformedOutput(
                f"stage {stage!r} ranked {doc_id!r}, which was not among its candidates",
                stage=stage,
            )
        unscored = row.score is None and score_kind == "rank"
        if not unscored and not _is_finite(row.score):
            raise MalformedOutput(
                f"stage {stage!r} scored {doc_id!r} {row.score!r:.80}, expected a finite number",
                stage=stage,
            )
        seen.add(doc_id)


def _check_types(output: StageOutput, stage: str) -> None:
    """A third party's stage may return anything, whatever its annotations say."""
    _expect(output, StageOutput, "", stage)
    for name, expected in _OUTPUT_TYPES.items():
        _expect(getattr(output, name), expected, f" as its {name}", stage)
    for position, row in enumerate(output.ranking):
        if not _is_row(row):
            raise MalformedOutput(
                f"stage {stage!r} returned {row!r:.80} at position {position}, expected a Ranked "
                "of a Document whose id is a text, with sources in a mapping; mend the stage's run",
                stage=stage,
            )


def _expect(value: object, expected: type | tuple[type, ...], where: str, stage: str) -> None:
    if not isinstance(value, expected):
        types = expected if isinstance(expected, tuple) else (expected,)
        raise MalformedOutput(
            f"stage {stage!r} returned {value!r:.80}{where}, expected "
            f"{' or '.join(each.__name__ for each in types)}; mend the stage's run",
            stage=stage,
        )


def _is_row(row: object) -> bool:
    return (
        isinstance(row, Ranked)
        and isinstance(row.document, Document)
        and isinstance(row.document.id, str)
        and isinstance(row.sources, Mapping)
    )


def _is_finite(score: object) -> bool:
    try:
        return isinstance(score, Real) and math.isfinite(score)
    except OverflowError:  # an integer beyond any float
        return False


def _ordered(
    ranking: Sequence[Ranked], before: dict[str, int], score_kind: ScoreKind
) -> list[Ranked]:
    if score_kind == "rank":
        return list(ranking)
    last = len(before)
    return sorted(
        ranking,
        key=lambda row: (
            -(row.score or 0.0),
            before.get(row.document.id, last),
            row.document.id,
        ),
    )


def _passes(row: Ranked, min_score: float | None) -> bool:
    return min_score is None or row.score is None or row.score >= min_score


def _advance(
    row: Ranked, rank: int, before: Candidate | None, stage: str, score_kind: ScoreKind
) -> Candidate:
    """The candidate with what this stage said of it added; the old one is not changed.

    What a rank-only stage ordered by is no score: the hit's stays that of the stage before.
    """
    base = before or Candidate(row.document)
    sources = {f"{stage}.{name}": source for name, source in row.sources.items()}
    scores = {} if row.score is None else {stage: float(row.score)}
    if score_kind == "rank":
        sources |= {f"{stage}.order": SourceScore(rank, score) for score in scores.values()}
        scores = {}
    return Candidate(
        base.document,
        {**base.stage_scores, **scores},
        {**base.stage_ranks, stage: rank},
        {**base.sources, **sources},
    )


def _tail(
    head: Sequence[Candidate],
    candidates: Sequence[Candidate],
    ordered: Sequence[Ranked],
    passing: Sequence[Ranked],
    settings: StageSettings,
    k: int,
    degraded: str | None,
) -> list[Candidate]:
    if settings.tail == "drop" and degraded is None:
        return []
    out = {candidate.id for candidate in head}
    out |= {row.document.id for row in ordered} - {row.document.id for row in passing}
    rest = [candidate for candidate in candidates if candidate.id not in out]
    return rest if settings.tail == "keep" else rest[: max(0, k - len(head))]
