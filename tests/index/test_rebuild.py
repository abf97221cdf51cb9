"""Which collections a rebuild may take over or remove, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest

from funnel.errors import InputError
from funnel.index import DocumentIndex
from funnel.indexing.qdrant import QdrantSettings
from tests.fakes import FakeEncoder
from tests.index.conftest import DOCUMENTS


def beside(path: Path, name: str, **options: Any) -> DocumentIndex:
    encoder = FakeEncoder(**options)
    return DocumentIndex(QdrantSettings(path=str(path)), name, encoder)


@pytest.mark.parametrize("name", ["docs--en", "docs--2024", "docs--0123456789abc"])
@pytest.mark.parametrize("dim", [64, 32])
async def test_a_rebuild_leaves_other_collections_alone(
    tmp_path: Path, name: str, dim: int
) -> None:
    """Also one whose name begins as this one's builds do, of the same embedder or another."""
    other = beside(tmp_path, name, dim=dim)
    await other.start()
    await other.upsert(DOCUMENTS)
    await other.aclose()
    index = beside(tmp_path, "docs")
    await index.rebuild([{"id": "only", "text": "another corpus"}])
    await index.aclose()
    other = beside(tmp_path, name, dim=dim)
    await other.start()
    assert await other.count() == len(DOCUMENTS)
    await other.aclose()


async def test_a_rebuild_does_not_continue_what_was_complete(memory: DocumentIndex) -> None:
    """A collection that lost its alias was live once; it is removed, not taken for a build."""
    from qdrant_client import models

    await memory.upsert(DOCUMENTS)
    old = await memory._updates._catalogue.live(memory._backend.write)
    gone = models.DeleteAlias(alias_name="docs")
    await memory._backend.write(
        "update_collection_aliases",
        change_aliases_operations=[models.DeleteAliasOperation(delete_alias=gone)],
    )
    report = await memory.rebuild(DOCUMENTS)
    assert (report.new, report.unchanged) == (len(DOCUMENTS), 0)
    answer = await memory._backend.call("get_collections")
    assert old not in [collection.name for collection in answer.collections]


@pytest.mark.parametrize("killed", [True, False])
async def test_a_killed_rebuild_is_not_continued_with_other_vectors(
    tmp_path: Path, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was stored with dense vectors is stored anew without them, and the other way round."""

    def index(*, dense: bool) -> DocumentIndex:
        settings = QdrantSettings(path=str(tmp_path), dense_vectors=dense)
        return DocumentIndex(settings, "docs", FakeEncoder())

    async def dying(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    first = index(dense=killed)
    with monkeypatch.context() as patch:
        patch.setattr(first._updates._upkeep, "prune", dying)
        with pytest.raises(RuntimeError, match="killed"):
            await first.rebuild(DOCUMENTS)
    await first.aclose()
    second = index(dense=not killed)
    report = await second.rebuild(DOCUMENTS)
    await second.aclose()
    assert (report.new, report.unchanged) == (len(DOCUMENTS), 0)


@pytest.mark.parametrize("rows", [[], [{"idx": 1}, {"id": "x"}]])
async def test_a_rebuild_of_no_good_document_is_refused(
    memory: DocumentIndex, rows: list[dict[str, Any]]
) -> None:
    """An exhausted generator, or rows that are all bad, do not empty what is searched."""
    await memory.upsert(DOCUMENTS)
    with pytest.raises(InputError, match=f"no good document in {len(rows)} rows.*delete the doc"):
        await memory.rebuild(iter(rows), on_bad="skip")
    assert await memory.count() == len(DOCUMENTS)


@pytest.mark.parametrize("method", ["upsert", "rebuild"])
async def test_a_misspelt_on_bad_is_refused(memory: DocumentIndex, method: str) -> None:
    """It must not be taken for leave to skip."""
    with pytest.raises(InputError, match="on_bad: got 'raise', expected 'fail' or 'skip'"):
        await getattr(memory, method)([DOCUMENTS[0], {"id": "x"}], on_bad="raise")
    assert await memory.count() == 0
