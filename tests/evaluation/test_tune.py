"""Choosing stage sizes: the Pareto set, the target, the held-out half, the YAML."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from funnel.cli.app import configure_logging
from funnel.cli.tune import tune as tune_command
from funnel.errors import ConfigError, InputError, StageError
from funnel.evaluation.beir import load_beir
from funnel.evaluation.deep import deep_run, shallower_runs
from funnel.evaluation.evaluate import answer_all, evaluate, index_dataset
from funnel.evaluation.tune import (
    Point,
    Target,
    Tuning,
    halves,
    pareto,
    plan_changes,
    planned_settings,
    recommend,
    tune,
)
from funnel.evaluation.tune_report import as_dict, planned_yaml, show
from funnel.models.pool import ModelPool
from funnel.models.representations import Representation, shared_representations
from funnel.settings import FunnelSettings
from tests.evaluation import folders
from tests.evaluation.folders import FakeModels, beir_folder, funnel_over
from tests.openrouter_server import TEST_KEY, openrouter_server

POINTS = st.builds(
    Point,
    plan=st.tuples(st.integers(1, 9)),
    tuned=st.floats(0, 1),
    held_out=st.floats(0, 1),
    p50_ms=st.just(1.0),
    p95_ms=st.floats(1, 1000),
    cost_usd=st.sampled_from([0.0, 0.001, 0.01]),
)


@given(st.lists(POINTS, min_size=1, max_size=30))
def test_the_pareto_set_is_what_nothing_beats(points: list[Point]) -> None:
    """Everything left out is beaten by something kept, and nothing kept is strictly beaten."""

    def at_least(a: Point, b: Point) -> bool:
        return a.p95_ms <= b.p95_ms and a.tuned >= b.tuned and a.cost_usd <= b.cost_usd

    def strictly(a: Point, b: Point) -> bool:
        better = a.p95_ms < b.p95_ms or a.tuned > b.tuned or a.cost_usd < b.cost_usd
        return at_least(a, b) and better

    kept = pareto(points)
    assert all(any(at_least(k, point) for k in kept) for point in points)
    assert not any(strictly(a, b) for a in points for b in kept)


@given(
    st.lists(POINTS, min_size=1, max_size=20),
    st.none() | st.floats(1, 1000),
    st.none() | st.floats(0, 1),
)
def test_a_recommendation_meets_its_target(
    points: list[Point], max_p95_ms: float | None, min_ndcg: float | None
) -> None:
    """None is given only if no plan meets the target."""
    target = Target(max_p95_ms, min_ndcg)
    found = recommend(points, target)
    assert (found is None) == (not any(target.allows(point) for point in points))
    assert found is None or target.allows(found)


def point(tuned: float, p95_ms: float) -> Point:
    return Point((1,), tuned, 0.0, 0.0, p95_ms, 0.0)


def test_each_target_has_its_own_best() -> None:
    """A time limit takes the best within it, a quality the fastest, no target the near best."""
    fast, middle, best, slow = (
        point(0.5, 10),
        point(0.698, 40),
        point(0.70, 90),
        point(0.69, 200),
    )
    points = [fast, middle, best, slow]
    assert recommend(points, Target(max_p95_ms=100)) == best
    assert recommend(points, Target(max_p95_ms=50)) == middle
    assert recommend(points, Target(min_ndcg=0.6)) == middle
    assert recommend(points, Target()) == middle
    assert recommend(points, Target(max_p95_ms=20, min_ndcg=0.6)) is None


@given(st.sets(st.text(min_size=1), min_size=2, max_size=40))
def test_halves_share_nothing_and_do_not_depend_on_the_order(names: set[str]) -> None:
    """Each query lands in one half, the same one in every run."""
    first, second = halves(sorted(names))
    assert set(first) | set(second) == names
    assert not set(first) & set(second)
    assert 0 <= len(first) - len(second) <= 1
    assert halves(sorted(names, reverse=True)) == (first, second)


# -- on a small dataset


def tuned(tmp_path: Path, target: Target | None = None, **functions: Any) -> Tuning:
    data = load_beir(beir_folder(tmp_path / "tiny"))
    base = folders.settings()
    with funnel_over(data, base, **functions) as funnel:
        index_dataset(funnel, data)
        return tune(funnel, data, target=target, depth=5, config_hash=base.hash)


def test_a_tuning_reports_the_current_plan_and_the_pareto_set(tmp_path: Path) -> None:
    """The operator's own sizes are among the plans, and halves are counted."""
    tuning = tuned(tmp_path)
    assert tuning.current.plan == (4, 2)
    assert (tuning.tuned_on, len(tuning.held_out)) == (2, 1)
    assert tuning.recommended is not None
    assert any(found.p95_ms <= tuning.current.p95_ms for found in tuning.pareto)
    assert tuning.estimated_stages == ()


