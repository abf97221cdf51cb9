"""Stages in order: budgets, errors, skips, and the trace."""

import asyncio
import math
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from funnel.cache.base import Answer
from funnel.chain import Chain, Step
from funnel.deadline import Deadline
from funnel.errors import BackendUnavailable, MalformedOutput, Overloaded, StageError, StageTimeout
from funnel.pacing import Pace
from funnel.result import FunnelResult
from funnel.stages.base import Ranked, StageOutput
from funnel.types import CacheInfo, Candidate, SourceScore
from tests.funnel.chains import DOCUMENTS, FunctionStage, ListStage, query, step


async def run(*steps: Step, deadline_ms: float | None = None, k: int = 10) -> Answer:
    chain = Chain(Pace(0.0))
    return await chain.run(query(), steps, Deadline.after_ms(deadline_ms), k)


def fail(error: BaseException):  # type: ignore[no-untyped-def]
    def act(candidates: Sequence[Candidate]) -> StageOutput:
        raise error

    return act


def result_of(answer: Answer) -> FunnelResult:
    return FunnelResult("q", "1", answer.hits, CacheInfo("bypass"), answer.trace)


async def test_each_stage_keeps_its_k() -> None:
    """Ten are found, four go on, two come out, best first."""
    answer = await run(step(k=10), step(FunctionStage, k=4), k=2)
    assert [hit.id for hit in answer.hits] == ["d9", "d8"]
    assert [(t.in_, t.out) for t in answer.trace] == [(0, 10), (10, 4)]


async def test_hits_carry_what_every_stage_said() -> None:
    """Scores and ranks by stage, ranks 1-based, the last score as the hit's own."""
    answer = await run(step(), step(FunctionStage, k=3))
    hit = answer.hits[0]
    assert (hit.rank, hit.score, hit.score_kind, hit.score_stage) == (1, 9.0, "logit", "function")
    assert hit.stage_scores == {"list": 1.0, "function": 9.0}
    assert hit.stage_ranks == {"list": 10, "function": 1}


def falling(candidates: Sequence[Candidate]) -> StageOutput:
    return StageOutput([Ranked(c.document, 0.5 - i) for i, c in enumerate(candidates)])


async def test_what_a_rank_only_stage_ordered_by_is_no_score() -> None:
    """The hit keeps the score of the last stage that scored; the other is among its sources."""
    answer = await run(step(), step(FunctionStage, k=3, act=falling, score_kind="rank"))
    hit = answer.hits[1]
    assert (hit.id, hit.score, hit.score_kind, hit.score_stage) == ("d1", 9.0, "bm25", "list")
    assert hit.stage_scores == {"list": 9.0}
    assert hit.stage_ranks == {"list": 2, "function": 2}
    assert hit.sources == {"function.order": SourceScore(2, -0.5)}


async def test_a_failing_reranker_is_skipped_visibly() -> None:
    """The order so far is kept, cut to the stage's k, and the result says why."""
    act = fail(BackendUnavailable("down"))
    answer = await run(step(), step(FunctionStage, k=3, act=act))
    assert [hit.id for hit in answer.hits] == ["d0", "d1", "d2"]
    assert answer.degraded == ("function:unavailable",)
    assert answer.trace[1].skipped == "unavailable"
    assert answer.trace[1].message == "down"


async def test_an_outage_does_not_fill_the_log() -> None:
    """A reason and stage is logged once in a while, also of a bug; every query's trace has it."""
    chain = Chain(Pace(0.0))
    steps = [
        step(),
        step(FunctionStage, name="down", k=9, act=fail(BackendUnavailable("down"))),
        step(FunctionStage, name="bug", k=8, act=fail(ValueError("a bug"))),
    ]
    with capture_logs() as logs:
        answers = [await chain.run(query(), steps, Deadline(), 5) for _ in range(50)]
    said = [(each["event"], each["stage"]) for each in logs]
    assert said == [("stage_skipped", "down"), ("stage_failed", "bug"), ("stage_skipped", "bug")]
    assert {answer.degraded for answer in answers} == {("down:unavailable", "bug:error")}
    assert {answer.trace[2].message for answer in answers} == {
        "stage 'bug' failed: ValueError: a bug"
    }


async def test_on_error_raise_fails_the_query() -> None:
    """The error names the stage."""
    act = fail(BackendUnavailable("down"))
    with pytest.raises(BackendUnavailable) as caught:
        await run(step(), step(FunctionStage, k=3, act=act, on_error="raise"))
    assert caught.value.stage == "function"


async def test_failing_retrieval_fails_the_query_by_default() -> None:
    """Without candidates there is nothing honest to answer."""

    class Broken(ListStage):
        async def run(self, request: object, candidates: object) -> StageOutput:
            raise BackendUnavailable("no index")

    with pytest.raises(BackendUnavailable):
        await run(step(Broken))


