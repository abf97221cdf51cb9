"""The hybrid stage: reciprocal rank fusion of dense and BM25."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from funnel.errors import ConfigError
from funnel.index import DocumentIndex, Found
from funnel.settings import FunnelSettings
from funnel.stages.hybrid import HybridSettings, HybridStage, fuse
from funnel.types import Document, SourceScore
from tests.stages.retrieval import filled, ids, request, resources

EQUAL: Any = {"dense": 1.0, "bm25": 1.0}


def ranking(names: str) -> list[Found]:
    return [Found(Document(name, name), 10.0 - n) for n, name in enumerate(names)]


def fused(first: str, second: str, rrf_k: int = 60, **weights: float) -> dict[str, float]:
    lists: Any = {"dense": ranking(first), "bm25": ranking(second)}
    rows = fuse(lists, dict(EQUAL, **weights), rrf_k)
    return {row.document.id: row.score or 0.0 for row in rows}


def test_ranks_count_from_one_and_k_is_sixty() -> None:
    """The figures of Cormack et al.: first and third place make 1/61 + 1/63."""
    scores = fused("abc", "xya")
    assert scores["a"] == pytest.approx(1 / 61 + 1 / 63)
    assert scores["x"] == pytest.approx(1 / 61)
    assert list(scores) == ["a", "x", "b", "y", "c"]


def test_weights_scale_and_zero_leaves_a_source_out_of_the_score() -> None:
    """The weighted source decides."""
    assert list(fused("ab", "ba", dense=2.0)) == ["a", "b"]
    assert list(fused("ab", "ba", bm25=2.0)) == ["b", "a"]
    assert fused("ab", "ba", bm25=0.0) == pytest.approx({"a": 1 / 61, "b": 1 / 62})


def test_a_small_k_favours_the_top_of_each_list() -> None:
    """With k=1 a first place beats two second places."""
    assert next(iter(fused("abcd", "xbyz", rrf_k=1))) == "b"
    assert fused("ab", "xy", rrf_k=1)["a"] == pytest.approx(0.5)


def test_ties_are_ordered_by_id() -> None:
    """Mirror-image lists give equal scores."""
    assert list(fused("ba", "ab")) == ["a", "b"]


def test_each_hit_keeps_rank_and_score_of_each_source() -> None:
    """What the sources said is not lost in the fusion."""
    lists: Any = {"dense": ranking("ab"), "bm25": ranking("b")}
    rows = {row.document.id: row.sources for row in fuse(lists, EQUAL, 60)}
    assert rows["b"] == {"dense": SourceScore(2, 9.0), "bm25": SourceScore(1, 10.0)}
    assert rows["a"] == {"dense": SourceScore(1, 10.0)}


@given(st.permutations("abcdef"), st.permutations("abcdef"))
def test_better_in_both_lists_is_better_fused(dense: list[str], bm25: list[str]) -> None:
    """Fusion never turns over what both sources agree on."""
    order = list(fused("".join(dense), "".join(bm25)))
    for first in order:
        for second in order[order.index(first) + 1 :]:
            worse_in_both = dense.index(second) < dense.index(first) and (
                bm25.index(second) < bm25.index(first)
            )
            assert not worse_in_both


@pytest.fixture
async def index() -> AsyncIterator[DocumentIndex]:
    index = await filled()
    yield index
    await index.aclose()


async def test_both_sources_contribute(index: DocumentIndex) -> None:
    """Every document has a dense rank; those that share words a BM25 rank as well."""
    settings = HybridSettings(k=4)
    stage = HybridStage.build(settings, resources(index))
    await stage.start()
    output = await stage.run(request(settings, "a cat on a warm mat"), [])
    assert ids(output)[0] == "cat"
    sources = {row.document.id: set(row.sources) for row in output.ranking}
    assert sources["cat"] == sources["dog"] == {"dense", "bm25"}
    assert sources["hund"] == {"dense"}
    assert output.details == {"dense": 4, "bm25": 2, "terms": 3}
    assert stage.score_kind == "rrf"


async def test_a_source_of_weight_zero_is_not_asked(index: DocumentIndex) -> None:
    """Without dense there is no embedding to compute, and filters still hold."""
    settings = HybridSettings(k=4, weights={"dense": 0})
    stage = HybridStage.build(settings, resources(index))
    asked = request(settings, "cat", filters={"lang": "en"})
    output = await stage.run(asked, [])
    assert ids(output) == ["dog", "cat"]
    assert asked.query._task is None
    assert output.details["dense"] == 0


async def test_overrides_of_a_call_are_obeyed(index: DocumentIndex) -> None:
    """The request's settings win over the stage's own."""
    stage = HybridStage.build(HybridSettings(k=4), resources(index))
    narrow = HybridSettings(k=1, prefetch=1, weights={"bm25": 3})
    output = await stage.run(request(narrow, "cat"), [])
    assert output.details["dense"] == output.details["bm25"] == 1


async def test_a_call_for_more_than_prefetch_fetches_more(index: DocumentIndex) -> None:
    """As it widens the stage itself: no hit is missing for want of candidates."""
    settings = HybridSettings(k=1, prefetch=1, weights={"dense": 0})
    stage = HybridStage.build(settings, resources(index))
    output = await stage.run(replace(request(settings, "cat"), k=2), [])
    assert len(ids(output)) == output.details["bm25"] == 2


def test_prefetch_below_k_is_refused(tmp_path: Path) -> None:
    """A query might get fewer than k hits, and nothing would say why."""
    file = tmp_path / "c.yaml"
    file.write_text("stages: [{kind: hybrid, top_k: 50, prefetch: 20}]")
    expected = r"c.yaml: line 1: stages\[0\].prefetch: got 20, expected at least k \(50\).*raise"
    with pytest.raises(ConfigError, match=expected):
        FunnelSettings.from_yaml(file, environment={})
    assert HybridSettings(k=20, prefetch=20).prefetch == 20


@pytest.mark.parametrize(
    "bad",
    [
        {"weights": {"dense": 0, "bm25": 0}},
        {"weights": {"dense": -1}},
        {"weights": {"sparse": 1}},
        {"weights": {"dense": float("nan")}},
        {"rrf_k": 0},
        {"prefetch": 0},
        {"fusion": "dbsf"},
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    """At load, not at the first query."""
    with pytest.raises(ValidationError):
        HybridSettings.model_validate({"k": 5, **bad})


def test_missing_weights_are_one() -> None:
    """Naming one source leaves the other as it was."""
    assert HybridSettings(k=5, weights={"bm25": 2}).weights == {"dense": 1.0, "bm25": 2.0}
    assert HybridSettings(k=5).weights == EQUAL
