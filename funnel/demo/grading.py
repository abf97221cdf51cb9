"""How much of what each stage keeps is relevant, partly relevant or noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from funnel.demo.loader import PARTIAL, RELEVANT, Grades
from funnel.types import StageTrace

HEAD = 5
"""Where stages that keep different numbers are compared: the first five of their order."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many of some documents are relevant, partly relevant, and neither."""

    relevant: int = 0
    partial: int = 0
    noise: int = 0

    @property
    def total(self) -> int:
        """All documents counted."""
        return self.relevant + self.partial + self.noise

    @property
    def share_not_noise(self) -> float:
        """The share that is relevant or partly so; 0 of nothing."""
        return (self.relevant + self.partial) / self.total if self.total else 0.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.relevant + other.relevant,
            self.partial + other.partial,
            self.noise + other.noise,
        )


@dataclass(frozen=True, slots=True)
class StageGrades:
    """One row of the demo's table, summed over the queries at which the stage ran.

    ``kept`` grades all that the stage kept, ``head`` the first five of its order. ``found`` counts
    queries with a relevant document among the kept ones, ``first`` those that have one at rank 1.
    ``p50_ms`` is the median wall time of the stage.
    """

    name: str
    kind: str
    k: int
    queries: int
    kept: Tally
    head: Tally
    found: int
    first: int
    p50_ms: float
    cost_usd: float

    def to_dict(self) -> dict[str, object]:
        """A JSON-ready row."""
        return {
            "name": self.name,
            "kind": self.kind,
            "k": self.k,
            "queries": self.queries,
            "kept": self.kept.total,
            "relevant": self.kept.relevant,
            "partial": self.kept.partial,
            "noise": self.kept.noise,
            "share_not_noise": self.kept.share_not_noise,
            f"share_not_noise@{HEAD}": self.head.share_not_noise,
            "queries_with_answer": self.found,
            "queries_with_answer_first": self.first,
            "p50_ms": self.p50_ms,
            "cost_usd": self.cost_usd,
        }


def graded_share(kept: Sequence[str], grades: Mapping[str, int]) -> Tally:
    """Grade the ids that were kept for one query; ids without a grade are noise."""
    given = [grades.get(doc_id, 0) for doc_id in kept]
    relevant = sum(grade >= RELEVANT for grade in given)
    partial = sum(PARTIAL <= grade < RELEVANT for grade in given)
    return Tally(relevant, partial, len(given) - relevant - partial)


def grade_stages(
    traces: Mapping[str, Sequence[StageTrace]], grades: Grades
) -> tuple[StageGrades, ...]:
    """Grade every stage over many queries; ``traces`` is keyed by query id.

    Stages come in the order of the funnel. Queries at which a stage was skipped do not count for
    it; a stage that never ran has no row.
    """
    runs: dict[str, list[tuple[str, StageTrace]]] = {}
    for query_id, stages in traces.items():
        for stage in stages:
            runs.setdefault(stage.name, [])
            if stage.skipped is None:
                runs[stage.name].append((query_id, stage))
    return tuple(_row(ran, grades) for ran in runs.values() if ran)


def _row(ran: Sequence[tuple[str, StageTrace]], grades: Grades) -> StageGrades:
    first_trace = ran[0][1]
    kept = [graded_share(stage.kept, grades[query_id]) for query_id, stage in ran]
    heads = [graded_share(stage.kept[:HEAD], grades[query_id]) for query_id, stage in ran]
    tops = [graded_share(stage.kept[:1], grades[query_id]) for query_id, stage in ran]
    return StageGrades(
        name=first_trace.name,
        kind=first_trace.kind,
        k=first_trace.k,
        queries=len(ran),
        kept=sum(kept, Tally()),
        head=sum(heads, Tally()),
        found=sum(tally.relevant > 0 for tally in kept),
        first=sum(tally.relevant > 0 for tally in tops),
        p50_ms=median(stage.ms for _, stage in ran),
        cost_usd=sum(stage.cost_usd for _, stage in ran),
    )


def climb(stages: Sequence[StageTrace], grades: Mapping[str, int]) -> int:
    """Ranks that the best relevant document gained from the first stage to the last that ran.

    0 when it was never found, lost on the way or did not move; negative when it sank.
    """
    ran = [stage for stage in stages if stage.skipped is None]
    if not ran:
        return 0
    before, after = _best_rank(ran[0], grades), _best_rank(ran[-1], grades)
    return before - after if before and after else 0


def _best_rank(stage: StageTrace, grades: Mapping[str, int]) -> int | None:
    ranks = (
        rank for rank, doc_id in enumerate(stage.kept, start=1) if grades.get(doc_id, 0) >= RELEVANT
    )
    return next(ranks, None)
