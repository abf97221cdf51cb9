"""One deep run: every stage ranks as much as it ever may, and all of it is written down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from funnel.errors import StageError
from funnel.evaluation.evaluate import answer_all
from funnel.log import get_logger
from funnel.models.representations import shared_representations
from funnel.progress import bar
from funnel.stages.hybrid import LEAST_PREFETCH, HybridSettings

if TYPE_CHECKING:
    from funnel.engine import Funnel
    from funnel.result import FunnelResult
    from funnel.stages.base import StageSettings
    from funnel.types import StageTrace

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeepStage:
    """What one stage did with one query.

    ``ranking`` is its whole order, best first; ``scores`` by document id, for thresholds (empty
    for a stage without scores); ``read`` is how many candidates it read, for a retriever how many
    documents it was asked for.
    """

    ranking: tuple[str, ...]
    scores: Mapping[str, float]
    read: int
    ms: float
    cost_usd: float


DeepQuery = tuple[DeepStage, ...]


@dataclass(frozen=True, slots=True)
class DeepRun:
    """All stages' orders of all queries, by query id, and what was left out.

    ``failed`` counts queries for which some stage was skipped or did less than asked: their orders
    say nothing about depth.
    """

    queries: Mapping[str, DeepQuery]
    failed: int


def reads(before: "StageSettings", stage: "StageSettings") -> int:
    """How many candidates a stage reads at most, after the one before it."""
    return before.k if stage.depth is None else min(before.k, stage.depth)


def deep_run(
    funnel: "Funnel", queries: Mapping[str, str], depth: int, *, progress: bool = False
) -> DeepRun:
    """Answer all queries with every stage ``depth`` deep, without thresholds and time limits.

    Args:
        funnel: whose collection holds the documents; it must have no deadline.
        queries: texts by id.
        depth: how many documents are retrieved and reranked.
        progress: draw a bar on a terminal.

    Raises:
        StageError: retrieval failed, or fewer than two queries went through all stages.
    """
    overrides = deep_overrides(funnel, depth, depth)
    results = answer_all(funnel, queries, overrides=overrides, progress=progress)
    complete = {name: _recorded(result) for name, result in results.items() if not result.degraded}
    failed = len(results) - len(complete)
    if len(complete) < 2:
        reasons = sorted({reason for result in results.values() for reason in result.degraded})
        raise StageError(
            f"tune: {len(complete)} of {len(results)} queries went through all stages, expected "
            f"at least 2 ({', '.join(reasons)}); "
            "mend the stage or take it out of the configuration"
        )
    if failed:
        log.warning("queries_left_out", count=failed, of=len(results))
    return DeepRun(complete, failed)


def shallower_runs(
    funnel: "Funnel",
    queries: Mapping[str, str],
    sizes: Sequence[int],
    depth: int,
    *,
    progress: bool = False,
) -> list[DeepQuery]:
    """Answer some queries with shorter lists, to see how times and costs grow with length.

    Each size begins where the deep run began: with no document's vectors known.
    """
    recorded = []
    with bar("shorter lists", len(sizes) * len(queries), enabled=progress) as advance:
        for size in sizes:
            overrides = deep_overrides(funnel, size, depth)
            shared_representations().clear()
            for text in queries.values():
                result = funnel.run(text, overrides=overrides, cache=False)
                recorded += [] if result.degraded else [_recorded(result)]
                advance(1)
    return recorded


def held(stage: "StageSettings", depth: int) -> dict[str, Any]:
    """Settings that would follow ``k``, held as they are at ``depth``.

    A hybrid stage fetches ``k`` from each source or more, and then fuses to another order.
    """
    follows = isinstance(stage, HybridSettings) and depth > (stage.prefetch or LEAST_PREFETCH)
    return {"prefetch": depth} if follows else {}


def deep_overrides(funnel: "Funnel", size: int, depth: int) -> dict[str, dict[str, Any]]:
    """Per-call settings that make every stage ``size`` deep, in a tuning up to ``depth``.

    A stage that ranks without scores ranks lists as a whole, and may be paid for it. Its order of
    a longer list says little about its order of a shorter one, so it reads what it reads now.
    """
    overrides = {}
    for place, stage in enumerate(funnel.stages):
        limit = size
        if place and stage.score_kind == "rank":
            limit = min(size, reads(funnel.stages[place - 1].settings, stage.settings))
        overrides[stage.settings.name] = {
            "k": size,
            "depth": limit,
            "min_score": None,
            "timeout_ms": None,
            "tail": "keep",
            **held(stage.settings, depth),
        }
    return overrides


def _recorded(result: "FunnelResult") -> DeepQuery:
    return tuple(_stage(place, trace, result) for place, trace in enumerate(result.trace))


def _stage(place: int, trace: "StageTrace", result: "FunnelResult") -> DeepStage:
    name = trace.name
    return DeepStage(
        ranking=trace.ranking,
        scores={hit.id: hit.stage_scores[name] for hit in result.hits if name in hit.stage_scores},
        read=len(trace.ranking) if place else trace.k,
        ms=trace.ms,
        cost_usd=trace.cost_usd,
    )
