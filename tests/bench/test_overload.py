"""Overload on the real scheduler, with a model that only sleeps: no other load matters."""

import asyncio
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from funnel.bench.load import Answered, Ask, capacity, open_loop, poisson, summarise
from funnel.deadline import Deadline
from funnel.models import CrossEncoderScorer
from funnel.models.pair_models import PairItem
from funnel.models.worker import ModelWorker
from funnel.query import Query, Vector
from funnel.stages.base import StageRequest
from funnel.stages.cross_encoder import CrossEncoderSettings, CrossEncoderStage
from funnel.types import Candidate, Document

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]
PAIR_S = 0.001
WORDS = ("how", "do", "i", "reset", "my", "password", "open", "a", "new", "account", "close")
CANDIDATES = [Candidate(Document(f"d{i}", " ".join(WORDS[i % 7 : i % 7 + 4]))) for i in range(20)]


class _Sleeper(CrossEncoderScorer):
    def _run(self, items: Sequence[PairItem]) -> Sequence[np.float32]:
        time.sleep(PAIR_S * len(items))
        return [np.float32(0)] * len(items)


@pytest.fixture
def worker() -> Iterator[ModelWorker]:
    made = ModelWorker(streams=1, threads_per_stream=1)
    yield made
    made.close()


def _asker(stage: CrossEncoderStage, target_ms: float | None) -> Ask:
    settings = stage.settings.model_copy(update={"target_ms": target_ms, "min_depth": 2})

    async def vector(_: str) -> Vector:
        raise AssertionError("a cross-encoder needs no query vector")

    async def ask(number: int) -> Answered:
        query = Query(WORDS[number % 11], query_id=str(number), embed=vector)
        request = StageRequest(query, settings.k, settings, Deadline())
        output = await stage.run(request, CANDIDATES)
        return Answered(0, 0, number, degraded=output.degraded == "load")

    return ask


async def test_latency_holds_under_overload_and_full_depth_returns(worker: ModelWorker) -> None:
    """At 136% full depth falls ever further behind; adaptive depth does not, and ends with it."""
    settings = CrossEncoderSettings(k=5, model="embedded:relevance")
    scorer = _Sleeper(settings.model, backend="torch-fp32", token_budget=64, worker=worker)
    stage = CrossEncoderStage(settings, scorer)
    await stage.start()
    full = _asker(stage, None)
    await capacity(full, range(8), callers=1)
    top = await capacity(full, range(40), callers=8)
    adaptive = _asker(stage, 2_500 / top)
    due = poisson(1.36 * top, 200 / top, seed=1)
    p99 = {}
    for name, ask in (("full", full), ("adaptive", adaptive)):
        answers = await open_loop(ask, due, list(range(len(due))))
        point = summarise(
            answers, len, share=1.36, rate=top, cache=False, adapt=True, warm_up=100 / top
        )
        p99[name] = point.p99_ms
        assert (point.degraded > 0.3) == (name == "adaptive")
    assert p99["full"] > 2.5 * p99["adaptive"]
    await asyncio.to_thread(_until_calm, worker)
    assert not (await adaptive(0)).degraded


def _until_calm(worker: ModelWorker) -> None:
    until = time.monotonic() + 60
    while worker.overloaded() and time.monotonic() < until:
        time.sleep(0.05)
