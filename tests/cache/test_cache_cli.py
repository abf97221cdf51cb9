"""``funnel cache`` with the embedded models, as an operator runs it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from funnel.cache.calibrator import Calibrator, CertifiedPoint
from funnel.cli.app import configure_logging
from funnel.cli.cache import cache_app
from funnel.engine import Funnel
from funnel.errors import ConfigError, InputError
from funnel.models import CrossEncoderScorer, Embedder

pytestmark = pytest.mark.slow

YAML = """
collection: cli-cache
stages:
  - kind: bm25
    k: 5
qdrant: { path: ":memory:" }
cache:
  store: sqlite
  path: FOLDER/cache.sqlite
  timeout_ms: 2000  # a disk that stalls is not what is tested
  audit_share: 0
  threshold: 0.0
"""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    import structlog

    configure_logging("error")
    yield
    structlog.reset_defaults()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A YAML file with a SQLite cache of its own."""
    path = tmp_path / "funnel.yaml"
    path.write_text(YAML.replace("FOLDER", str(tmp_path)), encoding="utf-8")
    return path


def _run(*arguments: object) -> Any:
    return CliRunner().invoke(
        cache_app, [str(argument) for argument in arguments], catch_exceptions=False
    )


def _log(tmp_path: Path) -> Path:
    rows = [
        ("How do I reset my password?", "reset"),
        ("How can I reset my password?", "reset"),
        ("How do I reset my password?", "reset"),
        ("When does the museum open on Sundays?", "museum"),
    ]
    path = tmp_path / "log.jsonl"
    lines = [json.dumps({"query": query, "group": group}) for query, group in rows]
    path.write_text("\n".join([*lines, "{broken"]), encoding="utf-8")
    return path


def test_replay_json(tmp_path: Path, config: Path) -> None:
    """One JSON object on standard output with all promised figures; broken lines are counted."""
    result = _run("replay", _log(tmp_path), "-c", config, "--ranking-ms", 300, "--json")
    assert result.exit_code == 0
    plain = json.loads(result.stdout)
    assert (plain["requests"], plain["wrong_hits"], plain["skipped_lines"]) == (4, 0, 1)
    assert plain["hits"] == 2
    assert plain["oracle_hit_rate"] == 0.5
    assert plain["rankings_saved"] == plain["hits"]
    assert 0 < plain["p50_lookup_ms"] <= plain["p99_lookup_ms"]
    assert plain["threshold"] == 0.0
    assert {"exact", "cosine_0.90"} <= plain["baselines"].keys()


def test_replay_for_people(tmp_path: Path, config: Path) -> None:
    """A table, the comparison and the drawing."""
    result = _run("replay", _log(tmp_path), "-c", config, "--ranking-ms", 300)
    for expected in ("hit precision", "other rules", "hit rate (*)", "1 broken line"):
        assert expected in result.stdout


def test_calibrate_says_when_data_is_short(tmp_path: Path, config: Path) -> None:
    """Two pairs do not support the YAML's target: exit code 1, the reason, an empty certificate."""
    pairs = tmp_path / "pairs.jsonl"
    rows = [
        {"question1": "How do I pay?", "question2": "How can I pay?", "is_duplicate": 1},
        {"question1": "How do I pay?", "question2": "Where is Rome?", "is_duplicate": 0},
    ]
    pairs.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    out = tmp_path / "calibrator.json"
    result = _run("calibrate", pairs, "-c", config, "--out", out)
    assert result.exit_code == 1
    assert "cannot support 95.0%" in " ".join(result.stdout.split())
    assert Calibrator.load(out).points == ()