def test_a_stage_that_only_harms_is_left_out(tmp_path: Path) -> None:
    """If reranking worsens the order, the recommendation does without it."""

    def worst_first(query: str, candidates: Sequence[Any]) -> list[float]:
        return [-score for score in folders.shared_letters(query, candidates)]

    tuning = tuned(tmp_path, words=worst_first)
    assert tuning.recommended is not None
    assert tuning.recommended.plan[1] is None


def test_an_impossible_target_recommends_nothing(tmp_path: Path) -> None:
    """Nothing is bent to fit."""
    assert tuned(tmp_path, Target(max_p95_ms=1e-9)).recommended is None


def test_a_stage_that_always_fails_cannot_be_tuned(tmp_path: Path) -> None:
    """The reason is told instead of figures about another funnel."""

    def broken(query: str, candidates: Sequence[Any]) -> list[float]:
        raise StageError("no")

    with pytest.raises(StageError, match="words:error"):
        tuned(tmp_path, words=broken)


def test_a_paid_list_wise_stage_is_not_read_deeper_than_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model ranks lists of today's length, its cost is in the plans, its order is estimated."""
    monkeypatch.setenv("OPENROUTER_API_KEY", TEST_KEY)
    data = load_beir(beir_folder(tmp_path / "tiny"))
    with openrouter_server() as server:
        llm = {"kind": "llm_listwise", "model": "a/b", "base_url": server.base_url, "k": 2}
        base = folders.settings(stages=[{"kind": "hybrid", "k": 3}, llm])
        with funnel_over(data, base) as funnel:
            index_dataset(funnel, data)
            tuning = tune(funnel, data, depth=5)
        assert {asked.size for asked in server.asked} <= {2, 3}
    assert tuning.estimated_stages == ("llm_listwise",)
    assert tuning.current.cost_usd == pytest.approx(0.001)
    assert any(found.plan[1] is None and found.cost_usd == 0 for found in tuning.pareto)


def test_one_query_cannot_be_halved(tmp_path: Path) -> None:
    """Too few queries are refused, not divided by."""
    data = load_beir(beir_folder(tmp_path / "tiny")).first(1)
    with (
        funnel_over(data, folders.settings()) as funnel,
        pytest.raises(InputError, match="at least 2"),
    ):
        tune(funnel, data)


CONFIG = """\
# what we serve
collection: mine
stages:
  - kind: bm25
    top_k: 4  # few
qdrant: {path: ":memory:"}
cache: {store: redis, url: "${REDIS_URL}"}
"""


def test_the_yaml_keeps_everything_but_sizes(tmp_path: Path) -> None:
    """Comments, quotes, references to secrets, the name of k; sizes that stay, too."""
    file = tmp_path / "c.yaml"
    file.write_text(CONFIG)
    stages = FunnelSettings.from_yaml(file, environment={"REDIS_URL": "redis://h"}).stages
    assert planned_yaml(file, stages, [{"k": 2}]) == CONFIG.replace("top_k: 4", "top_k: 2")
    file.write_text(same := CONFIG.replace("4", '"${K:-4}"'))
    assert planned_yaml(file, stages, [{"k": 4}]) == same
    with pytest.raises(ConfigError, match="other stages"):
        planned_yaml(file, [*stages, *stages], [{"k": 4}, {"k": 2}])


