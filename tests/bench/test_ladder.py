"""The ladder of rates on a real funnel, small enough for a test."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from funnel.bench.ladder import LoadPlan, bench_load
from funnel.bench.simulate import simulate
from funnel.bench.tables import show_load, show_simulation
from funnel.errors import ConfigError
from funnel.evaluation.beir import load_beir
from funnel.models.source import EMBEDDED_ENCODER
from tests.models.tiny import WORDS, save_cross_encoder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def _toy(data: Path) -> Path:
    (data / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "text": " ".join(WORDS[i : i + 4])} for i in range(16)]
    queries = [{"_id": f"q{i}", "text": f"{WORDS[i]} {WORDS[i + 3]}"} for i in range(4)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(4))
    (data / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    return data


def test_a_ladder_is_climbed_and_simulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every setting is run, requests are answered, and the simulation reads the result."""
    (tmp_path / "model").mkdir()
    model = save_cross_encoder(tmp_path / "model")
    dataset = load_beir(_toy(tmp_path / "toy"), "test")
    plan = LoadPlan(shares=(0.5,), seconds=0.8, warm_up=0.3, depth=10)
    report = bench_load(dataset, str(model), EMBEDDED_ENCODER, plan)
    assert [(point.cache, point.adapt) for point in report.points] == [
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    ]
    assert all(point.failed == 0 < point.requests for point in report.points)
    assert report.points[0].cached == 0 < report.points[2].cached
    assert report.capacity > 0
    file = tmp_path / "load.json"
    file.write_text(json.dumps(report.to_dict()))
    points = simulate(file, [2.0])
    assert len(points) == 6
    assert points[0].p50_error is not None
    show_load(report, Console())
    show_simulation(points, Console())
    shown = capsys.readouterr().out
    assert "50%" in shown
    assert "200%" in shown


@pytest.mark.parametrize("depth", [5, 1])
def test_a_shallow_funnel_is_measured_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], depth: int
) -> None:
    """It returns no more than it finds, and arrivals of a trace go into the report."""
    (tmp_path / "model").mkdir()
    model = save_cross_encoder(tmp_path / "model")
    dataset = load_beir(_toy(tmp_path / "toy"), "test")
    plan = LoadPlan(
        shares=(0.5,), warm_up=0.0, caches=(False,), depth=depth, trace=[0.0, 1.0, 1.0, 3.0]
    )
    report = bench_load(dataset, str(model), EMBEDDED_ENCODER, plan)
    assert [(point.failed, point.requests) for point in report.points] == [(0, 4), (0, 4)]
    assert report.half_depth_ms > 0
    file = tmp_path / "load.json"
    file.write_text(json.dumps(report.to_dict(), allow_nan=False))
    points = simulate(file, [2.0])
    assert {point.arrivals for point in points} == {"trace"}
    show_load(report, Console())
    show_simulation(points, Console())
    assert "200%" in capsys.readouterr().out


def test_a_trace_that_ends_in_the_warm_up_is_said_before_the_ladder(tmp_path: Path) -> None:
    """With how long it lasts at that rate; --seconds would change nothing."""
    (tmp_path / "model").mkdir()
    model = save_cross_encoder(tmp_path / "model")
    dataset = load_beir(_toy(tmp_path / "toy"), "test")
    plan = LoadPlan(shares=(1e-3, 1.0), depth=5, caches=(False,), warm_up=60.0, trace=[0.0, 1.0])
    with pytest.raises(ConfigError, match=r"trace then lasts .* lower --warm-up"):
        bench_load(dataset, str(model), EMBEDDED_ENCODER, plan)
