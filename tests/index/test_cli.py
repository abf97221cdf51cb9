"""``funnel index`` from the command line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from funnel.cli.app import app
from funnel.errors import ConfigError, CorpusError
from tests.fakes import FakeEncoder

CONFIG = """
collection: docs
stages:
  - {{ kind: bm25, k: 10 }}
qdrant: {{ path: {path} }}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration over a local directory, with the model replaced."""
    from funnel.models.pool import ModelPool

    monkeypatch.setattr(ModelPool, "encoder", lambda _self, name: FakeEncoder(name))
    path = tmp_path / "funnel.yaml"
    path.write_text(CONFIG.format(path=tmp_path / "index"))
    return path


def corpus(folder: Path, *lines: str) -> str:
    path = folder / "corpus.jsonl"
    path.write_text("\n".join(lines))
    return str(path)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["index", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


GOOD = ['{"_id": "a", "text": "one"}', '{"_id": "b", "text": "two"}']


def test_a_corpus_is_indexed_and_a_second_run_finds_nothing_to_do(
    tmp_path: Path, config: Path
) -> None:
    """Counts and speed for people."""
    path = corpus(tmp_path, *GOOD)
    assert "docs: 2 documents (2 new)" in run(path, "--config", str(config))
    assert "docs: 2 documents (2 unchanged)" in run(path, "--config", str(config))


def test_json_is_one_object(tmp_path: Path, config: Path) -> None:
    """For machines, bad rows included."""
    path = corpus(tmp_path, *GOOD, "{")
    output = json.loads(run(path, "-c", str(config), "--on-bad-line", "skip", "--json"))
    assert (output["collection"], output["documents"], output["new"]) == ("docs", 2, 2)
    assert output["problems"][0].startswith("line 3: broken JSON")


def test_a_bad_line_stops_the_run_before_anything_is_written(tmp_path: Path, config: Path) -> None:
    """The default; the error says how to go on."""
    with pytest.raises(CorpusError, match=r"(?s)--on-bad-line skip.*line 3: no 'text'"):
        run(corpus(tmp_path, *GOOD, '{"_id": "c"}'), "-c", str(config))
    path = corpus(tmp_path, *GOOD)
    assert json.loads(run(path, "-c", str(config), "--json"))["new"] == 2


def test_rebuild_replaces_the_documents(tmp_path: Path, config: Path) -> None:
    """What the corpus lacks is gone."""
    run(corpus(tmp_path, *GOOD), "-c", str(config))
    output = json.loads(run(corpus(tmp_path, *GOOD[:1]), "-c", str(config), "--rebuild", "--json"))
    assert (output["documents"], output["rebuilt"]) == (1, True)


def test_an_index_in_memory_is_refused(tmp_path: Path, config: Path) -> None:
    """It would end with the command."""
    config.write_text(CONFIG.format(path='":memory:"'))
    with pytest.raises(ConfigError, match=r"qdrant\.path: got ':memory:'"):
        run(corpus(tmp_path, *GOOD), "-c", str(config))


def test_an_unknown_policy_is_a_usage_error(tmp_path: Path, config: Path) -> None:
    """Exit code 2."""
    arguments = ["index", corpus(tmp_path, *GOOD), "-c", str(config), "--on-bad-line", "drop"]
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_a_missing_corpus_is_a_config_error(config: Path) -> None:
    """Said before a model is loaded."""
    with pytest.raises(ConfigError, match="nowhere"):
        run("nowhere", "-c", str(config))