def test_a_plan_is_written_with_what_it_was_figured_with(tmp_path: Path) -> None:
    """Prefetch does not follow k, and a tail that the end of a funnel refuses is dropped."""
    middle = {"kind": "callable", "name": "words", "function": "words", "k": 8, "tail": "keep"}
    data = {
        "stages": [{"kind": "hybrid", "k": 12}, middle, {**middle, "name": "last", "tail": "drop"}],
        "qdrant": ":memory:",
    }
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(data))
    base = FunnelSettings.from_yaml(file, environment={})
    changes = plan_changes(base, (20, 8, None), 300)
    assert changes == ({"k": 20, "prefetch": 300}, {"k": 8, "tail": "drop"}, None)
    (tmp_path / "out.yaml").write_text(planned_yaml(file, base.stages, changes))
    written = FunnelSettings.from_yaml(tmp_path / "out.yaml", environment={})
    assert written.stages == planned_settings(base, (20, 8, None), 300).stages
    assert plan_changes(base, (20, 8, 8), 100) == ({"k": 20}, {"k": 8}, {"k": 8})


@pytest.mark.parametrize("variable", ["FUNNEL__STAGES", "FUNNEL__STAGES__0__K"])
def test_stages_from_the_environment_are_refused_before_the_run(
    arguments: list[str], command: typer.Typer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """A plan could not be written so that it is what was tuned: said before the data are read."""
    monkeypatch.setenv(variable, "3" if variable.endswith("K") else "[{kind: bm25, k: 3}]")
    asked = [str(Path(arguments[0]) / "none"), *arguments[1:]]
    with pytest.raises(ConfigError, match=rf"environment \({variable}\), expected all .* file"):
        CliRunner().invoke(command, asked, catch_exceptions=False)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[typer.Typer]:
    monkeypatch.setattr(ModelPool, "shared", staticmethod(FakeModels))
    configure_logging("warning")
    app = typer.Typer()
    app.command()(tune_command)
    yield app
    structlog.reset_defaults()


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "c.yaml").write_text("stages:\n  - {kind: bm25, k: 2}\nqdrant: ':memory:'\n")
    return [str(beir_folder(tmp_path / "tiny")), "-c", str(tmp_path / "c.yaml"), "--depth", "4"]


