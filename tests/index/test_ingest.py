"""How windows of documents pass through embedding and storing."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from funnel.errors import ModelError
from funnel.index import DocumentIndex
from funnel.indexing.qdrant import QdrantSettings
from funnel.models.base import Side
from tests.fakes import FakeEncoder, FloatArray

DOCUMENTS = [{"id": str(n), "text": f"document number {n}"} for n in range(12)]


class Paired(FakeEncoder):
    """Each odd window's embedding ends only after the next window's has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0
        self.changed = asyncio.Condition()

    async def aencode(self, texts: Sequence[str], *, side: Side | None = None) -> FloatArray:
        async with self.changed:
            self.begun += 1
            mine = self.begun
            self.changed.notify_all()
            if mine % 2:
                await asyncio.wait_for(self.changed.wait_for(lambda: self.begun > mine), 10)
        return self.encode(texts)


class Failing(FakeEncoder):
    """Fails on the text of one document; the window after it is slow."""

    async def aencode(self, texts: Sequence[str], *, side: Side | None = None) -> FloatArray:
        if any(text.endswith(" 5") for text in texts):
            raise ModelError("window 2 cannot be embedded")
        if any(text.endswith(" 8") for text in texts):
            await asyncio.sleep(30)
        return self.encode(texts)


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("funnel.indexing.update.WINDOW", 3)


async def opened(encoder: FakeEncoder) -> tuple[DocumentIndex, list[str]]:
    """A started index in memory, and the ids of the points in the order they are stored."""
    index = DocumentIndex(QdrantSettings(), "docs", encoder)
    await index.start()
    stored: list[str] = []
    write = index._backend.write

    async def watched(method: str, **arguments: Any) -> Any:
        if method == "upsert":
            stored.extend(point.payload["id"] for point in arguments["points"])
        return await write(method, **arguments)

    index._backend.write = watched  # type: ignore[method-assign]
    return index, stored


async def test_a_window_is_begun_while_the_one_before_is_embedded() -> None:
    """The model never waits for tokenising or storing, and windows are stored in their order."""
    index, stored = await opened(Paired())
    report = await index.upsert(DOCUMENTS)
    assert report.new == 12
    assert stored == [document["id"] for document in DOCUMENTS]
    await index.aclose()


async def test_documents_are_read_as_documents() -> None:
    """As a whole and token by token, of an encoder that tells queries from documents."""
    encoder = FakeEncoder()
    index = DocumentIndex(QdrantSettings(token_vectors=True), "docs", encoder)
    await index.start()
    await index.upsert(DOCUMENTS[:2])
    assert encoder.sides == ["document"] * 4
    await index.aclose()


async def test_a_failing_window_stops_the_run_and_keeps_those_before() -> None:
    """Its own error is raised at once, and a second run writes what is missing."""
    index, stored = await opened(Failing())
    with pytest.raises(ModelError, match="window 2"):
        await asyncio.wait_for(index.upsert(DOCUMENTS), 10)
    assert stored == ["0", "1", "2"]
    index._updates._writer._encoder = FakeEncoder()
    report = await index.upsert(DOCUMENTS)
    assert (report.new, report.unchanged, report.documents) == (9, 3, 12)
    await index.aclose()
