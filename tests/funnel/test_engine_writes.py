"""Writes through a funnel, and that the cache hears of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from funnel import Funnel
from funnel.cache.null import NullCache
from funnel.cache.semantic import SemanticCache
from funnel.cache.settings import CacheSettings
from funnel.cache.store_sqlite import SqliteStore
from funnel.errors import ConfigError
from funnel.models.base import Side
from funnel.types import Candidate
from tests.cache.world import TopicScorer
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
    "change", [{"encoder": FakeEncoder("fake:other", dim=32, revision="2")}, {"bm25": {"k1": 1.2}}]
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
        async def aencode(self, texts: Sequence[str], *, side: Side | None = None) -> FloatArray:
            if any("broken" in text for text in texts):
                raise RuntimeError("out of order")
            return await super().aencode(texts, side=side)

    watcher = Watcher()
    with make(BreaksOnSecond(), cache=watcher) as funnel:
        funnel.index(CORPUS)
        with pytest.raises(Exception, match="out of order"):
            funnel.index([{"id": "new", "text": "a broken document"}])
    assert watcher.told == 2


def test_indexes_of_one_name_share_no_answers(tmp_path: Path) -> None:
    """Two deployments on one cache: each is answered from its own documents."""
    for place, corpus in {"one": CORPUS, "other": [{"id": "z", "text": "password"}]}.items():
        with make(qdrant={"path": str(tmp_path / place)}) as made:
            made.index(corpus)

    def opened(place: str) -> Funnel:
        path = tmp_path / "cache.sqlite"
        kept = CacheSettings(store="sqlite", path=path, semantic=False)
        store = SqliteStore(path, kept.limits)
        cache = SemanticCache(kept, store, FakeEncoder(), TopicScorer())
        return make(
            cache=cache, qdrant=":memory:" if place == "none" else {"path": str(tmp_path / place)}
        )

    with opened("one") as one:
        ids = one.run("password").ids
    with opened("one") as one:
        again = one.run("password")
        assert (again.cache.status, again.ids) == ("hit", ids)
    for place, expected in {"other": ("z",), "none": ()}.items():
        with opened(place) as other:
            assert other.run("password").ids == expected


def test_a_changed_function_is_asked_again(tmp_path: Path) -> None:
    """What is kept under its name was ranked by the old one."""
    kept = CacheSettings(store="sqlite", path=tmp_path / "cache.sqlite", semantic=False)

    def last_first(query: str, candidates: Sequence[Candidate]) -> list[float]:
        return [float(number) for number in range(len(candidates))]

    def as_they_are(query: str, candidates: Sequence[Candidate]) -> list[float]:
        return [-float(number) for number in range(len(candidates))]

    place = {"path": str(tmp_path / "index")}
    with make(qdrant=place) as made:
        made.index(CORPUS)
    found = []
    for function in (last_first, as_they_are, as_they_are):
        store = SqliteStore(tmp_path / "cache.sqlite", kept.limits)
        cache = SemanticCache(kept, store, FakeEncoder(), TopicScorer())
        with make(cache=cache, function=function, qdrant=place) as funnel:
            result = funnel.run("password")
            found.append((result.cache.status, result.ids))
    assert [status for status, _ in found] == ["miss", "miss", "hit"]
    assert found[0][1] != found[1][1] == found[2][1]
