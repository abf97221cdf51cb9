"""Late interaction: MaxSim as defined, mixing, stored vectors, deadlines."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from funnel.deadline import Deadline
from funnel.errors import StageTimeout
from funnel.models import Embedder, encoder_networks
from funnel.models.base import Side
from funnel.models.encoder import EncoderNetwork
from funnel.models.maxsim import maxsim
from funnel.models.representations import Representation
from funnel.models.source import EMBEDDED_ENCODER
from funnel.models.tokens import Tokens
from funnel.query import Query, Vector
from funnel.stages.base import StageRequest
from funnel.stages.late_interaction import LateInteractionSettings, LateInteractionStage
from funnel.types import Candidate, Document

if TYPE_CHECKING:
    from funnel.index import DocumentIndex

pytestmark = pytest.mark.slow
QUERY = "how do I get a new password?"
TEXTS = {
    "reset": "You can reset your password from the login page.",
    "tea": "Green tea is best brewed below boiling point.",
    "card": "Payment cards are charged on the first of each month.",
    "account": "Open a new account with your e-mail address.",
}
CANDIDATES = [
    Candidate(Document(name, text), stage_scores={"bm25": float(-i)})
    for i, (name, text) in enumerate(TEXTS.items())
]


async def _no_vector(_: str) -> Vector:
    raise AssertionError("late interaction needs no query vector")


def _request(settings: LateInteractionSettings, ms: float | None = None) -> StageRequest:
    query = Query(QUERY, query_id="q", embed=_no_vector)
    return StageRequest(query, settings.k, settings, Deadline.after_ms(ms))


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(EMBEDDED_ENCODER)


def _stage(embedder: Embedder, **settings: Any) -> LateInteractionStage:
    return LateInteractionStage(LateInteractionSettings(k=3, **settings), embedder)


def test_maxsim_is_the_mean_of_the_best_counterparts() -> None:
    """Two query tokens: one finds itself, the other is at 60 degrees."""
    query = np.array([[1, 0], [0.5, np.sqrt(0.75)]], np.float32)
    documents = [np.array([[1, 0], [-1, 0]], np.float32), np.array([[0, -1]], np.float32)]
    np.testing.assert_allclose(maxsim(query, documents), [0.75, -np.sqrt(0.75) / 2], atol=1e-6)
    assert maxsim(query, []).shape == (0,)


def test_maxsim_weighs_tokens() -> None:
    """Twice the weight is as good as the token twice."""
    rng = np.random.default_rng(3)
    query, documents = rng.normal(size=(3, 4)), [rng.normal(size=(n, 4)) for n in (1, 5)]
    rows = query.astype(np.float32), [each.astype(np.float32) for each in documents]
    weighted = maxsim(*rows, np.array([2, 1, 0], np.float32))
    repeated = maxsim(rows[0][[0, 0, 1]], rows[1])
    np.testing.assert_allclose(weighted, repeated, atol=1e-6)


async def test_ranks_by_maxsim(embedder: Embedder) -> None:
    """The scores are those of the definition over the encoder's token vectors."""
    stage = _stage(embedder)
    output = await stage.run(_request(stage.settings), CANDIDATES)
    query, *documents = embedder.token_vectors([QUERY, *TEXTS.values()])
    expected = {
        name: float((query @ vectors.T).max(1).mean())
        for name, vectors in zip(TEXTS, documents, strict=True)
    }
    assert output.ranking[0].document.id == "reset"
    assert output.ranking[-1].document.id == "tea"
    for row in output.ranking:
        assert row.score == pytest.approx(expected[row.document.id], abs=5e-3)
    assert stage.score_kind == "maxsim"


async def test_mixing_moves_the_order_towards_the_previous_stage(embedder: Embedder) -> None:
    """At 1 the order is the previous one, in between it is an order only, with both parts kept."""
    stage = _stage(embedder, mix=1.0)
    output = await stage.run(_request(stage.settings), CANDIDATES)
    assert [row.document.id for row in output.ranking] == list(TEXTS)
    assert stage.score_kind == "rank"
    half = _stage(embedder, mix=0.5)
    rows = (await half.run(_request(half.settings), CANDIDATES)).ranking
    ranks = {row.document.id: row.sources["maxsim"].rank for row in rows}
    assert ranks["reset"] == 1
    scores = [cast("float", row.score) for row in rows]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("scores", "ranks"),
    [
        ([{"ce": -4.0}, {"hybrid": 0.03}, {"hybrid": 0.02}, {}], [{"ce": 1}, {}, {}, {}]),
        ([{"bm25": float(i)} for i in range(4)], [{"bm25": 4 - i, "llm": i + 1} for i in range(4)]),
        ([{"own": float(i)} for i in range(4)], [{"own": i + 1} for i in range(4)]),
    ],
    ids=["cut short before", "order only before", "scores that are not its order"],
)
async def test_scores_that_are_not_the_incoming_order_are_not_mixed(
    embedder: Embedder, scores: list[dict[str, float]], ranks: list[dict[str, int]]
) -> None:
    """The order itself is, so that neither the unread come first nor the order is undone."""
    candidates = [
        Candidate(each.document, stage_scores=score, stage_ranks=rank)
        for each, score, rank in zip(CANDIDATES, scores, ranks, strict=True)
    ]
    stage = _stage(embedder, mix=1.0)
    output = await stage.run(_request(stage.settings), candidates)
    assert [row.document.id for row in output.ranking] == list(TEXTS)


class _Index:
    """Holds made-up vectors for one document."""

    async def token_vectors(
        self, ids: Sequence[str], *, deadline: Deadline
    ) -> dict[str, NDArray[np.float32]]:
        return {"tea": np.tile(np.full(384, 384**-0.5, np.float32), (3, 1))} if "tea" in ids else {}


