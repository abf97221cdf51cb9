"""The stages in order: budgets, errors, skips, and the trace of it all."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from funnel.cache.base import Answer
from funnel.deadline import NO_DEADLINE, Deadline
from funnel.errors import FunnelError, InputError, Overloaded, StageError, StageTimeout
from funnel.log import Seldom, get_logger
from funnel.pacing import Pace
from funnel.query import Query
from funnel.ranking import Selection, select
from funnel.stages.base import Stage, StageOutput, StageRequest, StageSettings
from funnel.types import Candidate, Hit, StageTrace, Usage

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """A stage as one call uses it: with the call's overrides and its effective ``k``."""

    stage: Stage
    settings: StageSettings
    k: int

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.settings.name

    @property
    def raises(self) -> bool:
        """Whether its errors fail the query: retrieval does unless told otherwise."""
        default = "raise" if self.stage.role == "retrieve" else "skip"
        return (self.settings.on_error or default) == "raise"

    def read(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """The candidates that the stage gets to see."""
        depth = self.settings.depth
        return candidates if depth is None or self.stage.role == "retrieve" else candidates[:depth]


@dataclass(frozen=True, slots=True)
class _Limits:
    """``deadline`` is the query's; ``aim``: when this stage should be done under overload."""

    deadline: Deadline
    aim: Deadline


@dataclass(slots=True)
class _Progress:
    """One query's way so far."""

    candidates: tuple[Candidate, ...] = ()
    usage: Usage = field(default_factory=Usage)
    trace: list[StageTrace] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)


class Chain:
    """Runs steps one after the other within a deadline.

    Args:
        pace: what stages usually take.
        overloaded: whether more is asked of this process, lastingly, than it can do.
    """

    def __init__(self, pace: Pace, overloaded: Callable[[], bool] = lambda: False) -> None:
        self._pace = pace
        self._overloaded = overloaded
        self._seldom = Seldom(log)

    async def run(
        self,
        query: Query,
        steps: Sequence[Step],
        deadline: Deadline,
        k: int,
        target: Deadline = NO_DEADLINE,
    ) -> Answer:
        """Answer a query with the ``k`` best that came through.

        The deadline always holds; the target only counts under overload.

        Raises:
            StageError: a stage failed whose ``on_error`` is ``raise``.
        """
        started = time.perf_counter()
        progress = _Progress()
        for position, step in enumerate(steps):
            later = [other.name for other in steps[position + 1 :]]
            budget = self._pace.budget_s(deadline, step.settings.timeout_ms, later)
            aim = NO_DEADLINE.within(self._pace.budget_s(target, None, later))
            await self._advance(query, step, budget, _Limits(deadline, aim), progress)
        return Answer(
            hits=_hits(progress.candidates[:k], steps),
            trace=tuple(progress.trace),
            usage=progress.usage,
            degraded=tuple(progress.degraded),
            elapsed_ms=(time.perf_counter() - started) * 1000,
        )

    async def _advance(
        self,
        query: Query,
        step: Step,
        budget_s: float | None,
        limits: _Limits,
        progress: _Progress,
    ) -> None:
        if (reason := self._skip_reason(step, budget_s, limits.aim, progress)) is not None:
            _skip(step, reason, progress, degrades=reason != "no_candidates")
            return
        started = time.perf_counter()
        try:
            output = await self._call(query, step, budget_s, limits, progress.candidates)
            selection = _select(step, output, progress.candidates)
        except StageError as error:
            self._failed(step, error, time.perf_counter() - started, budget_s, progress)
            return
        elapsed = time.perf_counter() - started
        self._pace.observe(step.name, elapsed)
        _record(step, output, selection, elapsed, budget_s, progress)

    def _skip_reason(
        self, step: Step, budget_s: float | None, aim: Deadline, progress: _Progress
    ) -> str | None:
        if step.stage.role == "retrieve":
            return None
        if not progress.candidates:
            return "no_candidates"
        if budget_s is not None and budget_s <= 0:
            return "deadline"
        if not step.settings.optional:
            return None
        typical, left = self._pace.typical_s(step.name), aim.remaining_s()
        if budget_s is not None and typical > budget_s:
            self._pace.passed_over(step.name)
            return "no_time"
        return "load" if left is not None and typical > left and self._overloaded() else None

    async def _call(
        self,
        query: Query,
        step: Step,
        budget_s: float | None,
        limits: _Limits,
        candidates: Sequence[Candidate],
    ) -> StageOutput:
        deadline = limits.deadline.within(budget_s)
        request = StageRequest(query, step.k, step.settings, deadline, limits.aim)
        limit = asyncio.timeout(budget_s)
        try:
            async with limit:
                return await step.stage.run(request, step.read(candidates))
        except TimeoutError as error:
            if not limit.expired():
                raise self._unforeseen(step, error) from error
            raise StageTimeout(_late(step, budget_s), stage=step.name, cause=error) from error
        except StageError as error:
            error.stage = error.stage or step.name
            raise
        except FunnelError as error:
            if isinstance(error, InputError) and step.stage.role == "retrieve":
                raise  # the caller's own mistake, such as a filter on an unknown field
            if isinstance(error, Overloaded) and step.raises:
                raise  # a service answers it otherwise than a failure: try again later
            failure = StageError(str(error), stage=step.name, cause=error)
            failure.reason = getattr(error, "reason", failure.reason)
            raise failure from error
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            raise self._unforeseen(step, error) from error  # of something that the stage waited for
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            raise self._unforeseen(step, error) from error

    def _unforeseen(self, step: Step, error: BaseException) -> StageError:
        name = type(error).__name__
        self._seldom.error("stage_failed", about=(step.name, name), stage=step.name, exc_info=error)
        return StageError(
            f"stage {step.name!r} failed: {name}: {error}", stage=step.name, cause=error
        )

    def _failed(
        self,
        step: Step,
        error: StageError,
        seconds: float,
        budget_s: float | None,
        progress: _Progress,
    ) -> None:
        if isinstance(error, StageTimeout):
            self._pace.observe(step.name, seconds)
        if step.raises:
            raise error
        self._seldom.warning(
            "stage_skipped",
            about=(step.name, error.reason),
            stage=step.name,
            reason=error.reason,
            message=str(error),
        )
        _skip(
            step,
            error.reason,
            progress,
            degrades=True,
            ms=seconds * 1000,
            budget_s=budget_s,
            message=str(error),
        )