async def test_a_foreign_exception_becomes_a_stage_error() -> None:
    """No stack trace of a dependency reaches the caller; the cause is kept."""
    with pytest.raises(StageError, match="KeyError") as caught:
        await run(step(), step(FunctionStage, act=fail(KeyError("x")), on_error="raise"))
    assert isinstance(caught.value.cause, KeyError)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_a_stage_ends_nothing_but_itself(error: BaseException) -> None:
    """What would end a program or the query, when nobody asked for it, is the stage's failure."""
    answer = await run(step(), step(FunctionStage, act=fail(error)))
    assert answer.degraded == ("function:error",)


@pytest.mark.parametrize("timeout_ms", [None, 60_000])
async def test_a_timeout_of_the_stages_own_is_not_the_engines(timeout_ms: float | None) -> None:
    """What a stage raises within its limit, or without one, is said to be its failure."""
    act = fail(TimeoutError("a socket's"))
    with pytest.raises(StageError, match="failed: TimeoutError: a socket's") as caught:
        await run(step(), step(FunctionStage, act=act, timeout_ms=timeout_ms, on_error="raise"))
    assert not isinstance(caught.value, StageTimeout)


async def test_an_overloaded_stage_is_skipped_with_its_cause() -> None:
    """Other errors of the tree are stage errors too."""
    answer = await run(step(), step(FunctionStage, act=fail(Overloaded("full"))))
    assert answer.degraded == ("function:overloaded",)
    assert answer.trace[1].message == "full"


async def test_overload_that_fails_the_query_stays_what_it_is() -> None:
    """A service answers it with "try again later", not as a failure."""
    with pytest.raises(Overloaded, match="full"):
        await run(step(), step(FunctionStage, act=fail(Overloaded("full")), on_error="raise"))


async def test_nan_scores_are_an_error_not_an_order() -> None:
    """NaN from a model never decides a ranking."""

    def act(candidates: Sequence[Candidate]) -> StageOutput:
        return StageOutput([Ranked(c.document, math.nan) for c in candidates])

    answer = await run(step(), step(FunctionStage, act=act))
    assert answer.degraded == ("function:malformed",)
    assert [hit.id for hit in answer.hits][:2] == ["d0", "d1"]


@pytest.mark.parametrize(
    "output",
    [
        None,
        [],
        StageOutput(None),  # type: ignore[arg-type]
        StageOutput([], usage=None),  # type: ignore[arg-type]
        StageOutput([DOCUMENTS[0]]),  # type: ignore[list-item]
        StageOutput([Ranked("d0", 1.0)]),  # type: ignore[arg-type]
        StageOutput([Ranked(DOCUMENTS[0], "1.0")]),  # type: ignore[arg-type]
        StageOutput([Ranked(DOCUMENTS[0], 10**400)]),
        StageOutput([Ranked(DOCUMENTS[0], 1.0, None)]),  # type: ignore[arg-type]
    ],
)
async def test_an_output_of_another_type_obeys_on_error(output: StageOutput) -> None:
    """Whatever a third party's stage returns is skipped, or raised as an error of ours."""
    answer = await run(step(), step(FunctionStage, act=lambda _: output, on_error="skip"))
    assert answer.degraded == ("function:malformed",)
    assert [hit.id for hit in answer.hits][:2] == ["d0", "d1"]
    with pytest.raises(MalformedOutput, match="expected") as caught:
        await run(step(), step(FunctionStage, act=lambda _: output, on_error="raise"))
    assert caught.value.stage == "function"


async def test_a_slow_stage_is_cut_off_at_its_timeout() -> None:
    """timeout_ms bounds a stage; the fallback still answers."""
    answer = await run(step(), step(FunctionStage, delay_s=5, timeout_ms=30, k=2))
    assert answer.degraded == ("function:timeout",)
    assert len(answer.hits) == 2
    assert answer.elapsed_ms < 1000


async def test_a_deadline_bounds_the_whole_query() -> None:
    """Stages that no longer fit are skipped, and each says so."""
    slow = step(FunctionStage, delay_s=5, name="slow")
    after = step(FunctionStage, name="after", optional=True)
    answer = await run(step(), slow, after, deadline_ms=80)
    assert answer.degraded[0] == "slow:timeout"
    assert answer.elapsed_ms < 500
    assert len(answer.hits) == 10


async def test_retrieval_past_the_deadline_times_out() -> None:
    """A deadline too short to retrieve is an error that says so."""

    class Slow(ListStage):
        async def run(self, request: object, candidates: object) -> StageOutput:
            import asyncio

            await asyncio.sleep(5)
            return StageOutput([])

    with pytest.raises(StageTimeout, match=r"'list' ran past its \d\d ms"):
        await run(step(Slow), deadline_ms=20)
    all_kept_back = Chain(Pace(1.0)).run(query(), [step(Slow)], Deadline.after_ms(20), 10)
    with pytest.raises(StageTimeout, match="'list' got no time: .* reserve_ms"):
        await all_kept_back


