"""A funnel measured on a small BEIR folder, from the API and from the command line."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytrec_eval
import structlog
import typer
from qdrant_client import QdrantClient
from structlog.testing import capture_logs
from typer.testing import CliRunner

from funnel.cli.app import configure_logging
from funnel.cli.eval import eval_
from funnel.engine import Funnel
from funnel.errors import ConfigError, CorpusError, InputError, StageError
from funnel.evaluation.beir import Dataset, load_beir
from funnel.evaluation.evaluate import Evaluation, evaluate, evaluation_settings, index_dataset
from funnel.evaluation.report import write_files
from funnel.models.pool import ModelPool
from funnel.types import Candidate
from tests.evaluation.folders import (
    CORPUS,
    FakeModels,
    beir_folder,
    funnel_over,
    settings,
    shared_letters,
)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return load_beir(beir_folder(tmp_path / "tiny"))


def evaluated(dataset: Dataset, **functions: Any) -> Evaluation:
    base = settings()
    with funnel_over(dataset, base, **functions) as funnel:
        index_dataset(funnel, dataset)
        return evaluate(funnel, dataset, config_hash=base.hash)


def test_each_stage_is_judged_by_what_it_hands_on(dataset: Dataset) -> None:
    """Retrieval, then the reranker's cut; the last stage is the funnel's own result."""
    evaluation = evaluated(dataset)
    first, last = evaluation.stages
    assert (first.name, first.k, last.name, last.k) == ("hybrid", 4, "words", 2)
    assert all(len(ranking) <= 2 for ranking in last.rankings.values())
    assert evaluation.metrics == last.metrics
    assert evaluation.queries == 3
    assert len(last.times_ms) == len(evaluation.totals_ms) == 3
    assert 0 < first.p50_ms <= first.p95_ms


def test_what_retrieval_missed_stays_missed(dataset: Dataset) -> None:
    """A judged document that is not in the corpus lowers recall at every stage."""
    evaluation = evaluated(dataset)
    assert evaluation.stages[0].per_query["recall@100"]["q3"] == 0.5
    assert evaluation.stages[1].per_query["recall@100"]["q3"] <= 0.5


def test_the_json_is_the_documented_object(dataset: Dataset) -> None:
    """Keys and nesting are a contract with machines."""
    report = evaluated(dataset).to_dict()
    figures = {"metrics", "stages", "p50_ms", "p95_ms", "cost_usd"}
    assert set(report) == {"dataset", "config_hash", "queries", *figures}
    assert set(report["metrics"]) == {"ndcg@10", "mrr@10", "recall@100"}
    assert report["config_hash"] == settings().hash
    for stage in report["stages"]:
        assert set(stage) == {
            *("name", "kind", "k", "metrics", "p50_ms", "p95_ms"),
            *("cost_usd", "skipped", "degraded"),
        }
        assert set(stage["metrics"]) == set(report["metrics"])
    json.dumps(report, allow_nan=False)


def test_written_runs_give_trec_eval_the_same_figures(dataset: Dataset, tmp_path: Path) -> None:
    """Each stage's run, judged by pytrec_eval, has the figures of the report."""
    evaluation = evaluated(dataset)
    paths = write_files(evaluation, tmp_path / "out")
    assert [path.name for path in paths] == ["1-hybrid.run", "2-words.run", "evaluation.json"]
    evaluator = pytrec_eval.RelevanceEvaluator(
        {query: dict(judged) for query, judged in dataset.qrels.items()},
        {"ndcg_cut.10", "recip_rank", "recall.100"},
    )
    for path, stage in zip(paths, evaluation.stages, strict=False):
        with path.open() as stream:
            theirs = evaluator.evaluate(pytrec_eval.parse_run(stream))
        pairs = (("ndcg@10", "ndcg_cut_10"), ("mrr@10", "recip_rank"), ("recall@100", "recall_100"))
        for ours, name in pairs:
            expected = sum(values[name] for values in theirs.values()) / len(theirs)
            assert stage.metrics[ours] == pytest.approx(expected, abs=1e-9)
    details = json.loads(paths[-1].read_text())
    assert details["stages"][1]["per_query"]["q1"]["mrr@10"] == 1.0
    low, high = details["stages"][0]["interval95"]["ndcg@10"]
    assert low <= details["stages"][0]["metrics"]["ndcg@10"] <= high


