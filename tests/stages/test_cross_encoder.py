"""The cross-encoder stage: order, template, deadlines and load."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from pydantic import ValidationError

from funnel.deadline import Deadline
from funnel.errors import ModelError, StageTimeout
from funnel.models import CrossEncoderScorer
from funnel.models.base import ScoredPairs, Shortening, TextPair
from funnel.models.pair_models import PairItem
from funnel.models.pool import ModelPool
from funnel.query import Query, Vector
from funnel.resources import Resources
from funnel.stages.base import StageRequest
from funnel.stages.cross_encoder import CrossEncoderSettings, CrossEncoderStage
from funnel.types import Candidate, Document
from tests.models.tiny import WORDS, save_cross_encoder, save_headless

if TYPE_CHECKING:
    from funnel.index import DocumentIndex

pytestmark = pytest.mark.slow


async def _no_vector(_: str) -> Vector:
    raise AssertionError("a cross-encoder needs no query vector")


def _request(stage: CrossEncoderStage, *, ms: float | None = None, **changes: Any) -> StageRequest:
    query = Query("how do i reset my password", query_id="q", embed=_no_vector)
    settings = stage.settings.model_copy(update=changes)
    return StageRequest(query, settings.k, settings, Deadline.after_ms(ms))


def _candidates(n: int) -> list[Candidate]:
    texts = [" ".join(WORDS[i % 11 : i % 11 + 2 + i % 5]) for i in range(n)]
    return [Candidate(Document(f"d{i}", text, title="open")) for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def stage(folder: Path) -> CrossEncoderStage:
    settings = CrossEncoderSettings(k=5, model=str(folder), backend="torch-fp32")
    scorer = CrossEncoderScorer(settings.model, backend=settings.backend)
    made = CrossEncoderStage(settings, scorer)
    await made.start()
    return made


async def test_ranks_by_the_models_logits(stage: CrossEncoderStage, folder: Path) -> None:
    """The order is that of the scores of query and 'title, text'."""
    candidates = _candidates(30)
    output = await stage.run(_request(stage), candidates)
    pairs = [("how do i reset my password", f"open\n{c.document.text}") for c in candidates]
    expected = CrossEncoderScorer(str(folder), backend="torch-fp32").score(pairs)
    by_id = dict(zip([c.id for c in candidates], expected, strict=True))
    assert len(output.ranking) == 30
    scores = [cast("float", row.score) for row in output.ranking]
    assert scores == sorted(scores, reverse=True)
    np.testing.assert_allclose(scores, [by_id[r.document.id] for r in output.ranking], atol=1e-5)
    assert output.degraded is None
    assert stage.score_kind == "logit"


async def test_counts_truncated_documents(stage: CrossEncoderStage) -> None:
    """A document longer than the window is scored by its beginning, and counted."""
    candidates = [*_candidates(3), Candidate(Document("long", "delete all data " * 20_000))]
    output = await stage.run(_request(stage), candidates)
    assert (output.truncated, len(output.ranking)) == (1, 4)


class _SlowScorer(CrossEncoderScorer):
    """Takes at least 20 ms for a pair."""

    def _run(self, items: Sequence[PairItem]) -> Sequence[np.float32]:
        time.sleep(0.02 * len(items))
        return super()._run(items)


async def test_a_short_deadline_scores_the_best_so_far(folder: Path) -> None:
    """Candidates are scored in their order; what was not reached is left out and said."""
    settings = CrossEncoderSettings(k=5, model=str(folder))
    scorer = _SlowScorer(settings.model, backend="torch-fp32", token_budget=8)
    stage = CrossEncoderStage(settings, scorer)
    await stage.start()
    candidates = _candidates(1_000)
    output = await stage.run(_request(stage, ms=1_500), candidates)
    scored = {row.document.id for row in output.ranking}
    assert output.degraded == "deadline"
    assert 0 < len(scored) < len(candidates)
    assert scored == {candidate.id for candidate in candidates[: len(scored)]}


async def test_no_time_at_all_is_a_timeout(stage: CrossEncoderStage) -> None:
    """The engine then keeps the previous order."""
    with pytest.raises(StageTimeout, match="none of 4 candidates"):
        await stage.run(_request(stage, ms=0), _candidates(4))


async def test_no_candidates_give_no_ranking(stage: CrossEncoderStage) -> None:
    """Nothing in, nothing out."""
    assert (await stage.run(_request(stage), [])).ranking == []


class _BusyScorer(CrossEncoderScorer):
    """Believes that a pair takes 10 ms and that half a second's work is waiting."""

    async def ascore(self, pairs: Sequence[TextPair], **given: Any) -> ScoredPairs:
        rule = given["shortening"]
        fitting = int(max(0.0, (rule.target.remaining_s() or 0) - 0.5) / 0.01)
        kept = min(len(pairs), max(rule.least, fitting))
        return ScoredPairs(np.zeros(len(pairs), np.float32), 0, kept, left_out=len(pairs) - kept)


