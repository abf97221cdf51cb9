"""Which stages at which sizes: all plans, and what each would have returned and taken.

A stage that scores documents one by one orders a shorter list as it orders the longer one, so the
order of any plan follows from one deep run: cut, keep the documents that got through, cut again.
For stages that judge lists as a whole this is an estimate; the verification run says how good.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from funnel.evaluation.deep import DeepQuery, DeepStage, reads
from funnel.stages.cross_encoder import CrossEncoderSettings
from funnel.stages.early_stop import expected_entrants

if TYPE_CHECKING:
    from funnel.settings import FunnelSettings

SIZES = (5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000)

Plan = tuple[int | None, ...]
"""A ``k`` for each stage, None for a stage that is left out; the first stage never is."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What of a stage's settings decides its cut, besides ``k``."""

    name: str
    min_score: float | None
    tail: Literal["keep", "drop"]
    limit: int | None
    """How many candidates it reads at most, by its own setting or because it ranks whole lists."""
    early_stop: float | None = None
    block: int = 1


def policies(settings: "FunnelSettings", whole_lists: Sequence[bool]) -> tuple[Policy, ...]:
    """The policies of all stages; ``whole_lists`` marks those that rank lists as a whole."""
    stages = settings.stages
    return tuple(
        Policy(
            stage.name,
            stage.min_score,
            stage.tail,
            reads(stages[place - 1], stage) if place and whole_lists[place] else stage.depth,
            *((stage.early_stop, stage.block) if isinstance(stage, CrossEncoderSettings) else ()),
        )
        for place, stage in enumerate(stages)
    )


def current_plan(settings: "FunnelSettings") -> Plan:
    """The operator's own sizes."""
    return tuple(stage.k for stage in settings.stages)


def all_plans(settings: "FunnelSettings", depth: int) -> list[Plan]:
    """Every choice of rerankers and sizes that still returns as many hits as now.

    Sizes never grow from stage to stage; the last stage that is used keeps the funnel's final k.
    """
    final = settings.stages[-1].k
    own = (stage.k for stage in settings.stages)
    sizes = sorted({size for size in (*SIZES, *own, depth) if final <= size <= depth})
    found = list(_plans(len(settings.stages), sizes, final))
    current = current_plan(settings)
    return found if current in found else [current, *found]


def _plans(stages: int, sizes: Sequence[int], final: int) -> Iterator[Plan]:
    for used in _subsets(stages):
        for chosen in _falling(sum(used) - 1, sizes):
            rest = iter((*chosen, final))
            yield tuple(next(rest) if use else None for use in used)


def _subsets(stages: int) -> Iterator[tuple[bool, ...]]:
    for bits in range(2 ** (stages - 1)):
        yield (True, *(bool(bits >> place & 1) for place in range(stages - 1)))


def _falling(length: int, sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All non-increasing choices of ``length`` sizes."""
    if length == 0:
        yield ()
        return
    for size in sizes:
        for rest in _falling(length - 1, [other for other in sizes if other <= size]):
            yield (size, *rest)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a plan would have returned for a query, and how many each used stage would have read."""

    ranking: tuple[str, ...]
    read: Mapping[int, int]


def simulate(query: DeepQuery, plan: Plan, stages: Sequence[Policy]) -> Outcome:
    """Cut a deep run's orders as a plan says."""
    order: tuple[str, ...] = ()
    read: dict[int, int] = {}
    for place, (stage, size, policy) in enumerate(zip(query, plan, stages, strict=True)):
        if size is None:
            continue
        seen = stage.ranking if place == 0 else _seen(stage, order, size, policy)
        read[place] = size if place == 0 else len(seen)
        order = _cut(seen, order, stage, size, policy)
    final = next(size for size in reversed(plan) if size is not None)
    return Outcome(order[:final], read)


def _seen(stage: DeepStage, order: Sequence[str], size: int, policy: Policy) -> tuple[str, ...]:
    """The stage's order of the candidates that reach it and, with ``early_stop``, are scored.

    Equal scores fall to the prior order, as in the engine. Those that it did not read in the deep
    run, which happens only to stages with a limit, follow in their prior order.
    """
    order = order[: policy.limit]
    reach = dict.fromkeys(order[: _scored(stage, order, size, policy)])
    ranked = [doc_id for doc_id in stage.ranking if doc_id in reach]
    if all(doc_id in stage.scores for doc_id in ranked):
        place = {doc_id: place for place, doc_id in enumerate(reach)}
        ranked.sort(key=lambda doc_id: (-stage.scores[doc_id], place[doc_id]))
    if policy.limit is None or len(ranked) == len(reach):
        return tuple(ranked)
    known = set(ranked)
    return (*ranked, *(doc_id for doc_id in reach if doc_id not in known))


def _scored(stage: DeepStage, order: Sequence[str], size: int, policy: Policy) -> int:
    """How many of the candidates are scored before the stage stops, as it decides it itself.

    The deep run scores all of them: as many are kept as come in, so that it never stops.
    """
    if policy.early_stop is None:
        return len(order)
    scores = [stage.scores[doc_id] for doc_id in order]
    for done in range(policy.block, len(order), policy.block):
        if expected_entrants(scores[:done], size, len(order)) < 1 - policy.early_stop:
            return done
    return len(order)


def _cut(
    seen: Sequence[str], before: Sequence[str], stage: DeepStage, size: int, policy: Policy
) -> tuple[str, ...]:
    floor = policy.min_score
    passing = [doc for doc in seen if floor is None or stage.scores.get(doc, floor) >= floor]
    head = tuple(passing[:size])
    if policy.tail == "drop":
        return head
    out = {*head, *seen} - set(passing[size:])
    return (*head, *(doc_id for doc_id in before if doc_id not in out))


@dataclass(frozen=True, slots=True)
class Line:
    """An amount that grows with the number of candidates: ``fixed + each · n``."""

    fixed: float
    each: float

    def at(self, read: int) -> float:
        """The amount for ``read`` candidates."""
        return self.fixed + self.each * read

    def scaled(self, amount: float, measured_at: int, wanted_at: int) -> float:
        """A measured amount moved to another number of candidates."""
        whole = self.at(measured_at)
        return amount * self.at(wanted_at) / whole if whole > 0 else 0.0


def fit_line(points: Iterable[tuple[int, float]]) -> Line:
    """Least squares with neither part below zero, through the median at each size.

    Medians, so that one slow query does not bend the line.
    """
    by_size: dict[int, list[float]] = {}
    for size, amount in points:
        by_size.setdefault(size, []).append(amount)
    if not by_size:
        return Line(0.0, 0.0)
    sizes = np.array(sorted(by_size), dtype=np.float64)
    amounts = np.array([np.median(by_size[int(size)]) for size in sizes])
    return _non_negative(sizes, amounts)


def _non_negative(sizes: NDArray[np.float64], amounts: NDArray[np.float64]) -> Line:
    flat = Line(float(amounts.mean()), 0.0)
    if sizes.size < 2:
        return flat
    each, fixed = np.polyfit(sizes, amounts, 1)
    if each <= 0:
        return flat
    if fixed < 0:
        return Line(0.0, float(sizes @ amounts / (sizes @ sizes)))
    return Line(float(fixed), float(each))
