"""The report on an installation: complete whatever is wrong, and without traces of its own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from funnel.cli.app import app
from funnel.doctor import Check, examine, hardware
from funnel.engine import Funnel
from funnel.models.pool import ModelPool
from tests.cache.world import TopicScorer
from tests.evaluation.folders import FakeModels

STAGES = "stages: [{kind: hybrid, k: 3}]\n"


class FakePool(FakeModels):
    """Models for a doctor to look at."""

    def __init__(self) -> None:
        super().__init__()
        self._encoder.choice = "fake"  # type: ignore[attr-defined]

    def scorer(self, name: str) -> TopicScorer:
        return TopicScorer()

    def scorers(self) -> Sequence[Any]:
        return []


@pytest.fixture(autouse=True)
def _fake_models(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = FakePool()
    monkeypatch.setattr(ModelPool, "shared", staticmethod(lambda: pool))
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)


def settings(folder: Path, text: str) -> Path:
    file = folder / "c.yaml"
    file.write_text(text)
    return file


def checks(folder: Path, text: str) -> dict[str, Check]:
    return {check.name: check for check in examine(settings(folder, text))}


@pytest.mark.parametrize("error", [OSError("read-only"), ValueError("odd")])
def test_a_funnel_that_does_not_start_still_gets_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """One failed line with the reason; what depends on it says that it was not tried."""

    def start(self: Funnel) -> Funnel:
        raise error

    monkeypatch.setattr(Funnel, "start", start)
    file = settings(tmp_path, STAGES + "qdrant: ':memory:'\n")
    done = CliRunner().invoke(app, ["doctor", "-c", str(file), "--json"])
    assert done.exit_code == 1
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert str(error) in found["index, models and stages"]["detail"]
    assert {found[name]["status"] for name in ("query", "cache")} == {"skipped"}
    assert "OPENROUTER_API_KEY" in found


def test_an_index_that_cannot_be_reached_is_a_failed_check(tmp_path: Path) -> None:
    """A server that is down, the case the doctor is called for."""
    found = checks(tmp_path, STAGES + "qdrant: {url: 'http://127.0.0.1:9', timeout_ms: 1000}\n")
    assert found["index, models and stages"].status == "fail"
    assert found["query"].status == found["cache"].status == "skipped"


def test_a_collection_that_was_never_indexed_is_told(tmp_path: Path) -> None:
    """A name or a folder that is not the one meant answers every query, with nothing."""
    found = checks(tmp_path, f"collection: typo\n{STAGES}qdrant: {{path: {tmp_path / 'i'}}}\n")
    opened = found["index, models and stages"]
    assert (opened.status, found["query"].status) == ("warn", "ok")
    assert "'typo' holds nothing yet" in opened.detail
    assert "funnel index" in opened.mend


def test_a_broken_cache_file_is_to_be_mended_where_it_is(tmp_path: Path) -> None:
    """Not by starting a server."""
    cache = f"cache: {{store: sqlite, path: {tmp_path}}}\n"
    found = checks(tmp_path, STAGES + "qdrant: ':memory:'\n" + cache)
    assert found["cache"].status == "fail"
    assert f"mend cache.path ({tmp_path})" in found["cache"].mend


@pytest.mark.parametrize(
    ("settings", "status"), [("threshold: 1", "ok"), ("semantic: false", "ok"), ("", "warn")]
)
def test_a_cache_that_serves_exact_hits_only_is_told(
    tmp_path: Path, settings: str, status: str
) -> None:
    """For want of a calibrator of these models, not because it was asked for."""
    found = checks(tmp_path, STAGES + f"qdrant: ':memory:'\ncache: {{store: memory, {settings}}}\n")
    assert found["cache"].status == status, found["cache"]
    assert ("exact hits only" in found["cache"].detail) == (status == "warn")


@pytest.mark.parametrize(("missing", "status"), [([], "ok"), (["openvino"], "warn")])
def test_an_extra_is_advised_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, missing: list[str], status: str
) -> None:
    """Nobody is told to install what is there."""
    monkeypatch.setattr("funnel.doctor.cpu_has_fast_bf16", lambda: False)
    monkeypatch.setattr("funnel.doctor._missing", lambda _: missing)
    found = hardware()
    assert (found.status, "pip install" in found.mend) == (status, bool(missing))


def test_settings_that_keep_tenants_apart_are_examined_under_a_tenant_of_its_own(
    tmp_path: Path,
) -> None:
    """A probe without scope would be refused, and say nothing of the installation."""
    file = settings(tmp_path, STAGES + f"scope_field: tenant\nqdrant: {{path: {tmp_path / 'i'}}}\n")
    with Funnel.from_yaml(file) as funnel:
        funnel.index([{"id": "a", "text": "anybody", "metadata": {"tenant": "one"}}])
    found = {check.name: check for check in examine(file)}
    assert found["query"].status == found["cache"].status == "ok"


@pytest.mark.parametrize("key", [None, " "])
def test_a_stage_without_its_key_fails_and_its_query_is_degraded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    """Without such a stage the key is optional."""
    if key is not None:
        monkeypatch.setenv("OPENROUTER_API_KEY", key)
    where = f"qdrant: {{path: {tmp_path / 'i'}}}\n"
    with Funnel.from_yaml(settings(tmp_path, STAGES + where)) as funnel:
        funnel.index([{"id": name, "text": f"anybody {name}"} for name in "abc"])
    assert checks(tmp_path, STAGES + where)["OPENROUTER_API_KEY"].status == "absent"
    llm = "stages: [{kind: hybrid, k: 3}, {kind: llm_listwise, model: a/b, k: 2}]\n"
    found = checks(tmp_path, llm + where)
    assert found["OPENROUTER_API_KEY"].status == "fail"
    assert "llm_listwise" in found["OPENROUTER_API_KEY"].mend
    assert found["query"].status == "warn"
    assert "llm_listwise:auth" in found["query"].detail


def test_the_cache_probe_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's store holds after it what it held before."""
    asked: list[tuple[str, str | None]] = []
    forget = Funnel.forget_cached

    def forget_cached(self: Funnel, query: str, *, scope: str | None = None) -> bool:
        asked.append((query, scope))
        found = forget(self, query, scope=scope)
        assert found
        assert not forget(self, query, scope=scope)
        return found

    monkeypatch.setattr(Funnel, "forget_cached", forget_cached)
    where = f"qdrant: {{path: {tmp_path / 'i'}}}\n"
    with Funnel.from_yaml(settings(tmp_path, STAGES + where)) as funnel:
        funnel.index([{"id": "a", "text": "is the cache there?"}])
    found = checks(tmp_path, STAGES + where + "cache: {store: memory, threshold: 1}\n")
    assert found["cache"].status == "ok", found["cache"]
    assert asked == [("is the cache there?", "funnel-doctor")]
