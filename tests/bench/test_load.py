"""Load: arrivals as asked, latency from the due time, and a simulation that queues rightly."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from funnel.bench.load import (
    Answered,
    capacity,
    open_loop,
    poisson,
    read_trace,
    stretched,
    summarise,
    zipf_queries,
)
from funnel.bench.models import kendall_tau
from funnel.bench.plots import plot_load
from funnel.bench.simulate import Profile, read_profile, simulate, simulate_point
from funnel.bench.tables import show_simulation
from funnel.cli.bench import bench_app
from funnel.errors import BackendUnavailable, ConfigError


def test_poisson_arrivals_have_the_rate_asked_for() -> None:
    """Exactly, before and after the warm-up; gaps are as uneven as chance makes them."""
    due = poisson(50, 100, seed=3, warm_up=20)
    assert (sum(at < 20 for at in due), sum(at >= 20 for at in due)) == (1_000, 5_000)
    assert due == sorted(due)
    gaps = np.diff(due)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert due == poisson(50, 100, seed=3, warm_up=20) != poisson(50, 100, seed=4, warm_up=20)


def test_a_trace_keeps_its_shape_and_gets_the_rate(tmp_path: Path) -> None:
    """Five arrivals at ten a second fill half a second."""
    (tmp_path / "trace").write_text("100\n101\n101\n101.5\n104\n")
    trace = read_trace(tmp_path / "trace")
    assert trace == [0, 1, 1, 1.5, 4]
    assert stretched(trace, 10) == pytest.approx([0, 0.125, 0.125, 0.1875, 0.5])


@pytest.mark.parametrize("text", ["", "1", "2\n1", "1\none", "1\n1", "1\nnan\n2", "1\ninf"])
def test_a_bad_trace_is_refused(tmp_path: Path, text: str) -> None:
    """With what is expected."""
    (tmp_path / "trace").write_text(text)
    with pytest.raises(ConfigError, match="expected"):
        read_trace(tmp_path / "trace")


def test_questions_repeat_as_users_repeat_them() -> None:
    """The most frequent of 100 is asked about a fifth of the time."""
    asked = np.bincount(zipf_queries(10_000, 100, seed=1), minlength=100)
    assert asked.max() == pytest.approx(1_930, rel=0.1)
    assert np.count_nonzero(asked) == 100


async def test_latency_counts_from_the_due_time() -> None:
    """A server that answers one at a time makes the later ones wait, and that shows."""
    lock = asyncio.Lock()

    async def ask(number: int) -> Answered:
        async with lock:
            await asyncio.sleep(0.05)
        return Answered(0, 0, number, ("d",))

    answers = await open_loop(ask, [0.0, 0.0, 0.0, 0.0], [0, 1, 2, 3])
    waits = sorted(answer.latency_s for answer in answers)
    assert waits[0] >= 0.05
    assert waits[3] >= 0.2


async def test_failures_are_counted_and_never_answered() -> None:
    """A refused request is not a fast one."""

    async def ask(number: int) -> Answered:
        if number == 3:
            raise BackendUnavailable("down")
        return Answered(0, 0, number, ("d",))

    answers = await open_loop(ask, [0.0] * 4, [0, 1, 2, 3])
    point = summarise(answers, len, share=1, rate=1, cache=False, adapt=False)
    assert (point.failed, point.requests, point.ndcg) == (1, 4, 3)
    assert point.p99_ms == np.inf


async def test_capacity_is_that_of_callers_without_pause() -> None:
    """Four callers at 20 ms each make 200 a second."""

    async def ask(number: int) -> Answered:
        await asyncio.sleep(0.02)
        return Answered(0, 0, number)

    assert 50 < await capacity(ask, range(40), callers=4) <= 200


def _profile(**changes: float) -> Profile:
    plain = {"capacity": 10.0, "fixed": 0.1, "least": 0.1, "hit": 0.001, "target": 0.25}
    return Profile(
        service=[0.1] * 50,
        seed=0,
        trace=None,
        **{**plain, "warm_up": 150.0, "seconds": 450.0, **changes},
    )


def test_simulated_waiting_is_that_of_queueing_theory() -> None:
    """One server, constant service, Poisson arrivals: mean wait rho / (2 (1 - rho)) services."""
    long = _profile(seconds=5_000.0)
    half = simulate_point(long, 0.5)
    assert half.p50_ms == pytest.approx(100 + 100 * 0.0, abs=60)
    busy = simulate_point(long, 0.8)
    # M/D/1 at 0.8: P(wait > t) falls as exp(-0.43 t / service), so the 99th is near 10 services.
    assert 800 < busy.p99_ms < 1_300
    assert half.p99_ms < busy.p99_ms


def test_simulated_adaptation_bounds_latency() -> None:
    """Beyond capacity full depth diverges and adaptive depth does not; below, nothing is cut."""
    full = simulate_point(_profile(), 1.36)
    cut = simulate_point(_profile(), 1.36, adapt=True)
    assert full.p99_ms > 10_000
    assert cut.p99_ms < 400
    assert cut.degraded > 0.5  # many a little
    assert simulate_point(_profile(), 0.5, adapt=True).degraded == 0


def test_simulated_cache_takes_repeats_out_of_the_queue() -> None:
    """With fifty questions nearly everything is a hit."""
    assert simulate_point(_profile(), 1.36, cache=True).p50_ms == pytest.approx(1.0)


def _report(points: Sequence[Mapping[str, object]]) -> dict[str, object]:
    return {
        "capacity_per_s": 10.0,
        "profile_ms": [100.0] * 20,
        "half_depth_p50_ms": 55.0,
        "hit_p50_ms": 1.0,
        "target_ms": 250.0,
        "seconds": 60.0,
        "seed": 0,
        "points": points,
    }


def test_simulation_prints_its_error(tmp_path: Path) -> None:
    """Against each measured point; further rates have none."""
    row = {"share": 0.5, "cache": False, "adapt": False, "p50_ms": 200.0, "p99_ms": 1.0}
    file = tmp_path / "load.json"
    file.write_text(json.dumps(_report([row])))
    profile, _ = read_profile(file)
    assert profile.fixed == pytest.approx(0.1)
    first, *others = simulate(file, [0.5, 2.0])
    assert first.p50_error == pytest.approx(first.p50_ms / 200 - 1)
    assert [(other.share, other.p50_error) for other in others] == [(2.0, None), (2.0, None)]


def test_a_measured_trace_is_simulated_with_its_own_arrivals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All at once wait for each other at any rate; the output says whose arrivals they are."""
    row = {"share": 0.1, "cache": False, "adapt": False, "p50_ms": 2_000.0, "p99_ms": 4_000.0}
    burst = [0.0] * 40 + [400.0]
    file = tmp_path / "load.json"
    file.write_text(json.dumps({**_report([row]), "trace_s": burst}))
    (point,) = simulate(file, [0.1])
    assert point.p99_ms == pytest.approx(4_000, rel=0.05)
    assert point.arrivals == "trace"
    show_simulation([point], Console())
    assert "measured run's trace" in capsys.readouterr().out
    file.write_text(json.dumps(_report([row])))
    (point,) = simulate(file, [0.1])
    assert (point.p99_ms < 500, point.arrivals) == (True, "poisson")