def test_a_calibrator_is_not_lost_to_data_that_supports_nothing(
    tmp_path: Path, config: Path
) -> None:
    """A service may be reading it; a log in which no group is known certifies nothing."""
    out = tmp_path / "calibrator.json"
    Calibrator.shipped().save(out)
    log = tmp_path / "log.jsonl"
    log.write_text('{"query": "How do I pay?"}\n{"query": "How can I pay?"}\n', encoding="utf-8")
    result = _run("calibrate", log, "-c", config, "--out", out)
    assert (result.exit_code, "stays as it was" in result.stdout) == (1, True)
    assert Calibrator.load(out) == Calibrator.shipped()
    told = json.loads(_run("calibrate", log, "-c", config, "--out", out, "--json").stdout)
    assert (told["met"], told["file"]) == (False, None)


def test_prevalence_goes_with_pairs_only(tmp_path: Path, config: Path) -> None:
    """A log has a prevalence of its own."""
    with pytest.raises(InputError, match="--prevalence"):
        _run("calibrate", _log(tmp_path), "-c", config, "--prevalence", 0.1)


def test_stats_explain_and_purge(config: Path) -> None:
    """An empty cache has stats, explains a miss and purges nothing."""
    stats = json.loads(_run("stats", "-c", config, "--json").stdout)
    assert (stats["store"]["entries"], stats["threshold"], stats["semantic"]) == (0, 0.0, True)
    explained = json.loads(_run("explain", "How do I pay?", "-c", config, "--json").stdout)
    assert (explained["status"], explained["reason"]) == ("miss", "no_candidates")
    purged = json.loads(_run("purge", "-c", config, "--yes", "--json").stdout)
    assert purged == {"purged": 0, "scope": None, "query": None}
    one = _run("purge", "--query", "How do I pay?", "-c", config, "--yes", "--json")
    assert json.loads(one.stdout) == {"purged": 0, "scope": None, "query": "How do I pay?"}
    with pytest.raises(InputError, match="--query"):
        _run("purge", "--k", 3, "-c", config, "--json")


def test_an_empty_scope_is_no_tenant(config: Path) -> None:
    """An unset variable of a script must not look as if a tenant's answers had been dropped."""
    with pytest.raises(InputError, match="--scope: got ''"):
        _run("purge", "--scope", "", "-c", config, "--yes")


@pytest.mark.parametrize("what", [[], ["--query", "How do I pay?"], ["--scope", "a"]])
def test_a_machine_says_yes_to_a_purge(config: Path, what: list[str]) -> None:
    """A script that only wanted to look must not empty the cache unasked."""
    with pytest.raises(InputError, match="--yes"):
        _run("purge", *what, "-c", config, "--json")


def test_stats_and_purge_work_beside_a_service(tmp_path: Path, config: Path) -> None:
    """The local index belongs to the service; what it has kept is in a store of all processes."""
    config.write_text(config.read_text().replace(":memory:", str(tmp_path / "index")))
    with Funnel.from_yaml(config) as service:
        service.index([{"id": "a", "text": "reset a password"}])
        service.run("how do I reset my password?")
        assert json.loads(_run("stats", "--json", "-c", config).stdout)["store"]["entries"] == 1
        purged = json.loads(_run("purge", "--yes", "--json", "-c", config).stdout)
        assert purged["purged"] == 1


def test_stats_tell_only_what_this_process_can_know(config: Path) -> None:
    """What the service counted is not printed as zeros; it says where to look instead."""
    with Funnel.from_yaml(config) as funnel:
        funnel.index([{"id": "a", "text": "Pay by card or by invoice."}])
        for _ in range(2):
            funnel.run("How do I pay?")
        assert funnel.cache_stats()["hits"] == 1
        stats = json.loads(_run("stats", "-c", config, "--json").stdout)
        shown = " ".join(_run("stats", "-c", config).stdout.split())
    assert stats["store"]["entries"] == 1
    assert not {"requests", "hits", "hit_rate", "flights", "audit", "events"} & stats.keys()
    assert "funnel.cache_stats()" in stats["live_counters"]
    assert "store.entries" in shown and "hit_rate" not in shown
    assert "funnel.cache_stats()" in shown and "metrics: true" in shown


