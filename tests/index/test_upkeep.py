"""Statistics that survive a kill, and requests that a server accepts."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from funnel.index import DocumentIndex
from funnel.indexing.qdrant import QdrantSettings
from tests.fakes import FakeEncoder
from tests.index.conftest import DOCUMENTS

LIMIT = 100_000


def watched(index: DocumentIndex) -> list[tuple[str, int, int]]:
    """Method, items and bytes of each request with points that the index makes from now on."""
    seen: list[tuple[str, int, int]] = []
    write = index._backend.write

    async def watching(method: str, **arguments: Any) -> Any:
        items = arguments.get("points") or arguments.get("update_operations") or []
        if items:
            size = sum(len(json.dumps(item.model_dump(exclude_none=True))) for item in items)
            seen.append((method, len(items), size))
        return await write(method, **arguments)

    index._backend.write = watching  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize("again", [True, False])
async def test_a_killed_delete_leaves_statistics_to_be_counted_anew(
    memory: DocumentIndex, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """By the same delete, which finds nothing left to delete, or by another write."""
    await memory.upsert(DOCUMENTS)
    epoch, write = await memory.epoch(), memory._backend.write

    async def dying(method: str, **arguments: Any) -> Any:
        answer = await write(method, **arguments)
        if method == "delete":
            raise RuntimeError("killed")
        return answer

    doomed = [document["id"] for document in DOCUMENTS[:5]]
    with monkeypatch.context() as patch:
        patch.setattr(memory._backend, "write", dying)
        with pytest.raises(RuntimeError, match="killed"):
            await memory.delete(doomed)
    if again:
        assert await memory.delete(doomed) == 0
    else:
        assert (await memory.upsert([{"id": "new", "text": "fox"}])).new == 1
    assert await memory.epoch() > epoch
    state = await memory._live.refresh()
    assert state is not None
    assert not state.writing
    assert state.documents == await memory.count() == (7 if again else 8)


async def test_a_rebuild_killed_after_pruning_is_counted_anew(
    memory: DocumentIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its predecessor dropped uncounted is not counted for ever."""

    async def dying(*_: Any) -> Any:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(memory._updates._upkeep, "prune", dying)
        with pytest.raises(RuntimeError):
            await memory.rebuild(DOCUMENTS)
    with monkeypatch.context() as patch:
        patch.setattr(memory._updates._upkeep, "recounted", dying)
        with pytest.raises(RuntimeError):
            await memory.rebuild(DOCUMENTS[:8])
    report = await memory.rebuild(DOCUMENTS[:8])
    assert report.documents == await memory.count() == 8


SHORT = [{"id": f"s{n}", "text": f"fox {'fox ' * (n % 3)}word{n}"} for n in range(20)]
LONG = [
    {"id": f"l{n}", "text": "fox " + " ".join(f"z{n}y{m}" for m in range(40))} for n in range(12)
]


async def scored(index: DocumentIndex) -> dict[str, float]:
    found = await index.search(terms="fox", k=100)
    return {item.document.id: item.score for item in found.bm25}


