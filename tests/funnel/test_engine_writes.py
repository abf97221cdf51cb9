"""Writes through a funnel, and that the cache hears of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from funnel import Funnel
from funnel.cache.null import NullCache
from funnel.errors import ConfigError
from tests.fakes import FakeEncoder, FloatArray
from tests.funnel.funnels import CORPUS, make


@pytest.fixture
def funnel() -> Iterator[Funnel]:
    with make() as made:
        made.index(CORPUS)
        yield made


def test_deleted_documents_are_gone(funnel: Funnel) -> None:
    """Delete says how many there were."""
    assert funnel.delete(["reset", "nobody"]) == 1
    assert "reset" not in funnel.run("reset password", k=10).ids


def test_a_rebuild_replaces_all_documents(funnel: Funnel) -> None:
    """What is not in the new corpus is gone."""
    funnel.index([{"id": "only", "text": "the only password document"}], rebuild=True)
    assert funnel.run("password", k=10).ids == ("only",)


@pytest.mark.parametrize(
    "change", [{"encoder": FakeEncoder("fake:other", dim=32)}, {"bm25": {"k1": 1.2}}]
)
def test_a_rebuild_works_where_start_refuses(tmp_path: Path, change: dict[str, Any]) -> None:
    """Other settings than the collection's are what it is for; the cache is told of it."""
    seen: list[str] = []

    class Watcher(NullCache):
        async def start(self) -> None:
            seen.append("start")

        async def documents_changed(self, **_: Any) -> None:
            seen.append("told")

    place = {"path": str(tmp_path / "index")}
    with make(qdrant=place) as old:
        old.index(CORPUS)
    with make(qdrant=place, cache=Watcher(), **change) as new:
        with pytest.raises(ConfigError, match="--rebuild"):
            new.index(CORPUS)
        assert new.index(CORPUS[:2], rebuild=True).rebuilt
        assert seen[:2] == ["start", "told"]
        assert set(new.run("password", k=10).ids) == {"reset", "change"}


def test_a_broken_write_still_clears_the_cache() -> None:
    """Whatever part of it was written, no kept answer outlives it."""

    class Watcher(NullCache):
        told = 0

        async def documents_changed(self, **_: Any) -> None:
            self.told += 1

    class BreaksOnSecond(FakeEncoder):
        async def aencode(self, texts: Sequence[str]) -> FloatArray:
            if any("broken" in text for text in texts):
                raise RuntimeError("out of order")
            return await super().aencode(texts)

    watcher = Watcher()
    with make(BreaksOnSecond(), cache=watcher) as funnel:
        funnel.index(CORPUS)
        with pytest.raises(Exception, match="out of order"):
            funnel.index([{"id": "new", "text": "a broken document"}])
    assert watcher.told == 2
