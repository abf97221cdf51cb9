"""Spend caps are checked before a call."""

import threading
from collections.abc import Iterator

import pytest

from funnel.errors import BudgetExceeded
from funnel.stages.attempts import MaxPrice
from funnel.stages.spend import Ledger
from tests.openrouter_server import Answer, OpenRouterServer, openrouter_server, ranking
from tests.stages.llm_support import llm_stage, rank


@pytest.fixture
def server() -> Iterator[OpenRouterServer]:
    with openrouter_server() as running:
        yield running


async def test_a_query_stops_before_the_call_that_would_pass_its_cap(
    server: OpenRouterServer,
) -> None:
    """The price seen in the first window stops the pass before the cap is passed."""
    server.script = [lambda asked: ranking(*range(1, asked.size + 1), cost=0.01)]
    output = await rank(llm_stage(server, max_usd_per_query=0.025), 60)
    assert output.degraded == "budget"
    assert (output.usage.calls, output.usage.cost_usd) == (2, 0.02)
    assert "max_usd_per_query" in output.details["message"]


async def test_the_process_cap_holds_over_queries_and_stages(server: OpenRouterServer) -> None:
    """Stages that share a ledger share its cap; past it nothing is called."""
    server.script = [ranking(2, 1, cost=0.01)]
    ledger = Ledger()
    for _ in range(2):
        await rank(llm_stage(server, ledger=ledger, max_usd_per_process=0.025), 2)
    with pytest.raises(BudgetExceeded, match="max_usd_per_process") as caught:
        await rank(llm_stage(server, ledger=ledger, max_usd_per_process=0.025), 2)
    assert caught.value.reason == "budget"
    assert len(server.asked) == 2
    assert ledger.spent_usd == pytest.approx(0.02)


async def test_a_known_price_limit_stops_even_the_first_call(server: OpenRouterServer) -> None:
    """With max_price the most that a call can cost is known before any answer."""
    dear = {"prompt": 1_000.0, "completion": 1_000.0}
    with pytest.raises(BudgetExceeded):
        await rank(llm_stage(server, max_usd_per_query=0.01, max_price=dear), 3)
    assert server.asked == []


async def test_an_unanswered_call_counts_with_what_it_may_have_cost(
    server: OpenRouterServer,
) -> None:
    """A call that timed out may be charged, so the caps count its bound; the trace does not."""
    server.script = [Answer(delay_s=5)]
    ledger = Ledger()
    price = {"prompt": 10.0, "completion": 10.0}
    with pytest.raises(Exception, match="no full answer"):
        await rank(llm_stage(server, ledger=ledger, max_price=price), 3, deadline_ms=100)
    assert ledger.spent_usd >= MaxPrice.model_validate(price).bound_usd(100, 256)


def test_reservations_under_way_count_between_threads() -> None:
    """However many threads reserve at once, the cap is never passed."""
    ledger, granted = Ledger(), []

    def take() -> None:
        for _ in range(50):
            try:
                ledger.reserve(0.01, cap=1.0)
            except BudgetExceeded:
                return
            granted.append(0.01)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.98 <= sum(granted) <= 1.0 + 1e-9


def test_a_price_is_remembered_at_its_highest() -> None:
    """Later estimates scale the dearest price per unit with the size of the call."""
    ledger = Ledger()
    ledger.settle(0.0, "m", units=1_000, cost_usd=0.01)
    ledger.settle(0.0, "m", units=1_000, cost_usd=0.002)
    assert ledger.estimate("m", 2_000, None) == pytest.approx(0.02)
    assert ledger.estimate("other", 2_000, None) == 0
    assert ledger.estimate("m", 2_000, 0.5) == 0.5