@pytest.mark.parametrize(("target_ms", "scored"), [(2_000, 100), (1_000, 50), (100, 10)])
async def test_depth_follows_the_load(folder: Path, target_ms: float, scored: int) -> None:
    """What does not fit into the target is not scored; a minimum always is."""
    settings = CrossEncoderSettings(
        k=5, model=str(folder), target_ms=target_ms, backend="torch-fp32"
    )
    stage = CrossEncoderStage(settings, _BusyScorer(settings.model, backend=settings.backend))
    candidates = _candidates(100)
    output = await stage.run(_request(stage), candidates)
    ids = [row.document.id for row in output.ranking]
    assert set(ids) == {candidate.id for candidate in candidates[: len(ids)]}
    assert scored - 1 <= len(ids) <= scored
    assert output.degraded == (None if scored == 100 else "load")


@pytest.mark.parametrize(("limit", "scored"), [("target", 50), ("deadline", 45)])
async def test_depth_follows_the_funnels_limits_too(folder: Path, limit: str, scored: int) -> None:
    """The funnel's target for overload, and the deadline less its reserve."""
    settings = CrossEncoderSettings(k=5, model=str(folder), backend="torch-fp32")
    stage = CrossEncoderStage(settings, _BusyScorer(settings.model, backend=settings.backend))
    await stage.start()
    soon = Deadline.after_ms(1_000)
    request = _request(stage)
    request = (
        replace(request, target=soon) if limit == "target" else replace(request, deadline=soon)
    )
    output = await stage.run(request, _candidates(100))
    assert scored - 10 <= output.details["scored"] <= scored
    assert output.degraded == "load"


async def test_templates_choose_what_is_read(stage: CrossEncoderStage, folder: Path) -> None:
    """Metadata can be part of it."""
    document = Document("d", "close", title="door", metadata={"team": "card"})
    output = await stage.run(
        _request(stage, template="{metadata.team}: {text}"), [Candidate(document)]
    )
    pair = ("how do i reset my password", "card: close")
    expected = CrossEncoderScorer(str(folder), backend="torch-fp32").score([pair])
    assert output.ranking[0].score == pytest.approx(float(expected[0]), abs=1e-5)


@pytest.mark.parametrize("template", ["{titel}", "no place", "{text.__class__}", "{0}"])
def test_a_bad_template_is_refused(template: str) -> None:
    """At load, with what is allowed."""
    with pytest.raises(ValidationError, match=r"\{metadata.KEY\}"):
        CrossEncoderSettings(k=5, model="m", template=template)


async def test_an_untrained_model_fails_at_start(tmp_path: Path) -> None:
    """Not at the first query."""
    settings = CrossEncoderSettings(k=5, model=str(save_headless(tmp_path)))
    stage = CrossEncoderStage(settings, CrossEncoderScorer(settings.model))
    with pytest.raises(ModelError, match="no trained head"):
        await stage.start()


async def test_identity_names_the_revision(stage: CrossEncoderStage) -> None:
    """Other weights or another window change it, batch sizes do not."""
    identity = stage.identity()
    assert identity["revision"]
    assert "token_budget" not in identity
    assert identity["max_tokens"] is None


async def test_many_queries_at_once(stage: CrossEncoderStage) -> None:
    """Concurrent queries give what each gives alone."""
    candidates = _candidates(20)
    alone = await stage.run(_request(stage), candidates)
    outputs = await asyncio.gather(*(stage.run(_request(stage), candidates) for _ in range(16)))
    for output in outputs:
        assert [r.document.id for r in output.ranking] == [r.document.id for r in alone.ranking]