def test_a_bad_trace_is_said_before_the_ladder(tmp_path: Path) -> None:
    """The data are not even looked for."""
    (tmp_path / "trace").write_text("2\n1\n")
    arguments = ["load", "--data", str(tmp_path / "none"), "--trace", str(tmp_path / "trace")]
    with pytest.raises(ConfigError, match="rising times"):
        CliRunner().invoke(bench_app, arguments, catch_exceptions=False)


@pytest.mark.parametrize(
    ("depth", "ms", "fixed"), [(30, 55.0, 0.1), (5, 46.0, 0.1), (2, 55.0, 0.1), (1, 98.0, 1.0)]
)
def test_what_is_fixed_follows_from_what_half_the_depth_takes(
    tmp_path: Path, depth: int, ms: float, fixed: float
) -> None:
    """Half of five is two; one has no half, and then nothing can be cut."""
    file = tmp_path / "load.json"
    file.write_text(json.dumps({**_report([]), "depth": depth, "half_depth_p50_ms": ms}))
    assert read_profile(file)[0].fixed == pytest.approx(fixed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"capacity_per_s": 1}',
        json.dumps(_report([]) | {"profile_ms": []}),
        json.dumps(_report([]) | {"capacity_per_s": 0}),
        json.dumps(_report([]) | {"target_ms": "soon"}),
        json.dumps(_report([]) | {"seconds": float("inf")}),
        json.dumps(_report([{"share": 0.5}])),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    """It says how to make one."""
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match="funnel bench load"):
        read_profile(tmp_path / "x.json")


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_plots_are_written(tmp_path: Path, ending: str) -> None:
    """As a picture of the kind that the name says."""
    pytest.importorskip("matplotlib")
    answers = [Answered(0, 0.1 * i, 0) for i in range(1, 9)]
    points = [
        summarise(answers, len, share=share, rate=share, cache=False, adapt=adapt)
        for share in (0.5, 1.36)
        for adapt in (False, True)
    ]
    plot_load(points, tmp_path / f"load{ending}")
    start = (tmp_path / f"load{ending}").read_bytes()[:5]
    assert start in (b"\x89PNG\r", b"<?xml")


