"""Where the index can be: each test of the contract runs on all of them."""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from funnel.index import DocumentIndex
from funnel.indexing.qdrant import QdrantSettings
from tests.fakes import FakeEncoder
from tests.index.loopback import serving

PLACES = ["memory", "path", "loopback", "server"]
DOCUMENTS: list[dict[str, Any]] = [
    {
        "id": f"d{n}",
        "title": f"Fox {n}",
        "text": f"the quick brown fox number{n} jumps over {'lazy dogs' if n % 2 else 'cats'}",
        "metadata": {"lang": "en" if n % 2 else "de", "year": 1990 + n, "draft": n == 3},
    }
    for n in range(12)
]


@pytest.fixture(params=PLACES)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QdrantSettings]:
    """Memory, a directory, a loopback server, and a real one when QDRANT_URL names it."""
    if request.param == "memory":
        yield QdrantSettings()
    elif request.param == "path":
        yield QdrantSettings(path=str(tmp_path / "index"))
    elif request.param == "loopback":
        with serving() as loopback:
            yield QdrantSettings(url=loopback.url)
    elif url := os.environ.get("QDRANT_URL"):
        yield QdrantSettings(url=url)
    else:
        pytest.skip("QDRANT_URL names no server")


class Opener:
    """Makes started indexes and closes them in the end; collections get names of their own."""

    def __init__(self, settings: QdrantSettings, stack: AsyncExitStack) -> None:
        self.settings = settings
        self._stack = stack
        self._suffix = uuid.uuid4().hex[:8]

    def make(self, name: str = "docs", **options: Any) -> DocumentIndex:
        encoder = options.pop("encoder", None) or FakeEncoder()
        settings = self.settings.model_copy(update=options.pop("qdrant", {}))
        index = DocumentIndex(settings, f"{name}-{self._suffix}", encoder, **options)
        self._stack.push_async_callback(index.aclose)
        return index

    async def __call__(self, name: str = "docs", **options: Any) -> DocumentIndex:
        index = self.make(name, **options)
        await index.start()
        return index

    async def clean_up(self) -> None:
        if self.settings.url is None:
            return
        from qdrant_client import AsyncQdrantClient

        client = AsyncQdrantClient(url=self.settings.url, check_compatibility=False)
        for collection in (await client.get_collections()).collections:
            if f"-{self._suffix}--" in collection.name:
                await client.delete_collection(collection.name)
        await client.close()


@pytest.fixture
async def opened(settings: QdrantSettings) -> AsyncIterator[Opener]:
    """Opens indexes at the place under test."""
    async with AsyncExitStack() as stack:
        opener = Opener(settings, stack)
        yield opener
    await opener.clean_up()


@pytest.fixture
async def memory() -> AsyncIterator[DocumentIndex]:
    """A started index in memory, without documents."""
    index = DocumentIndex(QdrantSettings(), "docs", FakeEncoder())
    await index.start()
    yield index
    await index.aclose()