@pytest.mark.parametrize(
    ("precision", "threshold"), [(0.9999, None), (0.95, Calibrator.shipped().point(0.95))]
)
def test_stats_need_no_model(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: float,
    threshold: CertifiedPoint | None,
) -> None:
    """The threshold that would be in force is known by the models' files."""
    plain = config.read_text("utf-8")
    config.write_text(plain.replace("threshold: 0.0", f"target_precision: {precision}"), "utf-8")

    def loads(model: object) -> None:
        raise AssertionError(f"{model} was loaded")

    monkeypatch.setattr(CrossEncoderScorer, "_loaded", loads)
    monkeypatch.setattr(Embedder, "_model", loads)
    stats = json.loads(_run("stats", "-c", config, "--json").stdout)
    assert stats["semantic_problem"] == (None if threshold else "target_not_certified")
    assert stats["threshold"] == (threshold.threshold if threshold else None)


def test_stats_of_a_memory_store_say_that_it_is_elsewhere(config: Path) -> None:
    """An empty store that nobody uses is not passed off as the service's."""
    plain = config.read_text("utf-8").replace("store: sqlite", "store: memory")
    config.write_text("\n".join(x for x in plain.splitlines() if "  path:" not in x), "utf-8")
    assert "not seen here" in _run("stats", "-c", config).stdout
    assert "not seen here" in _run("purge", "--yes", "-c", config).stderr
    assert "not seen here" in _run("explain", "How do I pay?", "-c", config).stderr


def test_stats_without_a_cache_say_so(config: Path) -> None:
    """No cache: block, no gauges."""
    config.write_text(config.read_text("utf-8").split("cache:")[0], "utf-8")
    assert json.loads(_run("stats", "-c", config, "--json").stdout)["store"] == "none"
    assert "none" in _run("stats", "-c", config).stdout


def test_one_query_is_purged(config: Path) -> None:
    """By its text, the options it was asked with and the very index; the others stay."""
    kept = config.read_text("utf-8").replace(":memory:", str(config.parent / "index"))
    config.write_text(kept, "utf-8")
    with Funnel.from_yaml(config) as funnel:
        funnel.index([{"id": "a", "text": "Pay by card or by invoice."}])
        for query in ("How do I pay?", "Where is the museum?"):
            funnel.run(query)
    purged = _run("purge", "--query", "How do I pay?", "-c", config, "--yes", "--json")
    assert json.loads(purged.stdout)["purged"] == 1
    assert json.loads(_run("stats", "-c", config, "--json").stdout)["store"]["entries"] == 1


def test_damaged_calibrator_is_a_configuration_error(tmp_path: Path, config: Path) -> None:
    """A calibrator that is no calibrator is refused at load, with the mend."""
    broken = tmp_path / "calibrator.json"
    broken.write_text('{"format": 9}', encoding="utf-8")
    config.write_text(config.read_text("utf-8") + f"  calibrator: {broken}\n", encoding="utf-8")
    expected = f"{config}: line 13: cache.calibrator: {broken}: .*funnel cache calibrate"
    with pytest.raises(ConfigError, match=expected):
        _run("stats", "-c", config)


def test_a_calibrator_that_is_to_be_made_may_be_named_before(tmp_path: Path, config: Path) -> None:
    """By the settings it is made with; all that would use it say where it is named."""
    out = tmp_path / "calibrator.json"
    config.write_text(config.read_text("utf-8") + f"  calibrator: {out}\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=f"{config}: line 13: cache.calibrator: {out} cannot be read"
    ):
        _run("stats", "-c", config)
    _run("calibrate", _log(tmp_path), "-c", config, "--out", out)
    assert _run("stats", "-c", config).exit_code == 0


def test_shipped_calibrator_is_for_the_shipped_verifier() -> None:
    """The file that ships was made with the very model that ships, and certifies something."""
    from funnel.models.pool import ModelPool

    calibrator = Calibrator.shipped()
    assert calibrator.revision == ModelPool.shared().scorer("embedded:duplicate").revision
    assert calibrator.point(0.95) is not None