async def test_an_optional_stage_that_would_not_fit_is_not_begun() -> None:
    """Known to be slow and allowed to be left out: its time is not wasted."""
    pace = Pace(0.0)
    pace.observe("function", 10.0)
    optional = step(FunctionStage, optional=True)
    answer = await Chain(pace).run(query(), (step(), optional), Deadline.after_ms(200), 10)
    assert answer.trace[1].skipped == "no_time"
    assert isinstance(optional.stage, FunctionStage)
    assert optional.stage.seen == []


async def test_an_optional_stage_left_out_for_time_is_tried_again() -> None:
    """One slow spell does not leave it out for ever."""
    pace = Pace(0.0)
    pace.observe("function", 1.0)
    optional = step(FunctionStage, optional=True)
    chain = Chain(pace)
    skipped = []
    for _ in range(12):
        answer = await chain.run(query(), (step(), optional), Deadline.after_ms(400), 10)
        skipped.append(answer.trace[1].skipped)
    assert skipped[0] == "no_time"
    assert skipped[-1] is None


async def test_optional_stages_are_left_out_under_overload_only() -> None:
    """When they would not be done by the target; when pressure falls they are back."""
    pace = Pace(0.0)
    pace.observe("function", 10.0)
    overloaded = [True]
    chain = Chain(pace, lambda: overloaded[0])
    steps = (step(), step(FunctionStage, optional=True))
    under = await chain.run(query(), steps, Deadline(), 10, Deadline.after_ms(200))
    assert under.trace[1].skipped == "load"
    assert under.degraded == ("function:load",)
    overloaded[0] = False
    after = await chain.run(query(), steps, Deadline(), 10, Deadline.after_ms(200))
    assert after.degraded == ()
    assert len(after.hits) == 10


async def test_a_required_stage_is_not_left_out_under_overload() -> None:
    """It is told the target and may do less; what fits is kept whole."""
    pace = Pace(0.0)
    pace.observe("function", 10.0)
    chain = Chain(pace, lambda: True)
    answer = await chain.run(
        query(), (step(), step(FunctionStage)), Deadline(), 10, Deadline.after_ms(200)
    )
    assert answer.degraded == ()


async def test_depth_limits_what_a_reranker_reads() -> None:
    """depth: 4 shows it four of the ten."""
    reranker = step(FunctionStage, depth=4)
    answer = await run(step(), reranker)
    assert isinstance(reranker.stage, FunctionStage)
    assert reranker.stage.seen == [4]
    assert [hit.id for hit in answer.hits] == ["d3", "d2", "d1", "d0"]


async def test_nothing_found_is_an_empty_answer() -> None:
    """An empty corpus gives no hits, no error, and is not degraded."""

    class Nothing(ListStage):
        async def run(self, request: object, candidates: object) -> StageOutput:
            return StageOutput([])

    answer = await run(step(Nothing), step(FunctionStage))
    assert answer.hits == ()
    assert answer.degraded == ()
    assert answer.trace[1].skipped == "no_candidates"


async def test_explain_says_where_a_document_died() -> None:
    """Returned, cut, below min_score, never retrieved: each with its stage and rank."""
    answer = await run(
        step(k=8), step(FunctionStage, k=6, min_score=4.0), step(FunctionStage, k=2, name="last")
    )
    result = result_of(answer)
    assert result.explain(result.hits[0].id).outcome == "returned"
    assert result.explain("d9").outcome == "never_retrieved"
    low = result.explain("d0")
    assert (low.outcome, low.stage, low.rank) == ("below_min_score", "function", 8)
    cut = result.explain(result.trace[2].ranking[2])
    assert (cut.outcome, cut.stage, cut.rank, cut.k) == ("cut", "last", 3, 2)


def test_explain_of_a_kept_answer_says_how_to_trace_one() -> None:
    """No stage ran for it."""
    kept = FunnelResult("a query", "1", (), CacheInfo("hit"))
    assert "cache=False" in kept.explain("d1").text


async def test_explain_names_a_skipped_stage() -> None:
    """What a skipped stage's cut dropped is said to be its doing."""
    act = fail(BackendUnavailable("down"))
    result = result_of(await run(step(), step(FunctionStage, k=3, act=act)))
    assert "skipped (unavailable)" in result.explain("d5").text


async def test_same_input_same_answer() -> None:
    """Order is deterministic."""
    first = await run(step(), step(FunctionStage, k=5))
    second = await run(step(), step(FunctionStage, k=5))
    assert first.hits == second.hits