class _KnownScorer(CrossEncoderScorer):
    """Gives the scores written in the documents; counts what it was asked."""

    asked = 0

    async def ascore(
        self,
        pairs: Sequence[TextPair],
        *,
        deadline: Deadline,
        cosines: Sequence[float | None] | None = None,
        needed: Sequence[float] | None = None,
        shortening: Shortening | None = None,
    ) -> ScoredPairs:
        self.asked += len(pairs)
        values = np.array([float(text.split()[-1]) for _, text in pairs], np.float32)
        return ScoredPairs(values, 0, len(pairs))


def _scored_candidates(slope: float) -> list[Candidate]:
    noise = np.random.default_rng(2).normal(0, 0.5, 100)
    scores = [slope * float(np.log(i + 1)) + noise[i] for i in range(100)]
    return [Candidate(Document(f"d{i}", f"{score}")) for i, score in enumerate(scores)]


@pytest.mark.parametrize(("early_stop", "slope"), [(0.95, -3.0), (0.95, 0.0), (None, -3.0)])
async def test_scoring_stops_when_the_rest_cannot_matter(
    folder: Path, early_stop: float | None, slope: float
) -> None:
    """The kept ones are those of a full scoring; the trace says how many were scored, and why."""
    settings = CrossEncoderSettings(k=5, model=str(folder), early_stop=early_stop, block=20)
    scorer = _KnownScorer(settings.model, backend="torch-fp32")
    stage = CrossEncoderStage(settings, scorer)
    candidates = _scored_candidates(slope)
    output = await stage.run(_request(stage), candidates)
    best = sorted(candidates, key=lambda each: -float(each.document.text))[:5]
    assert [r.document.id for r in output.ranking[:5]] == [each.id for each in best]
    assert output.degraded is None
    assert output.details["scored"] == scorer.asked
    if early_stop and slope:
        assert scorer.asked < 100
        assert output.details["stopped"] == "score_gap"
        assert output.details["expected_entrants"] < 0.05
    else:
        assert scorer.asked == 100
        assert "stopped" not in output.details


class _LateScorer(_KnownScorer):
    """Time runs out after 30 pairs."""

    async def ascore(
        self,
        pairs: Sequence[TextPair],
        *,
        deadline: Deadline,
        cosines: Sequence[float | None] | None = None,
        needed: Sequence[float] | None = None,
        shortening: Shortening | None = None,
    ) -> ScoredPairs:
        done = max(0, 30 - self.asked)
        scored = await super().ascore(pairs, deadline=deadline)
        if done >= len(pairs):
            return scored
        scored.values[done:] = np.nan
        return ScoredPairs(scored.values, 0, done)


async def test_a_deadline_within_a_block_is_said(folder: Path) -> None:
    """Early stop does not hide that time ran out; what was scored until then is kept."""
    settings = CrossEncoderSettings(k=5, model=str(folder), early_stop=0.99, block=20)
    stage = CrossEncoderStage(settings, _LateScorer(settings.model, backend="torch-fp32"))
    candidates = _scored_candidates(0.0)
    output = await stage.run(_request(stage), candidates)
    assert output.degraded == "deadline"
    assert {r.document.id for r in output.ranking} == {each.id for each in candidates[:30]}
    assert "stopped" not in output.details


async def test_remembered_scores_are_the_same_and_counted(folder: Path) -> None:
    """A second run scores nothing anew; the cache's size does not change the stage's identity."""
    settings = CrossEncoderSettings(k=5, model=str(folder), backend="torch-fp32", score_cache_mb=1)
    stage = CrossEncoderStage.build(settings, _resources())
    await stage.start()
    candidates = _candidates(30)
    first = await stage.run(_request(stage), candidates)
    again = await stage.run(_request(stage), candidates)
    assert [r.score for r in again.ranking] == [r.score for r in first.ranking]
    assert "remembered" not in first.details
    assert again.details["remembered"] == 30
    assert "score_cache_mb" not in stage.identity()


def _resources() -> Resources:
    return Resources(index=cast("DocumentIndex", None), models=ModelPool(), embedder="")