def test_figures_are_kept_where_a_trec_run_cannot_be(tmp_path: Path) -> None:
    """White space in an id shows only after the whole run, whose figures need no TREC run."""
    corpus = [*CORPUS, {"_id": "d 6", "title": "", "text": "red apples"}]
    evaluation = evaluated(load_beir(beir_folder(tmp_path / "tiny", corpus)))
    with pytest.raises(InputError, match="'d 6'"):
        write_files(evaluation, tmp_path)
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["metrics"] == evaluation.metrics


def test_queries_that_nothing_can_answer_are_told(dataset: Dataset) -> None:
    """A level above all grades would otherwise look like a funnel that finds nothing."""
    with funnel_over(dataset, settings()) as funnel, capture_logs() as logs:
        index_dataset(funnel, dataset)
        evaluate(funnel, dataset)
        evaluate(funnel, dataset, level=2)
    said = [each for each in logs if each["event"] == "queries_without_relevant_documents"]
    assert [(each["count"], each["of"], each["below_grade"]) for each in said] == [(2, 3, 2)]


def test_a_failing_reranker_is_counted(dataset: Dataset) -> None:
    """Skipped queries keep the order so far, are counted by reason, and give no times."""

    def broken(query: str, candidates: Sequence[Candidate]) -> list[float]:
        raise StageError("no")

    last = evaluated(dataset, words=broken).stages[1]
    assert (last.skipped, last.times_ms, last.p95_ms) == ({"error": 3}, (), 0.0)


def test_settings_for_measuring_leave_the_operators_things_alone(dataset: Dataset) -> None:
    """Own collection, no cache, no deadline."""
    base = settings(collection="mine", deadline_ms=50, scope_field="tenant")
    measuring = evaluation_settings(base, dataset)
    assert measuring.collection.startswith("eval-tiny-")
    assert (measuring.cache, measuring.deadline_ms) == (None, None)
    assert evaluation_settings(base, dataset, deadline_ms=90).deadline_ms == 90
    with pytest.raises(InputError, match=r"deadline_ms: got 9, .* reserve_ms \(10\)"):
        evaluation_settings(base, dataset, deadline_ms=9)


def test_an_encoder_trained_anew_in_its_place_is_measured(dataset: Dataset, tmp_path: Path) -> None:
    """Its vectors are others, and nobody could rebuild or rename a collection of ours."""
    weights = tmp_path / "model.safetensors"
    base = settings(models={"embedder": str(tmp_path)})
    names = set()
    for content in (b"before", b"trained anew", b"before"):
        weights.write_bytes(content)
        names.add(evaluation_settings(base, dataset).collection)
    assert len(names) == 2


def test_a_local_index_does_not_load_what_was_measured_beside_it(
    dataset: Dataset, tmp_path: Path
) -> None:
    """And it may be open meanwhile, as a service has it."""
    base = settings(qdrant=str(tmp_path / "index"))
    functions = {"words": shared_letters}
    with Funnel(base, functions=functions, models=FakeModels()) as service:  # type: ignore[arg-type]
        service.index([{"id": "mine", "text": "of the service"}])
        with funnel_over(dataset, base) as funnel:
            index_dataset(funnel, dataset)
            assert evaluate(funnel, dataset).queries
    opened = QdrantClient(path=str(tmp_path / "index"))
    collections = opened.get_collections().collections
    opened.close()
    assert [each.name.partition("--")[0] for each in collections] == [base.collection]
    server = settings(qdrant="http://localhost:6333")
    assert evaluation_settings(server, dataset).qdrant == server.qdrant
    assert evaluation_settings(settings(), dataset).qdrant == settings().qdrant


def test_measuring_remembers_no_scores(dataset: Dataset) -> None:
    """A tuning asks the same queries several times: what was remembered would take no time."""
    reranker = {"kind": "cross_encoder", "model": "embedded:duplicate", "score_cache_mb": 64}
    base = settings(stages=[{"kind": "bm25", "k": 4}, {**reranker, "k": 2}])
    measured = evaluation_settings(base, dataset).stages[1]
    assert measured == base.stages[1].model_copy(update={"score_cache_mb": 0})


def test_wordless_documents_are_left_out_with_a_warning(tmp_path: Path) -> None:
    """Published collections hold empty documents; they cannot be found, and that is said."""
    corpus = [*CORPUS, {"_id": "empty", "title": "", "text": " "}]
    dataset = load_beir(beir_folder(tmp_path / "tiny", corpus))
    with funnel_over(dataset, settings()) as funnel, capture_logs() as logs:
        report = index_dataset(funnel, dataset)
    assert report.documents == 5
    (entry,) = [entry for entry in logs if entry["event"] == "documents_left_out"]
    assert (entry["empty"], entry["first"]) == (1, ["line 6"])