def test_plots_of_other_kinds_are_refused(tmp_path: Path) -> None:
    """Before anything is drawn."""
    with pytest.raises(ConfigError, match=r"expected \.png or \.svg"):
        plot_load([], tmp_path / "load.bmp")


def test_kendalls_tau_of_known_orders() -> None:
    """Equal 1, reversed -1, one swap of three pairs 1/3, no distinction 0."""
    scores = np.array([3, 2, 1], np.float32)
    assert kendall_tau(scores, scores * 2) == pytest.approx(1)
    assert kendall_tau(scores, -scores) == pytest.approx(-1)
    assert kendall_tau(scores, np.array([2, 3, 1], np.float32)) == pytest.approx(1 / 3)
    assert kendall_tau(scores, np.zeros(3, np.float32)) == 0


def test_warming_up_does_not_count_and_is_told_apart() -> None:
    """What is due before its end is in its own figure; the loss is against the same requests."""
    answers = [Answered(float(i), 5.0 if i < 3 else 0.1, i) for i in range(10)]
    point = summarise(
        answers,
        lambda good: 0.4 if len(good) == 7 else 0.0,
        share=1,
        rate=1,
        cache=False,
        adapt=True,
        warm_up=3.0,
        full_quality=lambda good: 0.5 if good[0].query == 3 else 0.0,
    )
    assert (point.requests, point.p99_ms, point.warm_up_p99_ms) == (7, 100.0, 5_000.0)
    assert point.ndcg_loss == pytest.approx(0.2)
    assert point.to_dict()["ndcg@10"] == 0.4
    assert "ndcg" not in point.to_dict()


def test_a_run_without_requests_is_an_error() -> None:
    """Rather than figures of nothing."""
    with pytest.raises(ConfigError, match="raise --seconds"):
        summarise([], len, share=0.1, rate=0.01, cache=False, adapt=False)


def test_failures_make_no_figures_that_json_lacks() -> None:
    """Infinite times are null, and so is the quality lost where nothing was answered."""
    answers = [Answered(float(i), 0.1, i, failed="Overloaded") for i in range(4)]
    point = summarise(
        answers, lambda _: 0.0, share=1, rate=1, cache=False, adapt=False, warm_up=2.0
    )
    plain = json.loads(json.dumps(point.to_dict(), allow_nan=False))
    names = ("p50_ms", "p95_ms", "p99_ms", "warm_up_p99_ms", "ndcg_loss")
    assert [plain[name] for name in names] == [None] * 5
    assert (plain["failed"], point.p50_ms) == (2, np.inf)


def test_a_measured_time_without_end_has_no_error(tmp_path: Path) -> None:
    """A ladder with failures can be simulated."""
    row = {"share": 0.5, "cache": False, "adapt": False, "p50_ms": 100.0, "p99_ms": None}
    file = tmp_path / "load.json"
    file.write_text(json.dumps(_report([row])))
    (point,) = simulate(file, [0.5])
    assert point.p50_error is not None
    assert point.p99_error is None


@pytest.mark.parametrize(
    "option", [("--rates", "inf"), ("--rates", "0.5,nan"), ("--rates", "1e9"), ("--seconds", "inf")]
)
def test_a_load_without_end_is_refused(tmp_path: Path, option: tuple[str, str]) -> None:
    """Its arrivals would fill the memory."""
    done = CliRunner().invoke(bench_app, ["load", "--data", str(tmp_path), *option])
    assert (done.exit_code, type(done.exception)) == (2, SystemExit)


@pytest.mark.parametrize("name", ["load.jpg", "afile/load.png"])
def test_a_bad_place_for_the_plot_is_said_before_the_ladder(tmp_path: Path, name: str) -> None:
    """Not after an hour of measuring: the data are not even looked for."""
    (tmp_path / "afile").write_text("")
    arguments = ["load", "--data", str(tmp_path / "none"), "--plot", str(tmp_path / name)]
    with pytest.raises(ConfigError, match=r"expected \.png|--plot: got"):
        CliRunner().invoke(bench_app, arguments, catch_exceptions=False)


def test_the_ladder_can_skip_bad_lines(tmp_path: Path) -> None:
    """The option that the error names is there."""
    arguments = ["load", "--data", str(tmp_path), "--on-bad-line", "what"]
    done = CliRunner().invoke(bench_app, arguments)
    assert done.exit_code == 2
    assert "expected fail or skip" in done.output
