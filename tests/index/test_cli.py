"""``funnel index`` from the command line."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from typer.testing import CliRunner

from funnel.cache.store import StoreLimits
from funnel.cache.store_sqlite import SqliteStore
from funnel.cli.app import app
from funnel.errors import CacheError, ConfigError, CorpusError, ModelError
from funnel.models.base import Side
from tests.cache.records import keep, payload
from tests.fakes import FakeEncoder, FloatArray

T = TypeVar("T")

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


class Kept:
    """One answer in a cache's file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self) -> None:
        assert asyncio.run(self._with(lambda store: keep(store, "00")))

    def is_there(self) -> bool:
        return asyncio.run(self._with(lambda store: payload(store, "00"))) is not None

    async def _with(self, work: Callable[[SqliteStore], Awaitable[T]]) -> T:
        store = SqliteStore(self._path, StoreLimits(timeout_ms=5000.0))
        try:
            return await work(store)
        finally:
            await store.aclose()


def test_a_corpus_is_indexed_and_a_second_run_finds_nothing_to_do(
    tmp_path: Path, config: Path
) -> None:
    """Counts and speed for people."""
    path = corpus(tmp_path, *GOOD)
    assert "docs: 2 documents (2 new)" in run(path, "--config", str(config))
    assert "docs: 2 documents (2 unchanged)" in run(path, "--config", str(config))


def test_a_corpus_without_rows_is_told(tmp_path: Path, config: Path) -> None:
    """As of a pipe whose other end failed."""
    assert "the corpus has no rows" in run(corpus(tmp_path), "-c", str(config))


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


class TestCache:
    """No answer from before a write outlives it, however the command ends."""

    @pytest.fixture
    def config(self, config: Path, tmp_path: Path) -> Path:
        """The same, with a cache in a file."""
        place = tmp_path / "cache.sqlite"
        config.write_text(f"{config.read_text()}cache: {{store: sqlite, path: {place}}}\n")
        return config

    @pytest.fixture
    def kept(self, tmp_path: Path, config: Path) -> Kept:
        """Two documents in the index, and after them an answer in the cache."""
        run(corpus(tmp_path, *GOOD), "-c", str(config))
        kept = Kept(tmp_path / "cache.sqlite")
        kept.put()
        assert kept.is_there()
        return kept

    def test_a_run_drops_what_was_kept(self, tmp_path: Path, config: Path, kept: Kept) -> None:
        """Nobody says which answers a corpus changes."""
        run(corpus(tmp_path, '{"_id": "c", "text": "three"}'), "-c", str(config))
        assert not kept.is_there()

    def test_so_does_a_second_run(self, tmp_path: Path, config: Path, kept: Kept) -> None:
        """The first one may have been killed when all was written and the cache not told."""
        run(corpus(tmp_path, *GOOD), "-c", str(config))
        assert not kept.is_there()

    def test_so_does_a_run_that_failed(
        self, tmp_path: Path, config: Path, kept: Kept, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Some of it may be in the index."""

        async def breaks(
            self: FakeEncoder, texts: Sequence[str], *, side: Side | None = None
        ) -> FloatArray:
            raise ModelError("out of order")

        monkeypatch.setattr(FakeEncoder, "aencode", breaks)
        with pytest.raises(ModelError):
            run(corpus(tmp_path, '{"_id": "c", "text": "three"}'), "-c", str(config))
        assert not kept.is_there()

    def test_so_does_a_run_that_was_interrupted(
        self, tmp_path: Path, config: Path, kept: Kept, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ctrl-C, which asyncio turns into a cancelled main task, while documents are embedded."""

        async def interrupted(
            self: FakeEncoder, texts: Sequence[str], *, side: Side | None = None
        ) -> FloatArray:
            for task in asyncio.all_tasks():
                task.cancel()
            await asyncio.sleep(30)
            raise AssertionError("it went on")

        monkeypatch.setattr(FakeEncoder, "aencode", interrupted)
        arguments = ["index", corpus(tmp_path, '{"_id": "c", "text": "three"}'), "-c", str(config)]
        with pytest.raises(asyncio.CancelledError):
            CliRunner().invoke(app, arguments)
        assert not kept.is_there()

    def test_a_bad_corpus_drops_nothing(self, tmp_path: Path, config: Path, kept: Kept) -> None:
        """Nothing was written."""
        with pytest.raises(CorpusError):
            run(corpus(tmp_path, '{"_id": "c"}'), "-c", str(config))
        assert kept.is_there()

    def test_a_store_that_cannot_be_told_is_an_error(
        self, tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The documents are written, the command fails and says how to mend it."""
        monkeypatch.setattr("funnel.cli.index._TOLD_S", 0.3)
        monkeypatch.setattr("funnel.cache.semantic._CLOSE_S", 0.1)
        (tmp_path / "cache.sqlite").mkdir()
        arguments = ["index", corpus(tmp_path, *GOOD), "-c", str(config), "--json"]
        result = CliRunner().invoke(app, arguments)
        assert json.loads(result.stdout)["new"] == 2
        assert isinstance(result.exception, CacheError)
        assert "run the same command again" in str(result.exception)


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
