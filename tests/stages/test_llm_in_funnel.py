"""The list-wise stage as the last of a whole funnel."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from funnel import Funnel, FunnelSettings
from funnel.cache.null import NullCache
from funnel.errors import AuthError, BackendUnavailable
from funnel.stages.spend import PROCESS
from tests.evaluation.folders import FakeModels
from tests.openrouter_server import (
    TEST_KEY,
    Answer,
    OpenRouterServer,
    completion,
    failure,
    openrouter_server,
    ranking,
)

CORPUS = [{"id": f"d{n}", "text": f"{'red ' * n}apples, sort {n}"} for n in range(1, 6)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenRouterServer]:
    monkeypatch.setenv("OPENROUTER_API_KEY", TEST_KEY)
    with openrouter_server() as running:
        yield running


def funnel(server: OpenRouterServer, **llm: Any) -> Funnel:
    """Retrieval, then the model; documents are in memory."""
    stage = {
        "kind": "llm_listwise",
        "model": "one/model",
        "base_url": server.base_url,
        "k": 3,
        **llm,
    }
    settings = FunnelSettings.from_mapping(
        {"stages": [{"kind": "hybrid", "k": 4}, stage], "qdrant": ":memory:"}
    )
    made = Funnel(settings, cache=NullCache(), models=FakeModels())  # type: ignore[arg-type]
    made.index(CORPUS)
    return made


def test_the_model_has_the_last_word(server: OpenRouterServer) -> None:
    """Hits follow the model's ranks and keep the score of the stage that gave one."""
    server.script = [ranking(4, 2, 1, 3, cost=0.0042)]
    spent = PROCESS.spent_usd
    with funnel(server) as made:
        result = made.run("red apples")
    before = result.stage("hybrid").kept
    assert result.ids == (before[3], before[1], before[0])
    first = result.hits[0]
    assert (first.score_stage, first.score_kind) == ("hybrid", "rrf")
    assert first.stage_ranks["llm_listwise"] == 1
    trace = result.stage("llm_listwise")
    assert result.usage.cost_usd == trace.cost_usd == trace.cost == 0.0042
    assert trace.to_dict()["cost"] == 0.0042
    assert PROCESS.spent_usd == pytest.approx(spent + 0.0042)
    assert result.degraded == ()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (failure(500), "unavailable"),
        (failure(401), "auth"),
        (failure(402), "budget"),
        (failure(404), "error"),
        (failure(429, headers={"Retry-After": "60"}), "rate_limited"),
        (completion("no idea"), "malformed"),
        (Answer(b"<html>"), "malformed"),
    ],
)
def test_a_failing_model_leaves_the_order_so_far(
    server: OpenRouterServer, answer: Answer, reason: str
) -> None:
    """Users still get the retrieved hits, and the result says why they are not reranked."""
    server.script = [answer]
    with funnel(server) as made:
        result = made.run("red apples", deadline_ms=3_000)
    assert result.ids == result.stage("hybrid").kept[:3]
    assert result.degraded == (f"llm_listwise:{reason}",)


def test_a_slow_model_costs_no_more_than_the_deadline(server: OpenRouterServer) -> None:
    """The answer comes in time, from the stages that were in time."""
    server.script = [Answer(delay_s=20)]
    with funnel(server) as made:
        made.run("red", overrides={"llm_listwise": {"timeout_ms": 1}})
        started = time.monotonic()
        result = made.run("red apples", deadline_ms=500)
        assert time.monotonic() - started < 5
    assert result.degraded == ("llm_listwise:timeout",)
    assert len(result.hits) == 3


def test_errors_are_raised_where_that_is_asked_for(server: OpenRouterServer) -> None:
    """With on_error raise, the caller gets the stage's own error with its name."""
    server.script = [failure(500, "down")]
    with (
        funnel(server, on_error="raise") as made,
        pytest.raises(BackendUnavailable, match="down") as caught,
    ):
        made.run("red apples")
    assert caught.value.stage == "llm_listwise"


def test_without_a_key_the_funnel_works_and_says_so(
    server: OpenRouterServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing key degrades, or fails at start where errors shall be raised."""
    monkeypatch.delenv("OPENROUTER_API_KEY")
    with funnel(server) as made:
        result = made.run("red apples")
    assert result.degraded == ("llm_listwise:auth",)
    assert "OPENROUTER_API_KEY" in (result.stage("llm_listwise").message or "")
    with pytest.raises(AuthError, match="OPENROUTER_API_KEY"):
        funnel(server, on_error="raise")
    assert server.asked == []