def test_relevant_documents_that_the_corpus_lacks_are_counted(tmp_path: Path) -> None:
    """Where qrels and corpus write ids differently all figures are 0: the warning says why."""
    dataset = load_beir(beir_folder(tmp_path / "tiny"))
    with funnel_over(dataset, settings()) as funnel, capture_logs() as logs:
        index_dataset(funnel, dataset)
    (entry,) = [entry for entry in logs if entry["event"] == "relevant_documents_not_in_corpus"]
    assert (entry["count"], entry["of"], entry["first"]) == (1, 4, ["gone"])


def test_a_broken_corpus_is_refused_with_its_lines(tmp_path: Path) -> None:
    """Unless bad lines shall be skipped."""
    folder = beir_folder(tmp_path / "tiny")
    with (folder / "corpus.jsonl").open("a") as stream:
        stream.write("{broken\n")
    dataset = load_beir(folder)
    with funnel_over(dataset, settings()) as funnel:
        with pytest.raises(CorpusError, match="line 6"):
            index_dataset(funnel, dataset)
        assert index_dataset(funnel, dataset, on_bad="skip").documents == 5


# -- command line

CONFIG = "stages:\n  - {kind: bm25, k: 3}\nqdrant: ':memory:'\n"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[typer.Typer]:
    monkeypatch.setattr(ModelPool, "shared", staticmethod(FakeModels))
    configure_logging("warning")
    app = typer.Typer()
    app.command()(eval_)
    yield app
    structlog.reset_defaults()


def test_the_command_prints_one_object(command: typer.Typer, tmp_path: Path) -> None:
    """With --json standard output is the report and nothing else."""
    folder = beir_folder(tmp_path / "tiny")
    (tmp_path / "c.yaml").write_text(CONFIG)
    arguments = [str(folder), "--config", str(tmp_path / "c.yaml"), "--json", "--limit", "2"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    report = json.loads(result.stdout)
    assert (report["dataset"], report["queries"]) == ("tiny", 2)
    assert report["metrics"]["mrr@10"] == 1.0


def test_the_command_shows_a_table_and_writes_runs(command: typer.Typer, tmp_path: Path) -> None:
    """Without --json people get a table, and --run-out its files."""
    folder = beir_folder(tmp_path / "tiny")
    (tmp_path / "c.yaml").write_text(CONFIG)
    arguments = [str(folder), "-c", str(tmp_path / "c.yaml"), "--run-out", str(tmp_path / "out")]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert "bm25" in result.stdout
    assert "whole query" in result.stdout
    assert (tmp_path / "out" / "1-bm25.run").read_text().startswith("q1 Q0 d1 1 ")


def test_the_runs_are_written_though_nobody_reads_to_the_end(
    command: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in ``funnel eval … --run-out DIR | head -1``."""
    monkeypatch.setattr("funnel.evaluation.report.show", lambda *_: sys.exit(1))
    (tmp_path / "c.yaml").write_text("stages: [{kind: bm25, k: 2}]\nqdrant: ':memory:'\n")
    folder, out = beir_folder(tmp_path / "tiny"), tmp_path / "out"
    arguments = [str(folder), "-c", str(tmp_path / "c.yaml"), "--run-out", str(out)]
    assert CliRunner().invoke(command, arguments).exit_code == 1
    assert (out / "evaluation.json").exists()


def test_the_json_counts_trouble_cost_and_whole_queries(dataset: Dataset) -> None:
    """A machine that reads the report learns of degradation as people do."""

    def broken(query: str, candidates: Sequence[Candidate]) -> list[float]:
        raise StageError("no")

    report = evaluated(dataset, words=broken).to_dict()
    assert report["stages"][1]["skipped"] == {"error": 3}
    assert report["stages"][0]["degraded"] == {}
    assert report["cost_usd"] == report["stages"][1]["cost_usd"] == 0
    assert report["p95_ms"] >= report["p50_ms"] > 0


def test_a_bad_folder_for_runs_is_said_before_the_run(command: typer.Typer, tmp_path: Path) -> None:
    """Nothing is measured that could not be written."""
    (tmp_path / "afile").write_text("")
    (tmp_path / "c.yaml").write_text(CONFIG)
    arguments = ["not there", "-c", str(tmp_path / "c.yaml"), "--run-out"]
    with pytest.raises(ConfigError, match="--run-out: got"):
        CliRunner().invoke(command, [*arguments, str(tmp_path / "afile/x")], catch_exceptions=False)