def test_the_command_prints_one_object_and_a_file_that_loads(
    command: typer.Typer, arguments: list[str], tmp_path: Path
) -> None:
    """The recommendation is measured on the held-out half and written as a configuration."""
    out = tmp_path / "tuned.yaml"
    result = CliRunner().invoke(
        command, [*arguments, "--json", "--out", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    found = report["recommended"]
    assert found["k"] == {"bm25": 2}
    measured = found["measured"]
    assert set(measured) >= {"metrics", "p50_ms", "p95_ms", "cost_usd"}
    assert measured["skipped"] == measured["degraded"] == {}
    assert found["measured"]["metrics"]["ndcg@10"] == pytest.approx(found["held_out"]["ndcg@10"])
    assert report["queries"] == {"tuned": 2, "held_out": 1, "failed": 0}
    assert FunnelSettings.from_yaml(out, environment={}).stages[0].k == 2
    assert found["yaml"] == out.read_text()
    assert out.read_bytes() == (tmp_path / "c.yaml").read_bytes()  # 2 it was


def test_the_file_is_written_though_nobody_reads_to_the_end(
    command: typer.Typer, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in ``funnel tune … --out FILE | head -1``, after minutes of work."""
    monkeypatch.setattr("funnel.evaluation.tune_report.show", lambda *_: sys.exit(1))
    out = tmp_path / "tuned.yaml"
    assert (
        CliRunner().invoke(command, [*arguments, "--no-verify", "--out", str(out)]).exit_code == 1
    )
    assert FunnelSettings.from_yaml(out, environment={}).stages


def test_the_command_fails_visibly_without_a_plan(
    command: typer.Typer, arguments: list[str]
) -> None:
    """A target out of reach is exit code 1 and says how far it is."""
    impossible = [*arguments, "--max-p95-ms", "0.0000001", "--no-verify"]
    result = CliRunner().invoke(command, impossible, catch_exceptions=False)
    assert result.exit_code == 1
    assert "no choice meets the target" in result.stdout


def test_the_command_shows_a_table(command: typer.Typer, arguments: list[str]) -> None:
    """People see the Pareto set, the check and the stages to write."""
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    for said in ("held out", "recommended", "really run", "stages:"):
        assert said in result.stdout


def test_figures_keep_their_digits_on_a_narrow_terminal(tmp_path: Path) -> None:
    """A figure that is cut short reads as another one."""
    tuning = tuned(tmp_path)
    console = Console(width=40)
    with console.capture() as shown:
        show(tuning, None, console)
    assert "…" not in shown.get()


def test_one_query_that_got_through_cannot_be_halved(tmp_path: Path) -> None:
    """A held-out half of nothing would report 0.0; how many got through is said instead."""

    def picky(query: str, candidates: Sequence[Any]) -> list[float]:
        if query != "red apples":
            raise StageError("no")
        return folders.shared_letters(query, candidates)

    with pytest.raises(StageError, match=r"1 of 3 queries .* at least 2 \(words:error\)"):
        tuned(tmp_path, words=picky)


def test_no_queries_are_answered_by_nothing(tmp_path: Path) -> None:
    """Nothing to warm up with is no error."""
    data = load_beir(beir_folder(tmp_path / "tiny"))
    with funnel_over(data, folders.settings()) as funnel:
        assert answer_all(funnel, {}) == {}


def test_each_measurement_begins_with_no_vectors_known(tmp_path: Path) -> None:
    """Otherwise what runs last, shorter lists or the real run, is timed as if it read nothing."""
    kept, seen = shared_representations(), []
    one = Representation(np.zeros(1, np.float32), np.zeros((1, 1), np.float32))

    def noting(query: str, candidates: Sequence[Any]) -> list[float]:
        seen.append(kept.known("m", [query]) == [True])
        kept.put("m", query, one)
        return folders.shared_letters(query, candidates)

    data = load_beir(beir_folder(tmp_path / "tiny"))
    with funnel_over(data, folders.settings(), words=noting) as funnel:
        index_dataset(funnel, data)
        run = deep_run(funnel, data.queries, 4)
        shallower_runs(funnel, data.queries, [2, 3], 4)
        answer_all(funnel, data.queries)
    assert len(run.queries) == 3
    assert not any(seen[1:4] + seen[4:10] + seen[11:])  # 0 and 10 warm up


def test_trouble_of_the_real_run_is_shown(tmp_path: Path) -> None:
    """Figures of a degraded run are not those of the recommended sizes; people and JSON say so."""

    def broken(query: str, candidates: Sequence[Any]) -> list[float]:
        raise StageError("no")

    tuning = tuned(tmp_path)
    data = load_beir(tmp_path / "tiny")
    with funnel_over(data, folders.settings(), words=broken) as funnel:
        index_dataset(funnel, data)
        run = evaluate(funnel, data)
    tuning = replace(tuning, verified=run, held={"hybrid": {"prefetch": 300}})
    console = Console(width=200)
    with console.capture() as shown:
        show(tuning, None, console)
    measured = as_dict(tuning, None)["recommended"]["measured"]
    assert measured["skipped"] == {"words": {"error": 3}}
    assert "! words: skipped in 3 of 3 queries (error)" in shown.get()
    assert "hybrid: all figures are with prefetch 300" in shown.get()


def test_a_bad_place_for_the_file_is_said_before_the_run(
    command: typer.Typer, arguments: list[str], tmp_path: Path
) -> None:
    """A missing folder is made; what cannot be written is refused while nothing is lost."""
    (tmp_path / "afile").write_text("")
    nowhere = Path("/proc/self/x.yaml")  # nobody can make a file there, not even root
    for place in (tmp_path / "afile" / "x", *([nowhere] if nowhere.parent.exists() else [])):
        with pytest.raises(ConfigError, match="--out: got"):
            CliRunner().invoke(
                command, ["no dataset", *arguments[1:], "--out", str(place)], catch_exceptions=False
            )
    made = tmp_path / "new" / "x.yaml"
    result = CliRunner().invoke(
        command, [*arguments, "--no-verify", "--out", str(made)], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert made.exists()


def test_bad_lines_can_be_skipped(
    command: typer.Typer, arguments: list[str], tmp_path: Path
) -> None:
    """The option that the error names is there."""
    with (tmp_path / "tiny" / "corpus.jsonl").open("a") as stream:
        stream.write("{broken\n")
    skipping = [*arguments, "--on-bad-line", "skip"]
    assert CliRunner().invoke(command, skipping, catch_exceptions=False).exit_code == 0
    assert CliRunner().invoke(command, [*arguments, "--on-bad-line", "what"]).exit_code == 2