@pytest.mark.parametrize("moved", range(4))
@pytest.mark.parametrize("then", ["again", "undone", "rebuild"])
async def test_a_killed_re_weighing_is_finished_by_the_next_write(
    monkeypatch: pytest.MonkeyPatch, moved: int, then: str
) -> None:
    """As in a fresh index, wherever it was killed, also if the average length is back by then."""
    monkeypatch.setattr("funnel.indexing.batches.BATCH_POINTS", 8)
    index, fresh = (DocumentIndex(QdrantSettings(), "docs", FakeEncoder()) for _ in range(2))
    await index.start()
    await fresh.start()
    if then != "rebuild":
        await index.upsert(SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(index._backend, "write", killed_after(index, moved, patch))
        with pytest.raises(RuntimeError, match="killed"):
            await (index.rebuild if then == "rebuild" else index.upsert)(SHORT + LONG)
    if then == "undone":
        await index.delete([document["id"] for document in LONG])
    elif then == "rebuild":
        await index.rebuild(SHORT)
    else:
        await index.upsert(SHORT + LONG)
    await fresh.upsert(SHORT + LONG if then == "again" else SHORT)
    assert await scored(index) == pytest.approx(await scored(fresh), rel=1e-5)
    state = await index._live.refresh()
    assert state is not None
    assert not (state.writing or state.weighing)
    await index.aclose()
    await fresh.aclose()


def killed_after(index: DocumentIndex, batches: int, patch: pytest.MonkeyPatch) -> Any:
    """A ``write`` that fails for good after so many batches of moved weights."""
    write, left = index._backend.write, batches
    if (
        index._live.state is None
    ):  # a rebuild weighs with its own average: let it believe in another
        patch.setattr("funnel.indexing.spool.Spool.average_length", 2.0)

    async def dying(method: str, **arguments: Any) -> Any:
        nonlocal left
        if method == "update_vectors":
            if not left:
                raise RuntimeError("killed")
            left -= 1
        return await write(method, **arguments)

    return dying


async def test_what_was_searched_while_weights_moved_is_not_taken_for_current(
    memory: DocumentIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The epoch grows once more: answers of that time were scored by old and new weights."""
    await memory.upsert(SHORT)
    epochs: list[int] = []
    reweigh = memory._updates._upkeep._reweigh

    async def noting(*arguments: Any) -> None:
        await reweigh(*arguments)
        found = await memory._updates._catalogue.live_state(memory._backend.call)
        epochs.append(found[1].epoch if found else 0)

    monkeypatch.setattr(memory._updates._upkeep, "_reweigh", noting)
    await memory.upsert(LONG)
    assert epochs
    assert await memory.epoch() > epochs[0]


@pytest.mark.parametrize("change", ["metadata", "nothing"])
async def test_documents_that_are_counted_otherwise_now_are_stored_anew(
    memory: DocumentIndex, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """An older version split words at marks: its weights must not get the new length."""
    documents = [{"id": f"h{n}", "text": f"हिन्दी में खोज {n} हिन्दी"} for n in range(4)]
    with monkeypatch.context() as patch:
        patch.setattr("funnel.indexing.terms._NEAR_MARKS", re.compile(r"(?!)"))
        await memory.upsert(documents)
    if change == "metadata":
        documents = [{**document, "metadata": {"v": 1}} for document in documents]  # type: ignore[dict-item]
    assert (await memory.upsert(documents)).replaced == 4
    fresh = DocumentIndex(QdrantSettings(), "docs", FakeEncoder())
    await fresh.start()
    await fresh.upsert(documents)
    found, expected = [
        {item.document.id: item.score for item in (await index.search(terms="हिन्दी")).bm25}
        for index in (memory, fresh)
    ]
    assert found == pytest.approx(expected, rel=1e-5)
    assert expected
    assert (await memory.upsert(documents)).unchanged == 4
    await fresh.aclose()


async def test_a_write_that_an_older_version_was_killed_in_has_all_weights_computed_anew(
    memory: DocumentIndex,
) -> None:
    """Its state does not say whether some were moved."""
    await memory.upsert(SHORT)
    target = await memory._updates._catalogue.live(memory._backend.call)
    state = await memory._live.refresh()
    assert target
    assert state is not None
    stored = state.metadata()["funnel"] | {"writing": True}
    del stored["weighing"]
    await memory._backend.write(
        "update_collection", collection_name=target, metadata={"funnel": stored}
    )
    before = await scored(memory)
    await memory._updates._upkeep._reweigh(
        target, replace(state, total_length=100 * state.total_length)
    )
    assert await scored(memory) != pytest.approx(before, rel=1e-5)
    assert (await memory.upsert(SHORT)).unchanged == len(SHORT)
    assert await scored(memory) == pytest.approx(before, rel=1e-5)


async def test_moved_weights_are_sent_in_requests_that_fit(
    memory: DocumentIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their bytes, not only by their number."""
    monkeypatch.setattr("funnel.indexing.batches.BATCH_BYTES", LIMIT // 2)
    words = " ".join(f"word{n}" for n in range(300))
    await memory.upsert([{"id": f"long{n}", "text": f"{n} {words}"} for n in range(40)])
    seen = watched(memory)
    await memory.upsert([{"id": f"short{n}", "text": f"fox {n}"} for n in range(300)])
    moved = [(items, size) for method, items, size in seen if method == "update_vectors"]
    assert sum(items for items, _ in moved) == 340
    assert max(size for _, size in moved) < LIMIT


@pytest.mark.parametrize("part", ["text", "title", "metadata"])
async def test_changed_metadata_is_sent_in_requests_that_fit(
    memory: DocumentIndex, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Title and metadata count as the text does, when documents are new and when they change."""
    monkeypatch.setattr("funnel.indexing.batches.BATCH_BYTES", LIMIT // 2)
    long = "x" * 9_000
    documents = [
        {
            "id": f"d{n}",
            "title": long if part == "title" else "",
            "text": long if part == "text" else "fox",
            "metadata": {"body": long if part == "metadata" else ""},
        }
        for n in range(40)
    ]
    seen = watched(memory)
    await memory.upsert(documents)
    assert sum(items for _, items, _ in seen) == 40
    changed = [{**document, "metadata": {**document["metadata"], "v": 1}} for document in documents]  # type: ignore[dict-item]
    assert (await memory.upsert(changed)).metadata_only == 40
    assert sum(items for method, items, _ in seen if method == "batch_update_points") == 40
    assert max(size for _, _, size in seen) < LIMIT