def _late(step: Step, budget_s: float | None) -> str:
    if not budget_s:
        return (
            f"stage {step.name!r} got no time: the deadline leaves nothing beyond what reserve_ms "
            "keeps back for the answer; allow the query more"
        )
    return f"stage {step.name!r} ran past its {budget_s * 1000:.0f} ms"


def _is_cancelled() -> bool:
    """Whether somebody gave up this call."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _select(step: Step, output: StageOutput, candidates: Sequence[Candidate]) -> Selection:
    return select(
        output,
        candidates,
        step.settings,
        step.k,
        step.stage.score_kind,
        retrieves=step.stage.role == "retrieve",
    )


def _record(
    step: Step,
    output: StageOutput,
    selection: Selection,
    seconds: float,
    budget_s: float | None,
    progress: _Progress,
) -> None:
    progress.trace.append(
        StageTrace(
            name=step.name,
            kind=step.settings.kind,
            k=step.k,
            in_=len(progress.candidates),
            out=len(selection.kept),
            ms=seconds * 1000,
            score_kind=step.stage.score_kind,
            truncated=output.truncated,
            cost_usd=output.usage.cost_usd,
            budget_ms=None if budget_s is None else budget_s * 1000,
            degraded=output.degraded,
            details=output.details,
            ranking=selection.ranking,
            passed=selection.passed,
            kept=tuple(candidate.id for candidate in selection.kept),
        )
    )
    progress.candidates = selection.kept
    progress.usage += output.usage
    if output.degraded is not None:
        progress.degraded.append(f"{step.name}:{output.degraded}")


def _skip(
    step: Step,
    reason: str,
    progress: _Progress,
    *,
    degrades: bool,
    ms: float = 0.0,
    budget_s: float | None = None,
    message: str | None = None,
) -> None:
    """Leave the order as it is, cut to what the stage would have kept, and say so."""
    kept = progress.candidates
    if step.settings.tail == "drop":
        kept = kept[: step.k]
    progress.trace.append(
        StageTrace(
            name=step.name,
            kind=step.settings.kind,
            k=step.k,
            in_=len(progress.candidates),
            out=len(kept),
            ms=ms,
            score_kind=step.stage.score_kind,
            budget_ms=None if budget_s is None else budget_s * 1000,
            skipped=reason,
            message=message,
            kept=tuple(candidate.id for candidate in kept),
        )
    )
    progress.candidates = kept
    if degrades:
        progress.degraded.append(f"{step.name}:{reason}")


def _hits(candidates: Sequence[Candidate], steps: Sequence[Step]) -> tuple[Hit, ...]:
    kinds = {step.name: step.stage.score_kind for step in steps}
    hits = []
    for rank, candidate in enumerate(candidates, start=1):
        stage, score = _last_score(candidate)
        document = candidate.document
        hits.append(
            Hit(
                rank=rank,
                id=document.id,
                score=score,
                score_kind=kinds.get(stage, "rank"),
                score_stage=stage,
                title=document.title,
                text=document.text,
                metadata=document.metadata,
                stage_scores=candidate.stage_scores,
                stage_ranks=candidate.stage_ranks,
                sources=candidate.sources,
            )
        )
    return tuple(hits)


def _last_score(candidate: Candidate) -> tuple[str, float]:
    """The last stage that scored it, with its score: mappings keep the stages' order."""
    if not candidate.stage_scores:  # a third party's retriever that only orders
        return "", 0.0
    stage = list(candidate.stage_scores)[-1]
    return stage, candidate.stage_scores[stage]