async def test_stored_vectors_are_used(embedder: Embedder) -> None:
    """A document whose vectors the index holds is not read again."""
    settings = LateInteractionSettings(k=3)
    index = cast("DocumentIndex", _Index())
    output = await LateInteractionStage(settings, embedder, index).run(
        _request(settings), CANDIDATES
    )
    scores = {row.document.id: row.score for row in output.ranking}
    query = embedder.token_vectors([QUERY])[0]
    assert scores["tea"] == pytest.approx(float((query @ np.full(384, 384**-0.5)).mean()), abs=5e-3)


async def test_no_time_is_a_timeout(embedder: Embedder) -> None:
    """Unless everything is still in memory."""
    stage = _stage(embedder)
    fresh = [Candidate(Document("x", "never read before " * 50))]
    with pytest.raises(StageTimeout):
        await stage.run(_request(stage.settings, ms=0), fresh)


class _SlowEmbedder(Embedder):
    """Takes at least 4 ms for a text."""

    def _run_tokens(self, batch: Sequence[Tokens]) -> list[Representation]:
        time.sleep(0.004 * len(batch))
        return super()._run_tokens(batch)

    def _model(self) -> EncoderNetwork:
        """What pools is not wanted here, and choosing how to run it takes seconds."""
        return self._tokens_network()


@pytest.mark.alone
async def test_a_short_deadline_ranks_what_was_read() -> None:
    """The best candidates' window first; the rest is left out and said."""
    stage = _stage(_SlowEmbedder(EMBEDDED_ENCODER))
    await stage.start()
    many = [Candidate(Document(f"d{i}", f"item {i} of a list")) for i in range(1_000)]
    await stage.run(_request(stage.settings), many[:4])
    output = await stage.run(_request(stage.settings, ms=2_000), many)
    ids = {row.document.id for row in output.ranking}
    assert output.degraded == "deadline"
    assert 4 < len(ids) < len(many)
    # Within a window longer texts go first, and two batches run at once.
    assert ids <= {candidate.id for candidate in many[: len(ids) + 512]}


@pytest.mark.alone
async def test_what_was_read_in_time_is_handed_over_and_kept() -> None:
    """So the next same query gets further; reading ends before the chain's own timeout does."""
    ends: list[float | None] = []

    class Noted(_SlowEmbedder):
        async def arepresent(
            self, texts: Sequence[str], deadline: Deadline, *, side: Side | None = None
        ) -> list[Representation | None]:
            ends.append(deadline.end)
            return await super().arepresent(texts, deadline, side=side)

    stage = _stage(Noted(EMBEDDED_ENCODER))
    await stage.start()
    many = [Candidate(Document(f"k{i}", f"thing {i} of a catalogue")) for i in range(1_000)]
    for each in many[:10]:  # until the worker knows the pace: what it guesses first is far too fast
        await stage.run(_request(stage.settings), [each])
    counts = []
    for _ in range(2):
        ends.clear()
        request = _request(stage.settings, ms=600)
        output = await stage.run(request, many)
        assert output.degraded == "deadline"
        assert request.deadline.end and ends
        assert all(end and end < request.deadline.end for end in ends)
        counts.append(len(output.ranking))
    assert 10 < counts[0] < counts[1] < len(many)


async def test_each_text_is_read_on_its_side() -> None:
    """Of an encoder that tells queries from documents."""
    sides: dict[str, Side | None] = {}

    class Noted(Embedder):
        async def arepresent(
            self, texts: Sequence[str], deadline: Deadline, *, side: Side | None = None
        ) -> list[Representation | None]:
            sides.update(dict.fromkeys(texts, side))
            return await super().arepresent(texts, deadline, side=side)

    stage = _stage(Noted(EMBEDDED_ENCODER))
    await stage.run(_request(stage.settings), CANDIDATES)
    assert sides == {QUERY: "query", **dict.fromkeys(TEXTS.values(), "document")}


async def test_the_query_is_read_first() -> None:
    """However short it is and however many documents there are, which go longest first."""
    read: list[int] = []

    class Noted(Embedder):
        def _run_tokens(self, batch: Sequence[Tokens]) -> list[Representation]:
            read.extend(map(len, batch))
            return super()._run_tokens(batch)

    stage = _stage(Noted(EMBEDDED_ENCODER))
    query = Query("noted first", query_id="q", embed=_no_vector)
    request = StageRequest(query, 3, stage.settings, Deadline.after_ms(60_000))
    await stage.run(request, [Candidate(Document("n", "a noted document that is longer"))])
    assert read == [4, 8]


async def test_start_opens_what_the_first_query_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of token vectors is another one where it runs in another precision."""
    monkeypatch.setattr("funnel.models.encoder.cpu_has_fast_bf16", lambda: True)
    encoder_networks._opened.cache_clear()
    stage = _stage(Embedder(EMBEDDED_ENCODER))
    await stage.start()
    misses = encoder_networks._opened.cache_info().misses
    await stage.run(_request(stage.settings), CANDIDATES)
    assert encoder_networks._opened.cache_info().misses == misses


@pytest.mark.parametrize(("words", "cut"), [(0, 0), (1, 1), (5_000, 1)])
async def test_documents_longer_than_the_window_are_counted(
    embedder: Embedder, words: int, cut: int
) -> None:
    """Beyond the encoder's window nothing is read; a text that just fits is read to its end."""
    stage = _stage(embedder)
    text = "password " * (embedder.max_tokens - 2 + words)
    for _ in range(2):  # read, then from memory
        output = await stage.run(_request(stage.settings), [Candidate(Document("long", text))])
        assert output.truncated == cut
