"""The demo from indexing to report, over an index in memory and a stand-in encoder."""

import io
import json
from collections.abc import Iterator

import pytest
from rich.console import Console

from funnel import Funnel, FunnelSettings
from funnel.cache.null import NullCache
from funnel.demo import loader
from funnel.demo.render import render
from funnel.demo.runner import DemoReport, demo_settings, run_demo
from funnel.errors import InputError
from tests.fakes import FakeEncoder


class FakeModels:
    """A pool that holds one encoder."""

    def encoder(self, name: str) -> FakeEncoder:
        return FakeEncoder()


@pytest.fixture(scope="module")
def funnel() -> Iterator[Funnel]:
    plain = {
        "qdrant": ":memory:",
        "stages": [{"kind": "hybrid", "k": 20}, {"kind": "callable", "function": "keep", "k": 10}],
    }
    settings = demo_settings(FunnelSettings.from_mapping(plain), None)
    with Funnel(
        settings,
        functions={"keep": lambda _, candidates: [-i for i in range(len(candidates))]},
        cache=NullCache(),
        models=FakeModels(),  # type: ignore[arg-type]
    ) as funnel:
        yield funnel


@pytest.fixture(scope="module")
def report(funnel: Funnel) -> DemoReport:
    return run_demo(funnel)


def test_corpus_is_indexed_once(funnel: Funnel, report: DemoReport) -> None:
    """The second run finds the articles in place and writes none; it shows the query asked for."""
    again = run_demo(funnel, query_id="vat-number")
    assert report.index.documents == again.index.documents == len(loader.load_documents())
    assert again.index.written == 0
    assert again.shown.result.query == "put our VAT ID on the invoice"
    assert again.shown.grades["change-billing-address-vat"] == loader.RELEVANT


def test_every_stage_is_graded_on_every_query(report: DemoReport) -> None:
    """Counts are those of the ids that the stages really kept."""
    queries = len(loader.load_queries())
    retrieved, kept = report.stages
    assert (retrieved.name, retrieved.kept.total) == ("hybrid", 20 * queries)
    assert (kept.name, kept.kept.total) == ("callable", 10 * queries)
    assert 0 < kept.kept.relevant <= retrieved.kept.relevant
    assert kept.kept.share_not_noise > retrieved.kept.share_not_noise
    assert kept.p50_ms > 0


def test_unknown_query_is_refused_with_the_known_ones(funnel: Funnel) -> None:
    """A wrong id is an input error that names the right ones."""
    with pytest.raises(InputError, match=r"got 'vat'.*vat-number"):
        run_demo(funnel, query_id="vat")


def test_report_is_json_and_prints(report: DemoReport) -> None:
    """One object for machines, tables for people."""
    plain = json.loads(json.dumps(report.to_dict()))
    assert [stage["name"] for stage in plain["stages"]] == ["hybrid", "callable"]
    assert plain["cache"]["requests"] == 50 and plain["cache"]["hits"] == 0
    page = io.StringIO()
    render(report, Console(file=page, width=120))
    assert report.shown.id in page.getvalue()
    assert "0 of 50 questions answered from the cache" in page.getvalue()
