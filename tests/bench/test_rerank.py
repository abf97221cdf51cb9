"""The bench of reranking: equal weights, all rows, the JSON that was promised."""

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from funnel.bench.candidates import load_candidates
from funnel.bench.models import bench_models
from funnel.bench.rerank import RerankReport, Row, bench_rerank
from funnel.bench.tables import show_rerank
from funnel.bench.ways import flashrank_way, plain_folder, rerankers_way
from funnel.cli.app import run
from funnel.cli.bench import bench_app
from funnel.errors import ConfigError, ModelError
from funnel.models import CrossEncoderScorer
from tests.models.tiny import WORDS, save_cross_encoder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """Twenty documents, three judged queries, BM25 candidates."""
    data = tmp_path / "toy"
    (data / "qrels").mkdir(parents=True)
    documents = [
        {"_id": f"d{i}", "title": WORDS[i], "text": " ".join(WORDS[i : i + 4])} for i in range(20)
    ]
    queries = [{"_id": f"q{i}", "text": f"{WORDS[3 * i]} {WORDS[3 * i + 3]}"} for i in range(1, 4)]
    _write(data / "corpus.jsonl", documents)
    _write(data / "queries.jsonl", queries)
    judged = "".join(f"q{i}\td{3 * i}\t2\nq{i}\td{3 * i + 1}\t1\n" for i in range(1, 4))
    (data / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    return data


def _write(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_candidates_come_from_bm25_or_from_the_run(beir: Path) -> None:
    """A run file in the folder wins; documents it names and the corpus lacks are left out."""
    found = load_candidates(beir, split="test", depth=3, limit=2)
    assert found.source == "bm25"
    assert list(found.lists) == ["q1", "q2"]
    assert all(0 < len(ids) <= 3 for ids in found.lists.values())
    (beir / "mine.run").write_text("q2 Q0 d7 1 3 x\nq2 Q0 gone 2 2 x\nq2 Q0 d1 3 1 x\n")
    from_run = load_candidates(beir, split="test", depth=100, limit=None)
    assert (from_run.source, dict(from_run.lists)) == ("mine.run", {"q2": ["d7", "d1"]})


def test_two_runs_are_ambiguous(beir: Path) -> None:
    """Both are named."""
    for name in ("a.run", "b.run"):
        (beir / name).write_text("q2 Q0 d7 1 3 x\n")
    with pytest.raises(ConfigError, match=r"a\.run, b\.run"):
        load_candidates(beir, split="test", depth=3, limit=None)


def test_rows_agree_where_the_arithmetic_is_the_same(beir: Path, folder: Path) -> None:
    """Our float32 ranks exactly as the library does, and every promised row is there."""
    candidates = load_candidates(beir, split="test", depth=10, limit=None)
    report = bench_rerank(candidates, str(folder), dense=False)
    rows = {row.name: row for row in report.rows}
    assert {"funnel", "funnel-torch-fp32", "sentence-transformers"} <= set(rows)
    assert "sentence-transformers-bf16" in rows
    reference = rows["sentence-transformers"]
    assert rows["funnel-torch-fp32"].rankings == reference.rankings
    assert rows["funnel-torch-fp32"].overlap(reference) == 1
    plain = report.to_dict()
    assert plain["dataset"] == "toy"
    for row in plain["rows"]:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert 0 <= row["ndcg@10"] <= 1
        assert row["pairs_per_s"] > 0


def test_the_command_prints_one_json_object(
    beir: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the keys that others read; libraries that load models draw no bars beside it."""
    arguments = ["rerank", "--data", str(beir), "--model", str(folder), "--no-dense", "--json"]
    result = CliRunner().invoke(bench_app, arguments, catch_exceptions=False)
    assert "Loading weights" not in result.stderr + capfd.readouterr().err
    report = json.loads(result.stdout.splitlines()[-1])
    assert {"dataset", "device", "rows"} <= set(report)
    keys = {"name", "p50_ms", "p95_ms", "p99_ms", "pairs_per_s", "ndcg@10"}
    assert all(keys <= set(row) for row in report["rows"])


def test_a_paraphrase_model_is_not_passed_off_as_relevance(beir: Path) -> None:
    """Its times stand, and a note in JSON and table says what its nDCG@10 is worth."""
    from funnel.bench.ways import model_note

    assert "never trained for relevance" in model_note("embedded:duplicate")
    assert model_note("embedded:relevance") == model_note("models/mine") == ""
    report = RerankReport(
        load_candidates(beir, split="test", depth=10, limit=None),
        "embedded:duplicate",
        "a machine",
        "torch-fp32",
        [Row("sentence-transformers", [0.1], 1, {"q1": ["d3"], "q2": ["d6"], "q3": ["d9"]})],
        [model_note("embedded:duplicate")],
    )
    console = Console(record=True, width=200)
    show_rerank(report, console)
    assert "Note: embedded:duplicate" in console.export_text()
    assert report.to_dict()["notes"] == list(report.notes)


def test_peers_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no dependency."""
    from importlib import util

    monkeypatch.setattr(util, "find_spec", lambda _: None)
    assert rerankers_way(Path("model")) is None
    assert flashrank_way() is None


def test_models_are_compared_on_one_query(folder: Path, tmp_path: Path) -> None:
    """A model agrees fully with itself."""
    ids = [f"d{i}" for i in range(12)]
    texts = [" ".join(WORDS[i : i + 3]) for i in range(12)]
    report = bench_models([str(folder), str(folder)], "reset the door", ids, texts, rounds=2)
    (agreement,) = report.agreements
    assert agreement.kendall_tau == pytest.approx(1)
    assert agreement.top5_overlap == 1
    assert sorted(report.rows[0].order) == sorted(ids)
    assert report.to_dict()["models"][0]["documents_per_s"] > 0


def test_a_plain_model_is_written_without_a_bar(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Other libraries draw one of their own, also where nobody watches."""
    plain_folder("embedded:duplicate", tmp_path)
    assert capfd.readouterr().err == ""


def test_a_shipped_adapter_becomes_a_plain_model(tmp_path: Path) -> None:
    """So that other libraries can load the same weights."""
    from funnel.models.adapters import read_adapter
    from funnel.models.pair_models import adapter_folder

    name = "embedded:duplicate"
    shipped = adapter_folder(name)
    assert shipped is not None
    if not read_adapter(shipped).combine.orders:
        with pytest.raises(ConfigError, match="no cross-encoder"):
            plain_folder(name, tmp_path)
        return
    merged = plain_folder(name, tmp_path)
    scores = CrossEncoderScorer(str(merged), backend="torch-fp32").score([("a b", "b a")])
    assert scores.shape == (1,)


def test_a_model_that_is_not_known_is_told_before_the_corpus_is_read(tmp_path: Path) -> None:
    """With what was meant; a corpus may take minutes."""
    asked = ["rerank", "--data", str(tmp_path / "nowhere"), "--model", "embedded:duplicat"]
    with pytest.raises(ModelError, match="did you mean 'embedded:duplicate'"):
        CliRunner().invoke(bench_app, asked, catch_exceptions=False)


@pytest.mark.parametrize(
    "asked", [["rerank", "--model"], ["load", "--model"], ["load", "--embedder"], ["models"]]
)
def test_a_wrong_name_is_a_mistake_of_usage(
    beir: Path,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whichever command is given it, and as in a file of settings."""
    monkeypatch.setattr(
        sys, "argv", ["funnel", "bench", *asked, "embedded:nope", "--data", str(beir)]
    )
    assert run() == 2
    assert "unknown embedded" in capsys.readouterr().err


def test_an_unknown_model_is_a_clear_error(tmp_path: Path) -> None:
    """Before anything is measured."""
    with pytest.raises(ModelError, match="unknown embedded"):
        plain_folder("embedded:relevant", tmp_path)


def test_wordless_documents_are_no_candidates(beir: Path) -> None:
    """As in an index: left out; any other bad document is refused with its line."""
    with (beir / "corpus.jsonl").open("a") as stream:
        stream.write('{"_id": "empty", "title": "", "text": " "}\n')
    assert "empty" not in load_candidates(beir, split="test", depth=3, limit=None).texts
    with (beir / "corpus.jsonl").open("a") as stream:
        stream.write('{"title": "x", "text": "no id"}\n')
    with pytest.raises(ConfigError, match="line 22: no 'id'"):
        load_candidates(beir, split="test", depth=3, limit=None)
