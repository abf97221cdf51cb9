"""A slow encoder: the cache does not hold a query for an embedding that the stages may not need."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from funnel.cache.base import Answer, CacheRequest
from funnel.models.base import Side
from funnel.types import Document
from tests.cache.world import FloatArray, TopicEncoder, World, hit


class SlowEncoder(TopicEncoder):
    """Takes ``delay_s`` for an embedding, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.delay_s = 0.0
        self.error: Exception | None = None
        self.begun = 0

    async def aencode(self, texts: Sequence[str], *, side: Side | None = None) -> FloatArray:
        self.begun += 1
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        return self.encode(texts)


def _world(encoder: SlowEncoder, *, timeout_ms: float = 5_000) -> World:
    verifier = {"model": "world/verifier", "timeout_ms": timeout_ms}
    world = World(verifier=verifier, timeout_ms=20)  # the store's, which keeping may take
    world.encoder = encoder
    return world


async def _seconds(world: World, request: CacheRequest, text: str) -> tuple[float, str | None]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    served = await world.cache.serve(request, world.stages.of(text))
    assert served.answer.hits
    return loop.time() - began, served.info.reason


async def test_query_leaves_half_of_its_deadline_to_the_stages() -> None:
    """A queued encoder costs at most half of what is left; then the stages answer."""
    encoder = SlowEncoder()
    world = _world(encoder)
    await world.cache.start()
    encoder.delay_s = 1.0
    text = "a word about cats"
    took, reason = await _seconds(world, world.request(text, deadline_ms=300), text)
    assert reason == "embedding_timeout"
    assert 0.1 < took < 0.3


async def test_query_without_a_deadline_waits_as_long_as_for_the_verifier() -> None:
    """The verifier's time-out is what the semantic tier may cost."""
    encoder = SlowEncoder()
    world = _world(encoder, timeout_ms=50)
    await world.cache.start()
    encoder.delay_s = 1.0
    text = "a word about cats"
    took, reason = await _seconds(world, world.request(text), text)
    assert reason == "embedding_timeout"
    assert 0.04 < took < 0.5


async def test_an_explanation_waits_no_longer_than_a_query() -> None:
    """And says what a query would have said."""
    encoder = SlowEncoder()
    world = _world(encoder, timeout_ms=50)
    await world.cache.start()
    encoder.delay_s = 30.0
    report = await world.cache.explain(world.request("a word about cats"))
    assert (report["status"], report["reason"]) == ("miss", "embedding_timeout")
    encoder.delay_s, encoder.error = 0.0, ValueError("no memory")
    report = await world.cache.explain(world.request("another word about cats"))
    assert (report["status"], report["reason"]) == ("miss", "embedding_failed")


async def test_the_embedding_goes_on_for_the_stages_and_for_the_kept_answer() -> None:
    """It is computed once: a stage that waits for it gets it, and the answer is kept under it."""
    encoder = SlowEncoder()
    world = _world(encoder, timeout_ms=30)
    await world.cache.start()
    encoder.begun, encoder.delay_s = 0, 0.15
    request = world.request("a word about cats")

    async def dense() -> Answer:
        vector = await request.query.vector()
        assert np.isfinite(vector).all()
        return Answer(hits=(hit(1, "cats-1"),), elapsed_ms=100.0)

    served = await world.cache.serve(request, dense)
    await asyncio.sleep(0.05)
    assert (served.info.reason, encoder.begun) == ("embedding_timeout", 1)
    encoder.delay_s = 0.0
    assert (await world.ask("something about cats")).info.tier == "semantic"


async def test_an_embedding_that_fails_too_late_disturbs_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its error comes when the query has been answered, and is no unretrieved exception."""
    encoder = SlowEncoder()
    world = _world(encoder, timeout_ms=30)
    await world.cache.start()
    encoder.delay_s, encoder.error = 0.1, ValueError("no memory")
    served = await world.ask("a word about cats")
    assert (served.info.status, served.info.reason) == ("miss", "embedding_timeout")
    await asyncio.sleep(0.15)
    await world.cache.aclose()
    assert "never retrieved" not in caplog.text


async def test_an_answer_without_an_embedding_leaves_with_any_new_document() -> None:
    """Nobody can tell which documents are near it; deleted ones that it does not hold are not."""
    encoder = SlowEncoder()
    world = _world(encoder)
    encoder.error = ValueError("no memory")
    await world.ask("a word about cats")
    await world.cache.documents_changed(deleted=["dogs-1"])
    assert (await world.ask("a word about cats")).info.status == "hit"
    await world.cache.documents_changed(upserted=[Document("new", "all there is about cats")])
    assert (await world.ask("a word about cats")).info.status == "miss"


async def test_a_query_in_company_waits_while_the_encoder_gives_results_to_others() -> None:
    """Six paraphrases behind a queue of the encoder that takes longer than the limit: one run."""
    encoder = QueuedEncoder()
    world = _world(encoder, timeout_ms=50)
    world.stages.delay_s = 0.3
    await world.cache.start()
    encoder.delay_s = 0.03
    texts = [f"{word} words about cats" for word in ("some", "few", "many", "good", "nice", "odd")]
    began = asyncio.get_running_loop().time()
    await asyncio.gather(
        *(world.cache.serve(world.request(text), world.stages.of(text)) for text in texts)
    )
    assert asyncio.get_running_loop().time() - began > 0.15
    assert len(world.stages.runs) == 1


async def test_an_encoder_that_hangs_is_not_waited_for_in_company_either() -> None:
    """Eight limits without a result for anybody are enough, far less than a flight may take."""
    encoder = SlowEncoder()
    world = _world(encoder, timeout_ms=20)
    await world.cache.start()
    encoder.delay_s = 30.0
    texts = ["a word about cats", "some words about cats"]
    took = [_seconds(world, world.request(text), text) for text in texts]
    for seconds, reason in await asyncio.gather(*took):
        assert reason == "embedding_timeout"
        assert seconds < 2.0
    assert len(world.stages.runs) == 2


class QueuedEncoder(SlowEncoder):
    """One text at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._turn = asyncio.Lock()

    async def aencode(self, texts: Sequence[str], *, side: Side | None = None) -> FloatArray:
        async with self._turn:
            return await super().aencode(texts, side=side)
