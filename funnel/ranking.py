"""What the engine does with a stage's output: order, threshold, cut, tail."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from funnel.errors import MalformedOutput
from funnel.stages.base import Ranked, StageOutput, StageSettings
from funnel.types import Candidate, ScoreKind


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
        MalformedOutput: repeated or foreign ids, or scores that are no finite numbers.
    """
    before = {candidate.id: position for position, candidate in enumerate(candidates)}
    _check(output.ranking, before, score_kind, settings.name, retrieves=retrieves)
    ordered = _ordered(output.ranking, before, score_kind)
    passing = [row for row in ordered if _passes(row, settings.min_score)]
    by_id = {candidate.id: candidate for candidate in candidates}
    head = [
        _advance(row, rank, by_id.get(row.document.id), settings.name)
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
        if score_kind != "rank" and (row.score is None or not math.isfinite(row.score)):
            raise MalformedOutput(
                f"stage {stage!r} scored {doc_id!r} {row.score}, expected a finite number",
                stage=stage,
            )
        seen.add(doc_id)


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


def _advance(row: Ranked, rank: int, before: Candidate | None, stage: str) -> Candidate:
    """The candidate with what this stage said of it added; the old one is not changed."""
    base = before or Candidate(row.document)
    sources = {f"{stage}.{name}": source for name, source in row.sources.items()}
    scores = {} if row.score is None else {stage: float(row.score)}
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
